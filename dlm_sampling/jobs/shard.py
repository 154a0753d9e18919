"""Run a shard of a job: in batches by length, each kept when it is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dlm_sampling.denoisers import Denoiser
from dlm_sampling.engine.batches import by_length, out_of_memory
from dlm_sampling.engine.trajectory import StepCallback
from dlm_sampling.errors import DeviceLostError, FailedRowsError
from dlm_sampling.jobs.files import PARTIAL, Record, append_line, encode, publish, read_lines
from dlm_sampling.jobs.job import Job, Shard
from dlm_sampling.jobs.manifest import open_folder
from dlm_sampling.jobs.rank import Rank
from dlm_sampling.text.completion import GenerateOutput
from dlm_sampling.text.generate import generate_parts
from dlm_sampling.text.prompt_rows import Prepared, isolate, prepare_items
from dlm_sampling.text.records import row_record
from dlm_sampling.viewers.safe_text import json_line

LOG = "logs/events.jsonl"


@dataclass
class ShardRunner:
    """Run the shards of a job with one model, which is loaded once.

    Fields:
        job, denoiser, prepared: the job, its model, and its checked prompts.
        stop: asked before each batch; True ends the run as an interrupt does.
        callbacks: called after every step of a batch.
        on_batch: called with the records of every batch, and with none after a shard.
        new: whether this start made the folder a job's.
        most_rows: rows that fit into memory, as far as known.
        warned: whether a warning about the texts was given.
    """

    job: Job
    denoiser: Denoiser
    prepared: Prepared
    stop: Callable[[], bool] = lambda: False
    callbacks: Sequence[StepCallback] = ()
    on_batch: Callable[[Sequence[Record]], None] = lambda records: None
    new: bool = False
    most_rows: int = field(init=False)
    warned: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.items = self.job.items
        self.places = {row: place for place, row in enumerate(self.prepared.rows)}
        self.most_rows = self.job.batch_rows

    @classmethod
    def open(
        cls, job: Job, denoiser: Denoiser | None = None, rank: Rank | None = None
    ) -> ShardRunner:
        """Load the model if none is given, check all prompts, and open the folder.

        Raises:
            UsageError, JobMismatchError: the folder is not this job's.
            FailedRowsError: too many prompts cannot run.
            ValueError, OSError: an option is out of range, the folder cannot be written.
        """
        denoiser = job.load(rank or Rank()) if denoiser is None else denoiser
        prepared = prepare_items(denoiser, job.items, job.options)
        runner = cls(job, denoiser, prepared, new=open_folder(job, prepared))
        runner.allow([])
        return runner

    def batches(self, shard: Shard) -> list[list[int]]:
        """Return the places of the rows that can run, sorted by length and cut into batches."""
        samples, whole = self.job.samples, self.prepared.generation
        rows = range(shard.first * samples, shard.last * samples)
        places = [self.places[row] for row in rows if row in self.places]
        return by_length(places, whole.lengths, self.job.batch_rows)

    def pieces(self, shard: Shard) -> dict[tuple[int, int], Path]:
        """Return the files of finished batches, by the begin and end of their rows by length.

        Those of an earlier start may have another number of rows.
        """
        found: dict[tuple[int, int], Path] = {}
        for path in sorted((self.job.folder / PARTIAL).glob(f"{shard.number:05d}-*-*.jsonl")):
            begin, size = map(int, path.stem.split("-")[1:])
            found[begin, begin + size] = path
        return found

    def run_shard(self, shard: Shard, begin: float = 0.0) -> None:
        """Run the batches that nobody has run, and write the file of the shard.

        Args:
            shard: one of `job.shards()`; nothing happens if it is done.
            begin: share of the batches after which to begin; the first ones come last.  Processes
                that begin at different places divide a shard among them.
        """
        folder, part = self.job.folder, self.job.part(shard)
        batches = self.batches(shard)
        first = int(begin * len(batches))
        for k in [*range(first, len(batches)), *range(first)]:
            if part.exists():
                return
            start = k * self.job.batch_rows
            whole = start, start + len(batches[k])
            for a, b in gaps(whole, self.pieces(shard)):
                if self.stop():
                    raise KeyboardInterrupt
                records = self.run_batch(batches[k][a - start : b - start])
                name = f"{PARTIAL}/{shard.number:05d}-{a:05d}-{b - a}.jsonl"
                publish(folder, name, encode(records, "jsonl"))
                self.on_batch(records)
        pieces = self.pieces(shard).values()
        each = [record for path in pieces for record in read_lines(path)]
        # Processes with batches of different sizes may have run a row twice.
        records = [*{(record["index"], record["sample"]): record for record in each}.values()]
        for index in range(shard.first, shard.last):
            error = self.prepared.errors.get(index)
            if error is not None:
                rows = range(index * self.job.samples, (index + 1) * self.job.samples)
                records += [self.failure(row, "prompt", str(error)) for row in rows]
        if part.exists():  # and the batches may be gone
            return
        records.sort(key=lambda record: (record["index"], record["sample"]))
        publish(folder, f"data/{part.name}", encode(records, self.job.file_format))
        for path in pieces:
            path.unlink(missing_ok=True)
        self.on_batch([])

    def run_batch(self, places: Sequence[int]) -> list[Record]:
        """Run the rows at these places; rows that fail become records with an error.

        Raises:
            DeviceLostError: the device answers no more.
            FailedRowsError: too many rows failed.
            ValueError, TypeError: all rows failed with the same message, as an option is wrong.
        """
        records: list[Record] = []
        failed: list[tuple[int, Exception]] = []
        for part, found in isolate(places, self.generate):
            rows = [self.prepared.rows[place] for place in part]
            if isinstance(found, Exception):
                failed.append((rows[0], found))
                continue
            outputs = [(output, i) for output in found for i in range(len(output.seeds))]
            records += [self.record(row, *at) for row, at in zip(rows, outputs, strict=True)]
        if len(failed) == len(places) > 1 and len({str(error) for _, error in failed}) == 1:
            raise failed[0][1]
        failures = [self.failure(row, code_of(error), str(error)) for row, error in failed]
        self.allow(failures)
        return records + failures

    def generate(self, places: Sequence[int]) -> list[GenerateOutput]:
        """Generate rows together, in halves if they do not fit into memory."""
        part = self.prepared.part(places)
        try:
            batches = generate_parts(part, self.most_rows, self.callbacks, self.halve, self.tell)
            return list(batches)
        except RuntimeError as error:
            if self.lost():
                raise DeviceLostError(f"{self.denoiser.device} is lost: {error}") from error
            raise

    def halve(self, rows: int) -> None:
        """Go on with fewer rows at a time, and note it: last bits may differ."""
        self.most_rows = rows
        append_line(self.job.folder / LOG, {"event": "out of memory", "rows_from_now_on": rows})

    def tell(self, warning: str) -> None:
        """Warn about the texts of a batch, once in a process."""
        if not self.warned:
            logging.getLogger(__name__).warning(warning)
        self.warned = True

    def lost(self) -> bool:
        """Return whether the device has stopped to answer, as after an illegal access."""
        try:
            torch.zeros(1, device=self.denoiser.device).item()
        except RuntimeError as error:
            return not out_of_memory(error)
        return False

    def record(self, row: int, output: GenerateOutput, i: int) -> Record:
        """Return the record of a row that is done, batch row `i` of its output."""
        index, sample = divmod(row, self.job.samples)
        return row_record(self.items[index], index, sample, output, i) | self.facts(row)

    def failure(self, row: int, code: str, message: str) -> Record:
        """Return the record of a row that failed."""
        return self.facts(row) | {"error": {"code": code, "message": message}}

    def facts(self, row: int) -> Record:
        """Return the columns that every row has."""
        index, sample = divmod(row, self.job.samples)
        item = self.items[index]
        return {
            "id": None if item.name is None else str(item.name),
            "index": index,
            "sample": sample,
            "prompt": item.prompt if isinstance(item.prompt, str) else json_line(item.prompt),
            "row_seed": self.prepared.seeds[row],
            "error": None,
        }

    def allow(self, failures: Sequence[Record]) -> None:
        """Record that rows failed, and stop the job when there are too many.

        Raises:
            FailedRowsError: there are more than the job allows, over all processes and starts.
        """
        samples, log = self.job.samples, self.job.folder / LOG
        total, refused = len(self.items) * samples, self.prepared.errors
        allowed = max(1, total // 100) if self.job.max_errors is None else self.job.max_errors
        known = {e["row"] for e in read_lines(log) if e["event"] == "row failed"}
        rows: dict[int, str] = {
            f["index"] * samples + f["sample"]: f["error"]["message"] for f in failures
        }
        count = len(refused) * samples + len(known | set(rows))
        if count > allowed:
            why = next(iter([*map(str, refused.values()), "see logs/"]))
            if rows:
                row, message = next(iter(rows.items()))
                why = self.items[row // samples].told(row // samples, message)
            raise FailedRowsError(
                f"{count} of {total} rows failed, and max_errors allows {allowed}: {why}"
            )
        for row, message in rows.items():
            append_line(log, {"event": "row failed", "row": row, "message": message})


def gaps(whole: tuple[int, int], done: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts [a, b) of a range that none of the ranges `done` covers, in order."""
    found: list[tuple[int, int]] = []
    at, end = whole
    for first, last in [*sorted(done), (end, end)]:
        if at < min(first, end):
            found.append((at, min(first, end)))
        at = max(at, last)
    return found


def code_of(error: Exception) -> str:
    """Return the code of a failed row's record."""
    return "memory" if out_of_memory(error) else "run"
