"""Show one bar for a job: rows of all processes, time left, tokens per second, failures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from dlm_sampling.engine.trajectory import StepCallback, StepEvent
from dlm_sampling.jobs.files import Record
from dlm_sampling.jobs.job import Job
from dlm_sampling.types.values import int_rows


class Bar:
    """Count the rows that are done from the names of the job's files, whoever wrote them.

    Args:
        job: the job.
        show: True shows the bar, False hides it; None shows it on a terminal.
    """

    def __init__(self, job: Job, show: bool | None) -> None:
        from tqdm import tqdm

        self.job, self.begun = job, time.monotonic()
        self.done = job.rows_done()
        self.shares: dict[int, float] = {}  # of the rows of the current batch
        self.wholes: dict[int, int] = {}
        self.rows = self.tokens = self.nfe = self.errors = 0
        self.bar: Any = tqdm(
            total=len(job.prompts) * job.samples,
            initial=self.done,
            unit="row",
            disable=None if show is None else not show,
            leave=False,
        )

    @property
    def callbacks(self) -> list[StepCallback]:
        """Return the functions to call after each step; none if the bar is hidden."""
        return [] if self.bar.disable else [self.step]

    def step(self, event: StepEvent) -> None:
        """Advance by the share of each row that is written."""
        left = torch.where(event.final, 0, event.unknown.sum(1))
        before = (event.unknown | event.written).sum(1)
        table = torch.stack([event.rows, left, before], 1)
        for row, unknown, start in int_rows(table):
            whole = self.wholes.setdefault(row, max(1, start))
            self.shares[row] = 1 - unknown / whole
        self.show(self.done + sum(self.shares.values()))

    def batch(self, records: Sequence[Record]) -> None:
        """Count the files again after a batch, and its tokens, passes and failures."""
        good = [record for record in records if record["error"] is None]
        self.rows += len(good)
        self.tokens += sum(len(record["token_ids"]) for record in good)
        self.nfe += sum(record["nfe"] for record in good)
        self.errors += len(records) - len(good)
        self.done = self.job.rows_done()
        self.wholes.clear()
        self.shares.clear()
        self.show(self.done)

    def show(self, rows: float) -> None:
        """Draw the bar with this many rows done."""
        if self.bar.disable:
            return
        seconds = time.monotonic() - self.begun
        facts = {"tok/s": round(self.tokens / seconds), "errors": self.errors}
        facts |= {"NFE/row": round(self.nfe / self.rows)} if self.rows else {}
        self.bar.set_postfix(facts, refresh=False)
        self.bar.update(int(rows) - self.bar.n)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()
