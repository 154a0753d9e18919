"""One run of `dlm-sampling generate`: prompts in batches, results as they are done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TextIO

from dlm_sampling.cli.io import PromptItem, UsageError
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.ops import row_seeds
from dlm_sampling.text.completion import GenerateOutput
from dlm_sampling.text.generate import generate
from dlm_sampling.viewers.safe_text import json_line, printable
from dlm_sampling.viewers.terminal import LiveCanvas


@dataclass
class Job:
    """One run of `generate`: what all its batches share.

    Fields:
        denoiser: the model.
        options: arguments of `dlm_sampling.generate`, the same for every batch.
        samples: rows per prompt.
        seed: the seed of the run.
        as_json: whether results are JSON lines.
        model: what the user asked for.
        sampler: name of the sampler.
        live: shows the canvas, or None.
        nfe: forward passes of every row so far.
    """

    denoiser: Denoiser
    options: dict[str, Any]
    samples: int
    seed: int
    as_json: bool
    model: str
    sampler: str
    live: LiveCanvas | None = None
    nfe: list[int] = field(default_factory=list[int])

    def run(self, items: Sequence[PromptItem], batch_rows: int, sink: TextIO) -> None:
        """Generate for all prompts, a batch at a time, and write each batch as it is done."""
        seeds = row_seeds(self.seed, len(items) * self.samples)
        per_batch = max(1, batch_rows // self.samples)
        for begin in range(0, len(items), per_batch):
            batch = items[begin : begin + per_batch]
            rows = slice(begin * self.samples, (begin + len(batch)) * self.samples)
            output = self.generate(batch, begin, seeds[rows])
            for row in range(len(batch) * self.samples):
                item = batch[row // self.samples]
                last = rows.start + row + 1 == len(seeds)
                sink.write(self.record(output, row, item, rows.start + row))
                sink.write("\n" if self.as_json or last else "\n---\n")
            sink.flush()
            self.nfe += output.nfe.tolist()

    def generate(self, batch: Sequence[PromptItem], begin: int, seeds: list[int]) -> GenerateOutput:
        """One batch; a message about a prompt gets the number that it has in the whole run."""
        if self.live is not None:
            self.live.restart()
        try:
            # The canvas is gone before the result is written: both may share one terminal.
            with self.live or nullcontext():
                return generate(
                    self.denoiser,
                    [item.prompt for item in batch],
                    seed=seeds,
                    num_return_sequences=self.samples,
                    callback=self.live,
                    progress=False if self.live is not None else None,
                    **self.options,
                )
        except ValueError as error:
            text = re.sub(r"^Prompt (\d+)", lambda m: f"Prompt {int(m[1]) + begin}", str(error))
            raise type(error)(text) from error

    def record(self, output: GenerateOutput, row: int, item: PromptItem, number: int) -> str:
        """One result: the text with its prompt, or a JSON object."""
        if output.texts is None:
            raise UsageError(f"'{self.model}' has no tokenizer: add its files to the folder.")
        text = output.texts[row]
        if not self.as_json:
            return printable(self.whole_text(item, output.token_ids[row], text))
        named = {} if item.name is None else {"id": item.name}
        return json_line(
            named
            | {
                "index": number // self.samples,
                "sample": number % self.samples,
                "prompt": item.prompt,
                "text": text,
                "token_ids": output.token_ids[row],
                "finish_reason": output.finish_reasons[row],
                "logprob": float(output.logprobs[row].sum()),
                "nfe": int(output.nfe[row]),
                "steps": int(output.steps[row]),
                "seed": self.seed,
                "row_seed": output.seeds[row],
                "sampler": self.sampler,
                "model": self.model,
            }
        )

    def whole_text(self, item: PromptItem, ids: list[int], text: str) -> str:
        """Prompt and completion as one; an answer to a chat, or a filled text, stands alone."""
        tokenizer: Any = self.denoiser.tokenizer
        if not isinstance(item.prompt, str) or not item.prompt:
            return text
        prompt: list[int] = tokenizer(item.prompt)["input_ids"]
        if self.denoiser.mask_token_id in prompt:
            return text
        return tokenizer.decode([*prompt, *ids], skip_special_tokens=True)
