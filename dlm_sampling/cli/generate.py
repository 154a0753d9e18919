"""Run `dlm-sampling generate`: prompts in batches, each result written when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch

from dlm_sampling.caches import CacheReport
from dlm_sampling.checkup.memory import expected_memory
from dlm_sampling.cli.output import Output
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.errors import UsageError
from dlm_sampling.text.completion import GenerateOutput
from dlm_sampling.text.fingerprint import digest, encoding_of, settings
from dlm_sampling.text.generate import generate_parts
from dlm_sampling.text.options import GenerateOptions
from dlm_sampling.text.options import Job as Generation
from dlm_sampling.text.prompt_items import PromptItem
from dlm_sampling.text.prompt_rows import prepare_items
from dlm_sampling.text.records import row_head, row_record
from dlm_sampling.types.values import floats, ints
from dlm_sampling.viewers.safe_text import json_line, printable
from dlm_sampling.viewers.streaming import ProgressFeed
from dlm_sampling.viewers.terminal import LiveCanvas


@dataclass
class Run:
    """Hold the settings that all batches of one command share.

    Fields:
        denoiser: the model.
        options: the arguments of `dlm_sampling.generate`.
        as_json: whether results are JSON lines.
        model: the name that the user gave for the model.
        sampler: name of the sampler.
        live: shows the canvas, or None.
        nfe: forward passes of every row so far.
        work: columns of these passes, in canvases.
        cache: report on the cache of the latest batch, or None.
        machine: the device and the expected memory in words; see `machine_of`.
    """

    denoiser: Denoiser
    options: GenerateOptions
    as_json: bool
    model: str
    sampler: str
    live: LiveCanvas | None = None
    nfe: list[int] = field(default_factory=list[int])
    work: list[float] = field(default_factory=list[float])
    cache: CacheReport | None = None
    machine: str = ""

    def run(self, items: Sequence[PromptItem], batch_rows: int, sink: Output) -> None:
        """Check all prompts, then generate in batches and write the results batch by batch.

        Raises:
            ValueError: a prompt cannot run.
            JobMismatchError: rows that an earlier run has left were made otherwise.
        """
        prepared = prepare_items(self.denoiser, items, self.options)
        for error in prepared.errors.values():
            raise error
        shared = self.shared(prepared.generation)
        self.machine = machine_of(prepared.generation, batch_rows)
        total, number = len(prepared.rows), len(sink.kept)
        heads = [self.head(items, row) for row in range(total)]
        sink.go_on(heads, [{"row_seed": seed} | shared for seed in prepared.seeds])
        rest = prepared.part(range(number, total))
        try:
            for output in self.outputs(rest, batch_rows):
                for row in range(len(output.seeds)):
                    text = self.result(output, row, items, number + row, shared)
                    last = self.as_json or number + row + 1 == total
                    sink.write(text + ("\n" if last else "\n---\n"))
                sink.commit()
                number += len(output.seeds)
                self.nfe += ints(output.nfe)
                self.work += floats(output.work)
                self.cache = output.cache
        except BaseException as error:
            # An interrupt may come behind the write; a full disk takes part of one.
            kept = sink.lines() if self.as_json else number
            if isinstance(error, ValueError):  # it counts the rows of its batch
                index = prepared.generation.numbers[number]
                error.add_note(f"In the batch that begins with {items[index].called(index)}.")
            if sink.on_disk and kept:
                more = "; --resume goes on" if self.as_json else ""
                error.add_note(f"{kept} of {total} rows are in {sink.path}{more}.")
            raise

    @property
    def closing(self) -> str:
        """Return the range of NFE for the line to close with, "64 NFE" or "60-64 NFE".

        With a cache also the work in canvases, and whether the cache is exact.
        """
        if not self.nfe:
            return "nothing was left to do"
        passes = f"{_range(self.nfe, 'd')} NFE"
        if self.cache is None:
            return passes
        kind = "exact" if self.cache.exact else "approximate"
        return f"{passes}, work {_range(self.work, '.1f')} ({kind} {self.cache.policy})"

    def outputs(self, job: Generation, batch_rows: int) -> Iterator[GenerateOutput]:
        """Yield the output of each batch.

        The live canvas is erased before an output is yielded, as both may share one terminal.
        """
        if self.live is None:
            total = sum(job.new_tokens) + sum(sum(row.fill) for row in job.prompts)
            with closing(ProgressFeed(total, None)) as bar:
                callbacks = [bar] if bar.visible else []
                yield from generate_parts(job, batch_rows, callbacks, lambda _: bar.restart())
            return
        live, done = self.live, 0
        batches = generate_parts(job, batch_rows, [live], lambda _: live.restart())
        while done < len(job.prompts):
            live.restart()
            with live:
                output = next(batches)
            done += len(output.seeds)
            yield output

    def shared(self, generation: Generation) -> dict[str, Any]:
        """Return the facts of all rows: seed, sampler, model, and a digest of all options."""
        own = self.options
        options = [settings(generation), own.max_new_tokens, encoding_of(own)]
        return {
            "seed": self.options.seed,
            "sampler": self.sampler,
            "model": self.model,
            "options": digest(options),
        }

    def head(self, items: Sequence[PromptItem], row: int) -> dict[str, Any]:
        """Return the entries that a row's record begins with."""
        index, sample = divmod(row, self.options.num_return_sequences)
        return row_head(items[index], index, sample)

    def result(
        self,
        output: GenerateOutput,
        row: int,
        items: Sequence[PromptItem],
        number: int,
        shared: dict[str, Any],
    ) -> str:
        """Return one result: the text with its prompt, or a JSON object."""
        if output.texts is None:
            raise UsageError(f"'{self.model}' has no tokenizer: add its files to the folder.")
        index, sample = divmod(number, self.options.num_return_sequences)
        if self.as_json:
            return json_line(row_record(items[index], index, sample, output, row) | shared)
        whole = self.whole_text(items[index], output.texts[row])
        return printable(whole)

    def whole_text(self, item: PromptItem, text: str) -> str:
        """Return prompt and completion as one text; chat answers and filled texts come alone."""
        tokenizer: Any = self.denoiser.tokenizer
        if not isinstance(item.prompt, str) or not item.prompt:
            return text
        prompt: list[int] = tokenizer(item.prompt)["input_ids"]
        if self.denoiser.mask_token_id in prompt:
            return text
        return tokenizer.decode(prompt, skip_special_tokens=True) + text


def machine_of(generation: Generation, batch_rows: int) -> str:
    """Name the device and type of the run, and the memory that the longest batch needs."""
    denoiser, lengths = generation.denoiser, generation.lengths
    memory = expected_memory(denoiser, min(batch_rows, len(lengths)), max(lengths, default=0))
    kind = str(denoiser.dtype or torch.float32).removeprefix("torch.")
    packed = "" if denoiser.quantized is None else f", quantised by {denoiser.quantized}"
    return f"on {denoiser.device} in {kind}{packed}, {memory}"


def open_live(denoiser: Denoiser) -> LiveCanvas | None:
    """Return the live canvas, or None if standard error is not a terminal."""
    if denoiser.tokenizer is None:
        raise UsageError("--live needs a tokenizer, and the model has none.")
    canvas = LiveCanvas(denoiser.tokenizer, masked=denoiser.mask_token_id is not None)
    return canvas if canvas.console.is_terminal else None


def _range(values: Sequence[float], style: str) -> str:
    """Return the least and the largest of numbers, or the one that all are."""
    low, high = format(min(values), style), format(max(values), style)
    return low if low == high else f"{low}-{high}"
