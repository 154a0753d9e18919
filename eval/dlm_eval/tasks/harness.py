"""Define the model `dlm` of lm-evaluation-harness: any denoiser, any sampler, any bound.

    import dlm_eval.tasks.harness  # registers it
    lm_eval.simple_evaluate(model="dlm", model_args="pretrained=GSAI-ML/LLaDA-8B-Base,steps=256")
    lm_eval.simple_evaluate(model=DiffusionLM(denoiser, sampler="llada"))

The command of the harness with the model registered:

    python -m dlm_eval.tasks.harness --model dlm --model_args pretrained=... --tasks ...

A log-likelihood is the estimate of its bound, `dlm_sampling.elbo` (or `uniform_elbo`), of the
continuation's tokens given the context's.  Needs `pip install "dlm-sampling[lm-eval]"`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from torch import Tensor

from dlm_eval.likelihood.documents import Document
from dlm_eval.likelihood.protocols import Protocol
from dlm_eval.likelihood.run import nats_of
from dlm_eval.likelihood.windows import cut, encode, encode_pair
from dlm_eval.tasks.answers import Answers
from dlm_sampling import AutoDenoiser, Denoiser, generate
from dlm_sampling.cli import end
from dlm_sampling.errors import check_whole
from dlm_sampling.jobs import (
    BlockRequest,
    GenerateOptions,
    LawOptions,
    contents_digest,
    in_parts,
    prepare,
    rank_of,
)
from dlm_sampling.ops import row_seeds

NEW_TOKENS = 256
DEFAULT_DEVICE = "cuda:0"
"""What the command of the harness passes where no device was asked for."""
SET = "set_"
_LOG = logging.getLogger(__name__)


@register_model("dlm")
class DiffusionLM(TemplateLM):
    """Answer the requests of lm-evaluation-harness with a diffusion language model.

    Args:
        pretrained: a denoiser, or a name or folder for `AutoDenoiser.from_pretrained`.
        scheme: masks of the likelihood bound; see `dlm_sampling.elbo`.
        masks: masks per request; 128 is LLaDA's number.
        length: maximum tokens of a request, also of a rolling window; default the model's.
        greedy: whether log-likelihood requests also ask if greedy decoding writes the continuation,
            one pass per token; else the harness is told no.
        sampler: name of the sampler; default the model's own.
        steps: planned steps; default one per new token.
        max_new_tokens: tokens of the canvas; default the task's number, else 256.
        block_length: blocks from left to right.
        temperature: default the sampler's own; tasks do not change it.
        top_p: keep the head with this mass.
        seed: from which the seed of each request is made.
        batch_size: rows per forward pass, halved where they do not fit into memory.
        max_batch_size: passed by the harness; not used.
        device: cpu, cuda, cuda:1, auto; the harness's default, cuda:0, is the CPU with a warning
            where there is no GPU.
        dtype: float32, bfloat16, auto.
        trust_remote_code: whether the checkpoint's own Python code may run.
        revision: commit on the hub.
        journal: folder that keeps finished answers, from which a killed run goes on; several
            processes (DLM_SHARD=i/n, torchrun, accelerate) need one to share the requests.
        blanks: answer requests of other processes that are still at work with nothing, and count
            them in `missing`; else `OthersAtWork` is raised.
        parameters: `set_NAME=value` is the sampler's parameter NAME.

    Raises:
        TypeError: an argument does not exist.
    """

    def __init__(
        self,
        pretrained: str | Denoiser,
        *,
        scheme: str = "stratified",
        masks: int = 128,
        length: int | None = None,
        greedy: bool = False,
        sampler: str | None = None,
        steps: int | None = None,
        max_new_tokens: int | None = None,
        block_length: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int = 0,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        trust_remote_code: bool = False,
        revision: str | None = None,
        journal: str | Path | None = None,
        blanks: bool = False,
        **parameters: Any,
    ) -> None:
        super().__init__()
        check_whole("masks", masks)
        check_whole("length", length, optional=True)
        rank = rank_of(os.environ)
        unknown = [name for name in parameters if not name.startswith(SET)]
        if unknown:
            raise TypeError(
                f"{unknown[0]}: no argument of the model dlm; a parameter of the sampler is "
                f"{SET}{unknown[0]}=..."
            )
        self.denoiser = (
            pretrained
            if isinstance(pretrained, Denoiser)
            else AutoDenoiser.from_pretrained(
                pretrained,
                dtype=dtype,
                device_map=rank.device(_present(device)),
                trust_remote_code=trust_remote_code,
                revision=revision,
            )
        )
        if self.denoiser.tokenizer is None:
            raise TypeError(f"pretrained={pretrained!r}: the model has no tokenizer.")
        self.tokenizer = self.denoiser.tokenizer
        self.protocol = Protocol(
            scheme=scheme, masks=masks, length=length or self.denoiser.max_length or 4096, end=False
        )
        self.greedy = greedy
        self.max_new_tokens = max_new_tokens
        self.seed = seed
        self.batch_size = 1 if isinstance(batch_size, str) else int(batch_size)
        self.settings: dict[str, Any] = {
            "sampler": sampler,
            "sampler_options": {name.removeprefix(SET): v for name, v in parameters.items()}
            or None,
            "steps": steps,
            "block_length": block_length,
            "temperature": temperature,
            "top_p": top_p,
        }
        self.weights: dict[str, Any] = {
            "revision": revision,
            "weights": contents_digest(self.denoiser),
            "dtype": str(self.denoiser.dtype),
        }
        facts = {**self.get_model_info(), **self.weights, "greedy": greedy}
        facts["model"] = pretrained if isinstance(pretrained, str) else "a denoiser"
        folder = None if journal is None else Path(journal)
        self._answers = Answers(folder, facts, rank, blanks=blanks)
        self._fitting: int | None = None  # rows that fit into memory, once a batch did not

    @property
    def eot_token_id(self) -> int:
        """Return the end-of-text id."""
        return self.tokenizer.eos_token_id

    @property
    def tokenizer_name(self) -> str:
        """Return the name by which the harness keeps prompts of one chat template apart."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Return the facts that the harness writes beside its results."""
        return {**asdict(self.protocol), **self.settings, "seed": self.seed}

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the ids of a text; special tokens only where they are asked for."""
        if not add_special_tokens:
            return encode(self.tokenizer, string)
        return self.tokenizer(string)["input_ids"]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a chat as the text of its prompt."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return the bound of each continuation given its context, and whether it is greedy."""
        pairs = [encode_pair(self.tokenizer, *request.args) for request in requests]
        return self._score(pairs, disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        return self._score([(context, rest) for _, context, rest in requests], disable_tqdm)

    def _score(
        self, pairs: Sequence[tuple[list[int], list[int]]], quiet: bool
    ) -> list[tuple[float, bool]]:
        """Score continuations; rows of one length share a pass, so that nothing is padded."""
        seeds, size = row_seeds(self.seed, len(pairs)), self.protocol.length
        texts = [[*context, *rest][-size:] for context, rest in pairs]
        asked = [
            [text, len(rest), seed]
            for text, (_, rest), seed in zip(texts, pairs, seeds, strict=True)
        ]

        def answer(some: list[int]) -> list[tuple[float, bool]]:
            tokens = torch.tensor([texts[i] for i in some])
            scored = torch.zeros_like(tokens, dtype=torch.bool)
            for row, i in enumerate(some):
                scored[row, max(tokens.shape[1] - len(pairs[i][1]), 0) :] = True
            own, rows = [seeds[i] for i in some], [pairs[i] for i in some]
            return self._in_parts(len(some), partial(self._read, rows, tokens, scored, own))

        batches = self._batches(list(map(len, texts)))
        found = self._answers.ask(asked, batches, answer, title="bounds", quiet=quiet)
        return [(0.0, False) if one is None else (one[0], one[1]) for one in found]

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return the indices of each batch, whose rows are of one length."""
        groups: dict[int, list[int]] = {}
        for i, length in enumerate(lengths):
            groups.setdefault(length, []).append(i)
        return [
            same[first : first + self.batch_size]
            for same in groups.values()
            for first in range(0, len(same), self.batch_size)
        ]

    def resolved(self) -> dict[str, Any]:
        """Return the sampler that writes texts, with all its fields, its law and its blocks."""
        given = self.settings
        options = GenerateOptions(
            sampler=given["sampler"],
            sampler_options=given["sampler_options"],
            max_new_tokens=1,
            blocks=BlockRequest(given["block_length"], given["steps"]),
            law=LawOptions(temperature=given["temperature"], top_p=given["top_p"]),
            seed=0,
        )
        request = prepare(self.denoiser, None, options).request
        return {
            "sampler": repr(request.sampler),
            "law": repr(request.law),
            "blocks": asdict(request.blocks),
            "eos": "stop",
        }

    @property
    def missing(self) -> int:
        """Return how many requests other processes have not answered; see `blanks`."""
        return self._answers.missing

    def _in_parts(self, rows: int, run: Callable[[int, int], list[Any]]) -> list[Any]:
        """Run the rows of a batch together, or fewer at a time where they do not fit."""

        def remember(fitting: int) -> None:
            self._fitting = fitting

        parts = in_parts(rows, self._fitting, run, remember)
        return [answer for _, part in parts for answer in part]

    def _read(
        self,
        pairs: Sequence[tuple[list[int], list[int]]],
        tokens: Tensor,
        scored: Tensor,
        seeds: list[int],
        first: int,
        last: int,
    ) -> list[tuple[float, bool]]:
        """Score the continuations of rows `first` to `last` - 1 of a batch."""
        rows = slice(first, last)
        values = nats_of(self.denoiser, tokens[rows], scored[rows], self.protocol, seeds[rows])
        return [
            (-value.nats, self.greedy and self._is_greedy(*pair))
            for pair, value in zip(pairs[rows], values, strict=True)
        ]

    def _is_greedy(self, context: list[int], rest: list[int]) -> bool:
        """Whether writing the most confident token, one per pass, gives the continuation."""
        out = generate(
            self.denoiser, [context], sampler="llada", max_new_tokens=len(rest), temperature=0.0,
            eos="keep", seed=0, progress=False,
        )  # fmt: skip
        return out.token_ids[0][: len(rest)] == rest

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the bound of each text, the sum over windows that are scored by themselves."""
        texts = [Document(str(i), request.args[0]) for i, request in enumerate(requests)]
        windows = cut(texts, self.tokenizer, self.protocol)
        totals = [0.0] * len(texts)
        values = self._score([([], list(window.ids)) for window in windows], disable_tqdm)
        for window, (value, _) in zip(windows, values, strict=True):
            totals[window.document] += value
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text that follows each context, up to the first of its stop strings.

        Rows of one canvas share a pass, so that a text does not depend on its batch.
        """
        seeds = row_seeds(self.seed, len(requests))
        lengths = [self._asked(request) for request in requests]
        prompts = [self._prompt(r.args[0], new) for r, new in zip(requests, lengths, strict=True)]
        stops = [_stops(request) for request in requests]
        asked = list(zip(prompts, lengths, stops, seeds, strict=True))

        def answer(some: list[int]) -> list[str]:
            given = [prompts[i] for i in some], lengths[some[0]], [stops[i] for i in some]
            write = partial(self._write, *given, [seeds[i] for i in some])
            return self._in_parts(len(some), write)

        batches = self._batches(lengths)
        found = self._answers.ask(asked, batches, answer, title="texts", quiet=disable_tqdm)
        return [text or "" for text in found]

    def _write(
        self,
        prompts: list[Any],
        asked: int,
        stops: list[list[str]],
        seeds: list[int],
        first: int,
        last: int,
    ) -> list[str]:
        """Generate the texts of rows `first` to `last` - 1 of a batch."""
        rows = slice(first, last)
        out = generate(
            self.denoiser, prompts[rows], max_new_tokens=asked, stop=stops[rows],
            seed=seeds[rows], eos="stop", progress=False, **self.settings,
        )  # fmt: skip
        assert out.texts is not None
        return out.texts

    def _asked(self, request: Instance) -> int:
        """Return the new tokens of a request."""
        given = request.args[1].get("max_gen_toks") or NEW_TOKENS
        return self.max_new_tokens or int(given)

    def _prompt(self, text: str, new: int) -> str | list[int]:
        """Return a prompt that fits before `new` tokens: its last tokens if it is too long."""
        context = self.denoiser.max_length
        if context is None:
            return text
        ids = self.tok_encode(text)
        if len(ids) + new < context:
            return text
        if new >= context:
            raise ValueError(
                f"max_new_tokens={new}: the model reads {context} positions, and the task is a text"
                " prompt. For bare grids: dlm-sampling eval compare sudoku4x4 --task sudoku"
            )
        return ids[len(ids) + new - context :]


def _present(device: str | None) -> str | None:
    """Return a device, the CPU for the harness's default where there is no GPU."""
    if device != DEFAULT_DEVICE or torch.cuda.is_available():
        return device
    _LOG.warning("device %s: there is no GPU; the model runs on the CPU.", device)
    return "cpu"


def _stops(request: Instance) -> list[str]:
    """Return the stop strings of a request."""
    until = request.args[1].get("until") or []
    return [until] if isinstance(until, str) else [stop for stop in until if stop]


if __name__ == "__main__":
    end(lambda _: cli_evaluate(), sys.argv[1:])
