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
from dlm_sampling.jobs import Job, PromptItem, ShardRunner, run_job, shard
from dlm_sampling.jobs.shard import gaps
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


def test_rows_with_more_to_write_come_later(job: Job, denoiser: Denoiser) -> None:
    prompts = [PromptItem("a" * n, max_new_tokens=new) for n, new in ((1, 9), (5, 1), (2, 2))]
    runner = ShardRunner.open(replace(job, prompts=prompts), denoiser)
    assert runner.batches(job.shards()[0]) == [[2], [1], [0]]


def test_several_rows_of_a_prompt_are_records_of_their_own(job: Job, denoiser: Denoiser) -> None:
    options = replace(job.options, num_return_sequences=3)
    job = replace(job, options=options, batch_rows=2, max_errors=3)
    asked = iter([False, False, True])
    with pytest.raises(KeyboardInterrupt):
        run_job(job, denoiser, stop=lambda: next(asked))
    assert job.rows_done() == 4
    report = run_job(job, denoiser)
    assert (report.rows, report.errors) == (48, 3)
    assert job.rows_done() == 48
    found = records(job.folder)
    assert [(row["index"], row["sample"]) for row in found] == [
        (index, sample) for index in range(16) for sample in range(3)
    ]
    assert len({row["row_seed"] for row in found}) == 48
    assert {row["index"] for row in found if row["error"]} == {5}
    with pytest.raises(FailedRowsError, match="3 of 48 rows failed, and max_errors allows 2"):
        run_job(replace(job, max_errors=2), denoiser)


def test_finished_batches_are_not_run_again_and_go_with_their_shard(
    job: Job, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, places = ShardRunner.run_batch, list[int]()

    def note(self: ShardRunner, batch: Sequence[int]) -> object:
        places.extend(batch)
        return run(self, batch)

    monkeypatch.setattr(ShardRunner, "run_batch", note)
    first, asked = job.shards()[0], iter([False, False, True])
    with pytest.raises(KeyboardInterrupt):
        run_job(job, denoiser, stop=lambda: next(asked))
    ShardRunner.open(job, denoiser).run_shard(first)
    assert sorted(places) == [0, 1, 2, 3, 4]
    assert list((job.folder / "partial").iterdir()) == []
    assert job.rows_done() == 5, "none counts twice"


def test_a_job_goes_on_with_batches_of_another_size(
    job: Job,
    denoiser: Denoiser,
    clean: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No row is run again, though the cuts of the batches are others."""
    run, places = ShardRunner.run_batch, list[list[int]]()

    def note(self: ShardRunner, batch: Sequence[int]) -> object:
        places.append(list(batch))
        return run(self, batch)

    monkeypatch.setattr(ShardRunner, "run_batch", note)
    asked = iter([False, False, True])
    with pytest.raises(KeyboardInterrupt):
        run_job(replace(job, batch_rows=2), denoiser, stop=lambda: next(asked))
    assert [len(batch) for batch in places] == [2, 2]  # of five rows
    run_job(replace(job, batch_rows=3), denoiser)
    assert [len(batch) for batch in places[2:5]] == [1, 3, 1]
    assert sorted(place for batch in places for place in batch) == list(range(15))
    assert "batch_rows" in caplog.text and "may differ in their last bits" in caplog.text
    texts = [[row["token_ids"] for row in records(folder)] for folder in (job.folder, clean)]
    assert texts[0] == texts[1]


def test_the_gaps_between_ranges() -> None:
    assert gaps((2, 9), []) == [(2, 9)]
    assert gaps((2, 9), [(6, 7), (0, 3), (6, 8), (12, 20)]) == [(3, 6), (8, 9)]
    assert gaps((2, 9), [(5, 12), (1, 5)]) == [] == gaps((2, 9), [(0, 20), (3, 4)])


def test_a_row_that_fails_keeps_its_place_among_its_prompt(
    job: Job, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = ShardRunner.generate

    def fail(self: ShardRunner, places: Sequence[int]) -> object:
        if 0 in places:
            raise ValueError("no")
        return generate(self, places)

    monkeypatch.setattr(ShardRunner, "generate", fail)
    options = replace(job.options, num_return_sequences=2)
    job = replace(job, options=options, batch_rows=4, max_errors=3)
    run_job(job, denoiser)
    first, second = records(job.folder)[:2]
    assert (first["sample"], first["error"]) == (0, {"code": "run", "message": "no"})
    assert (second["sample"], second["error"]) == (1, None)


def test_a_shard_that_another_process_has_finished_meanwhile_stays(
    job: Job, denoiser: Denoiser, clean: Path
) -> None:
    """It has removed the batches, of which this process is about to write the file."""
    other, runner = (ShardRunner.open(job, denoiser) for _ in range(2))
    first = job.shards()[0]
    last = len(runner.batches(first))

    def finish(_: object) -> None:
        if len(list((job.folder / "partial").glob("00000-*"))) == last:
            other.run_shard(first)

    runner.on_batch = finish
    runner.run_shard(first)
    name = job.part(first).name
    assert job.part(first).read_bytes() == (clean / "data" / name).read_bytes()


def test_the_default_limit_is_one_percent_and_at_least_one(job: Job, denoiser: Denoiser) -> None:
    for bad, total, fine in ((1, 16, True), (2, 16, False), (2, 199, False), (2, 200, True)):
        prompts = [*PROMPTS[5:6] * bad, *PROMPTS[:1] * (total - bad)]
        plain = [str(item.prompt) for item in prompts]
        runner = replace(job, prompts=plain, output=job.folder / f"{bad} of {total}")
        if fine:
            ShardRunner.open(runner, denoiser)
            continue
        with pytest.raises(FailedRowsError, match=f"{bad} of {total} rows failed"):
            ShardRunner.open(runner, denoiser)


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
    runner = ShardRunner.open(replace(job, max_errors=16), denoiser)
    runner.job = replace(job, max_errors=1)
    with pytest.raises(FailedRowsError, match=r"allows 1: Prompt 2 \(id 'r2'\): no"):
        runner.allow([runner.failure(2, "run", "no")])
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
    failing(lambda _: None)
    other = replace(job, options=replace(job.options, seed=4))  # the folder is not taken
    assert run_job(other, denoiser).done


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


def test_a_row_that_does_not_fit_is_told_from_one_that_fails(
    job: Job, denoiser: Denoiser, failing: Callable[[Fail], None]
) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory")
    failing(lambda lengths: full if 7 in lengths else None)
    run_job(replace(job, batch_rows=4, max_errors=5), denoiser)
    errors = [row["error"] for row in records(job.folder) if row["error"]]
    assert {"code": "memory", "message": "CUDA out of memory"} in errors


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (None, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
    ],
)
def test_a_full_device_is_not_lost(
    job: Job,
    denoiser: Denoiser,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    lost: bool,
) -> None:
    runner = ShardRunner.open(job, denoiser)

    def zeros(*_: object, **__: object) -> torch.Tensor:
        if error is not None:
            raise error
        return torch.ones(1)

    monkeypatch.setattr(torch, "zeros", zeros)
    assert runner.lost() is lost


def test_a_lost_device_ends_the_job(
    job: Job, denoiser: Denoiser, failing: Callable[[Fail], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(lambda _: RuntimeError("CUDA error: an illegal memory access was encountered"))
    monkeypatch.setattr(ShardRunner, "lost", lambda _: True)
    with pytest.raises(DeviceLostError, match="cpu is lost: CUDA error"):
        run_job(job, denoiser)
    assert job.rows_done() == 0


def test_equal_rows_are_told_once_by_the_number_of_the_prompt(
    job: Job, denoiser: Denoiser, caplog: pytest.LogCaptureFixture
) -> None:
    options = replace(job.options, sampler="llada", num_return_sequences=2)
    job = replace(job, prompts=PROMPTS[2:5], options=options, batch_rows=2)
    run_job(job, denoiser)
    (record,) = caplog.records
    assert "2 sequences of prompt 1 are equal: the temperature is 0" in record.getMessage()
    caplog.clear()
    ShardRunner.open(job, denoiser).generate([4, 5])
    assert "sequences of prompt 2 are equal" in caplog.records[0].getMessage()
