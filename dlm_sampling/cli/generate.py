"""Run `dlm-sampling generate`: prompts in batches, each result written when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TextIO

from dlm_sampling.cli.io import PromptItem, UsageError
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.text.completion import GenerateOutput
from dlm_sampling.text.generate import generate_parts
from dlm_sampling.text.options import GenerateOptions, prepare
from dlm_sampling.text.options import Job as Generation
from dlm_sampling.viewers.safe_text import json_line, printable
from dlm_sampling.viewers.streaming import ProgressFeed
from dlm_sampling.viewers.terminal import LiveCanvas


@dataclass
class Job:
    """Hold the settings that all batches of one command share.

    Fields:
        denoiser: the model.
        options: the arguments of `dlm_sampling.generate`.
        as_json: whether results are JSON lines.
        model: the name that the user gave for the model.
        sampler: name of the sampler.
        live: shows the canvas, or None.
        nfe: forward passes of every row so far.
    """

    denoiser: Denoiser
    options: GenerateOptions
    as_json: bool
    model: str
    sampler: str
    live: LiveCanvas | None = None
    nfe: list[int] = field(default_factory=list[int])

    def run(self, items: Sequence[PromptItem], batch_rows: int, sink: TextIO) -> None:
        """Generate for all prompts in batches, and write the results batch by batch."""
        samples = self.options.num_return_sequences
        total = len(items) * samples
        job = prepare(self.denoiser, [item.prompt for item in items], self.options)
        per_batch = max(1, batch_rows // samples) * samples
        number = 0
        for output in self.outputs(job, per_batch):
            for row in range(len(output.seeds)):
                sink.write(self.record(output, row, items[number // samples], number))
                number += 1
                sink.write("\n" if self.as_json or number == total else "\n---\n")
            sink.flush()
            self.nfe += output.nfe.tolist()

    def outputs(self, job: Generation, per_batch: int) -> Iterator[GenerateOutput]:
        """Yield the output of each batch.

        The live canvas is erased before an output is yielded, as both may share one terminal.
        """
        if self.live is None:
            total = sum(job.new_tokens) + sum(sum(row.fill) for row in job.prompts)
            with closing(ProgressFeed(total, None)) as bar:
                yield from generate_parts(job, per_batch, [bar] if bar.visible else [])
            return
        batches = generate_parts(job, per_batch, [self.live])
        for _ in range(0, len(job.prompts), per_batch):
            self.live.restart()
            with self.live:
                output = next(batches)
            yield output

    def record(self, output: GenerateOutput, row: int, item: PromptItem, number: int) -> str:
        """Return one result: the text with its prompt, or a JSON object."""
        if output.texts is None:
            raise UsageError(f"'{self.model}' has no tokenizer: add its files to the folder.")
        text = output.texts[row]
        if not self.as_json:
            return printable(self.whole_text(item, output.token_ids[row], text))
        named = {} if item.name is None else {"id": item.name}
        return json_line(
            named
            | {
                "index": number // self.options.num_return_sequences,
                "sample": number % self.options.num_return_sequences,
                "prompt": item.prompt,
                "text": text,
                "token_ids": output.token_ids[row],
                "finish_reason": output.finish_reasons[row],
                "logprob": float(output.logprobs[row].sum()),
                "nfe": int(output.nfe[row]),
                "steps": int(output.steps[row]),
                "seed": self.options.seed,
                "row_seed": output.seeds[row],
                "sampler": self.sampler,
                "model": self.model,
            }
        )

    def whole_text(self, item: PromptItem, ids: list[int], text: str) -> str:
        """Return prompt and completion as one text; chat answers and filled texts come alone."""
        tokenizer: Any = self.denoiser.tokenizer
        if not isinstance(item.prompt, str) or not item.prompt:
            return text
        prompt: list[int] = tokenizer(item.prompt)["input_ids"]
        if self.denoiser.mask_token_id in prompt:
            return text
        return tokenizer.decode([*prompt, *ids], skip_special_tokens=True)
