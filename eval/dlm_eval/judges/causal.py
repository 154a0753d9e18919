"""Score texts by a causal language model: negative log-likelihood of their tokens, perplexity.

A text is tokenised again by the judge, x_1 ... x_n with n at most 1024, and its tokens 2..n count:

    nll(x) = -sum over i >= 2 of log p(x_i | x_<i),      perplexity = exp(sum nll / sum of counts)

over the corpus, as in the released code of MDLM, ReMDM and Duo (Sahoo et al. 2024,
arXiv:2406.07524).  Of end-of-text tokens the first counts, the later ones do not.  That code also
counts the first padding token of a text that is shorter than the longest of its batch, a figure
that depends on the batch; padding never counts here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dlm_eval.data import JUDGE
from dlm_eval.judges.scores import TextScores
from dlm_eval.report.results import Json
from dlm_sampling.denoisers import hub_in_reach, is_hub_name, single_device
from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import out_of_memory

Result = TypeVar("Result")
LIMIT = 1024
"""Longest text in tokens, the published one."""

BATCH = 8
OWN = "own"
"""Name of the judge that comes with the evaluation."""


class CausalJudge:
    """A causal language model that reads texts: perplexity, and features for MAUVE."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str, revision: str = "") -> None:
        """Wrap a model that is loaded; `from_pretrained` is the usual way here.

        Args:
            model: a causal language model of transformers, or anything with its call and `config`.
            tokenizer: its tokenizer.
            name: what results call it.
            revision: commit, or digest of the weights, that results name.
        """
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        revision: str | None = None,
        *,
        dtype: str = "float32",
        device: str | None = None,
        option: str = "--judge",
    ) -> CausalJudge:
        """Load a judge by transformers.

        Args:
            name: "own" for the one of `dlm_eval.data`, folder of a checkpoint, or name on the hub.
            revision: commit or branch on the hub.
            dtype: type of the weights.
            device: where it runs; default, and "auto", a GPU if there is one.
            option: what messages call the name.

        Raises:
            UsageError: there is no such model, or it has no tokenizer.
            ValueError: there is no such device.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        place = single_device(device) or single_device(None)
        path = JUDGE if name == OWN else Path(name).expanduser()
        if not path.is_dir() and (path.exists() or not is_hub_name(str(name))):
            raise UsageError(
                f"{option} {name}: is no folder; pass one with config.json, or a name on the hub "
                "such as org/model."
            )
        if path.is_dir() and not (path / "config.json").is_file():
            raise UsageError(
                f"{option} {name}: holds no config.json; pass a causal language model."
            )
        source = path if path.is_dir() else name
        with hub_in_reach(asked=not path.is_dir()) as unreachable:
            try:
                tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
                with _no_bar():
                    model = AutoModelForCausalLM.from_pretrained(
                        source, revision=revision, dtype=dtype
                    )
            except (OSError, ValueError) as error:
                reason = unreachable or str(error).strip().splitlines()[0]
                raise UsageError(f"{option} {name}: no causal language model ({reason})") from error
        commit = weights_hash(path) if path.is_dir() else str(model.config._commit_hash)
        return cls(model.to(place), tokenizer, name=str(name), revision=commit)

    @property
    def limit(self) -> int:
        """Return the longest text in tokens: 1024, or less where the model has fewer positions."""
        config = self.model.config.to_dict()
        known = [config.get(key) for key in ("n_positions", "max_position_embeddings")]
        return min([LIMIT, *(size for size in known if isinstance(size, int))])

    def facts(self, *, add_bos: bool = False) -> dict[str, Json]:
        """See `Judge`."""
        return {
            "judge": self.name,
            "judge_revision": self.revision,
            "limit": self.limit,
            "tokens": "1..n" if add_bos else "2..n",
            "end of text": "the first counts",
        }

    def encode(self, texts: Sequence[str], *, add_bos: bool = False) -> list[list[int]]:
        """Tokenise texts, each cut at `limit` tokens.

        Args:
            texts: the texts.
            add_bos: begin each with the token for the beginning (or, without one, the end).

        Raises:
            ValueError: `add_bos` with a tokenizer that has neither.
            TypeError: a text is no string.
        """
        return [ids[: self.limit] for ids in self._whole(texts, add_bos)]

    def score(
        self,
        texts: Sequence[str],
        *,
        add_bos: bool = False,
        batch_size: int = BATCH,
        progress: bool | None = None,
    ) -> TextScores:
        """Return the negative log-likelihood of texts.

        Args:
            texts: the texts; an empty one has no token that counts.
            add_bos: put the beginning in front, so that the first token counts too.
            batch_size: texts in one pass; halved where they do not fit into memory.  A figure
                depends on it in the last bits of float32 only.
            progress: show a bar; default on a terminal.

        Raises:
            ValueError, TypeError: see `encode`.
        """
        whole = self._whole(texts, add_bos)
        rows = [ids[: self.limit] for ids in whole]
        cut = sum(len(ids) > self.limit for ids in whole)
        nll = np.zeros(len(rows))
        counts = np.zeros(len(rows), np.int64)

        def read(part: Sequence[int]) -> list[tuple[float, int]]:
            return self._score_rows([rows[i] for i in part])

        found = self._in_batches(rows, read, batch_size, progress)
        for i, (value, count) in found.items():
            nll[i], counts[i] = value, count
        skipped = int(add_bos)
        ids = tuple(tuple(ids[skipped:]) for ids in rows)
        return TextScores(nll, counts, ids, self.limit - skipped, cut)

    def features(
        self, texts: Sequence[str], *, batch_size: int = BATCH, progress: bool | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the last hidden state at the last token of each text, float32 [N, d].

        These are the features of MAUVE (Pillutla et al. 2021, arXiv:2102.01454).

        Raises:
            ValueError: a text is empty.
        """
        rows = self.encode(texts)
        empty = [i for i, ids in enumerate(rows) if not ids]
        if empty:
            raise ValueError(
                f"texts: number {empty[0]} is empty ({len(empty)} in all), and has no feature; "
                "leave empty texts out of both sets."
            )

        def read(part: Sequence[int]) -> list[npt.NDArray[np.float32]]:
            ids, seen = self._padded([rows[i] for i in part])
            with torch.no_grad():
                out = self.model(input_ids=ids, attention_mask=seen, output_hidden_states=True)
            last = seen.sum(1) - 1
            hidden = out.hidden_states[-1][torch.arange(len(part), device=ids.device), last]
            return list(hidden.float().cpu().numpy())

        found = self._in_batches(rows, read, batch_size, progress)
        return np.stack([found[i] for i in range(len(rows))])

    def _whole(self, texts: Sequence[str], add_bos: bool) -> list[list[int]]:
        """Return the tokens of texts without a limit; see `encode`."""
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts: number {i} is {text!r}: must be a string.")
        first = self._begin() if add_bos else []
        found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [first + list(ids) for ids in found]

    def _begin(self) -> list[int]:
        """Return the token that begins a text."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return [int(token)]
        raise ValueError(f"add_bos: the tokenizer of {self.name} has no token for the beginning.")

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return token ids and attention mask [B, L], padded on the right, where no token looks."""
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        seen = torch.zeros(len(rows), longest, dtype=torch.int64)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            seen[row, : len(tokens)] = 1
        place = self.model.device
        return ids.to(place), seen.to(place)

    @torch.no_grad()
    def _score_rows(self, rows: Sequence[Sequence[int]]) -> list[tuple[float, int]]:
        """Return nats and counted tokens of rows that run together."""
        ids, seen = self._padded(rows)
        logits = self.model(input_ids=ids, attention_mask=seen).logits[:, :-1]
        target = ids[:, 1:]
        size = logits.shape[-1]
        each = F.cross_entropy(
            logits.float().reshape(-1, size), target.reshape(-1), reduction="none"
        ).view_as(target)
        ends = (
            (ids == self.tokenizer.eos_token_id)
            if self.tokenizer.eos_token_id is not None
            else (torch.zeros_like(ids, dtype=torch.bool))
        )
        counted = (seen[:, 1:] == 1) & ~(ends[:, 1:] & (ends.cumsum(1)[:, 1:] > 1))
        nll = (each.double() * counted).sum(1)
        return list(zip(nll.tolist(), counted.sum(1).tolist(), strict=True))

    def _in_batches(
        self,
        rows: Sequence[Sequence[int]],
        read: Callable[[Sequence[int]], list[Result]],
        batch_size: int,
        progress: bool | None,
    ) -> dict[int, Result]:
        """Read the rows that hold a token, by length, in batches that fit into memory."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1; try {BATCH}.")
        order = sorted((i for i, ids in enumerate(rows) if ids), key=lambda i: -len(rows[i]))
        found: dict[int, Result] = {}
        hidden = None if progress is None else not progress
        with tqdm(total=len(order), desc=self.name, unit="text", disable=hidden) as bar:
            while len(found) < len(order):
                part = order[len(found) : len(found) + batch_size]
                try:
                    values = read(part)
                except (RuntimeError, MemoryError) as error:
                    if len(part) == 1 or not out_of_memory(error):
                        raise
                    batch_size = len(part) // 2
                    continue
                found.update(zip(part, values, strict=True))
                bar.update(len(part))
        return found


@contextmanager
def _no_bar() -> Iterator[None]:
    """Hide transformers' bar over the tensors of a checkpoint."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def weights_hash(folder: Path) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of the weights and the tokenizer of a folder."""
    found = hashlib.sha256()
    for path in sorted((*folder.glob("*.safetensors"), *folder.glob("*.bin"),
                        *folder.glob("tokenizer.json"))):  # fmt: skip
        found.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return f"sha256:{found.hexdigest()[:12]}"
