"""The bar of a job: rows of all processes, and the share of the batch that is running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_sampling.jobs import GenerateOptions, Job
from dlm_sampling.jobs.progress import Bar


class Event:
    """Two rows of four positions; the second one is left with two of them."""

    rows = torch.tensor([0, 1])
    final = torch.tensor([True, False])
    unknown = torch.tensor([[True, False, False, False], [True, True, False, False]])
    written = torch.tensor([[False, True, True, True], [False, False, True, True]])


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "partial").mkdir()
    return Job(["a", "b", "c"], tmp_path, options=GenerateOptions(seed=1, num_return_sequences=2))


def test_a_bar_counts_rows_of_others_and_shares_of_its_own(job: Job) -> None:
    (job.folder / "partial" / "00000-00000-1.jsonl").touch()
    bar = Bar(job, show=True)
    assert (bar.bar.n, bar.bar.initial) == (1, 1), "of earlier starts, which took no time now"
    event: Any = Event()
    (step,) = bar.callbacks
    step(event)
    assert (bar.bar.total, bar.bar.n) == (6, 2), "1 of others, 1 and a half of its own"
    assert bar.shares == {0: 1.0, 1: 0.5}
    for k in (1, 2):
        (job.folder / "partial" / f"00000-0000{k}-2.jsonl").touch()
    good = {"error": None, "token_ids": [1, 2, 3], "nfe": 4}
    bar.batch([good, {"error": {"code": "run"}}])
    assert (bar.rows, bar.tokens, bar.nfe, bar.errors) == (1, 3, 4, 1)
    assert (bar.bar.n, bar.shares) == (5, {})
    bar.close()


def test_a_hidden_bar_asks_for_no_events(job: Job) -> None:
    bar = Bar(job, show=False)
    assert bar.callbacks == []
    bar.batch([{"error": None, "token_ids": [1], "nfe": 2}])
    assert bar.nfe == 2, "the report needs the counts"
    bar.close()
