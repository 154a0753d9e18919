"""A shard: batches by length, rows that fail alone, full memory, a lost device, too many errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dlm_sampling import Denoiser
from dlm_sampling.errors import DeviceLostError, FailedRowsError
from dlm_sampling.jobs import Job, ShardRunner, run_job, shard
from tests.jobs.conftest import PROMPTS, contents

Fail = Callable[[Sequence[int]], Exception | None]


def records(folder: Path) -> list[dict[str, object]]:
    paths = sorted((folder / "data").iterdir())
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fail], None]:
    """Let batches fail by the lengths of their prompts."""
    parts = shard.generate_parts

    def install(fail: Fail) -> None:
        def run(part: object, *arguments: object) -> object:
            error = fail([len(row.ids) for row in part.prompts])  # type: ignore[attr-defined]
            if error is not None:
                raise error
            return parts(part, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(shard, "generate_parts", run)

    return install


def test_batches_are_by_length_within_a_shard(job: Job, denoiser: Denoiser) -> None:
    runner = ShardRunner.open(replace(job, batch_rows=2), denoiser)
    lengths = [[len(PROMPTS[runner.prepared.rows[p]].prompt) for p in batch]
               for batch in runner.batches(job.shards()[0])]  # fmt: skip
    assert lengths == [[1, 2], [4, 6], [7]]
    assert [s.last - s.first for s in job.shards()] == [5, 5, 5, 1]


def test_one_row_that_fails_is_recorded_and_stops_no_other(
    job: Job, denoiser: Denoiser, clean: Path, failing: Callable[[Fail], None]
) -> None:
    failing(lambda lengths: ValueError("NaN logits") if 7 in lengths else None)
    job = replace(job, batch_rows=4, max_errors=5)
    report = run_job(job, denoiser)
    bad = [i for i, item in enumerate(PROMPTS) if len(item.prompt) == 7]
    assert report.errors == len(bad) + 1
    for row, good in zip(records(job.folder), records(clean), strict=True):
        if row["index"] in bad:
            assert row["error"] == {"code": "run", "message": "NaN logits"}
            assert row["row_seed"] == good["row_seed"]
        else:
            assert (row["token_ids"], row["error"]) == (good["token_ids"], good["error"])


def test_more_failures_than_allowed_stop_the_job_over_all_starts(
    job: Job, denoiser: Denoiser, failing: Callable[[Fail], None]
) -> None:
    failing(lambda lengths: ValueError(f"no {lengths}") if max(lengths) > 3 else None)
    job = replace(job, max_errors=3)
    for _ in range(2):
        with pytest.raises(FailedRowsError, match="4 of 16 rows failed, and max_errors allows 3"):
            run_job(job, denoiser)
    kept = contents(job.folder)
    assert run_job(replace(job, max_errors=16), denoiser).done
    assert kept["manifest.json"] == contents(job.folder)["manifest.json"]


def test_an_option_that_fails_every_row_is_no_error_of_rows(
    job: Job, denoiser: Denoiser, failing: Callable[[Fail], None]
) -> None:
    failing(lambda _: ValueError("steps=0: need at least 1"))
    with pytest.raises(ValueError, match="steps=0"):
        run_job(replace(job, batch_rows=4), denoiser)
    assert job.rows_done() == 0


def test_full_memory_is_noted_and_later_batches_are_smaller(
    job: Job, denoiser: Denoiser, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sizes = type(denoiser).forward, []

    def forward(self: Denoiser, inputs: object) -> object:
        sizes.append(len(inputs.tokens))  # type: ignore[attr-defined]
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(type(denoiser), "forward", forward)
    job = replace(job, batch_rows=4)
    run_job(job, denoiser)
    assert [row["token_ids"] for row in records(job.folder)] == [
        row["token_ids"] for row in records(clean)
    ]
    assert sizes.count(4) == 1, "one batch was too large, and none after it"
    log = (job.folder / "logs" / "events.jsonl").read_text()
    assert json.loads(log) == {"event": "out of memory", "rows_from_now_on": 2}


def test_a_lost_device_ends_the_job(
    job: Job, denoiser: Denoiser, failing: Callable[[Fail], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(lambda _: RuntimeError("CUDA error: an illegal memory access was encountered"))
    monkeypatch.setattr(ShardRunner, "lost", lambda _: True)
    with pytest.raises(DeviceLostError, match="cpu is lost: CUDA error"):
        run_job(job, denoiser)
    assert job.rows_done() == 0
