"""A job gives the same bytes after any number of kills, and on any number of processes."""

from __future__ import annotations

import json
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_sampling import Denoiser, generate
from dlm_sampling.jobs import Job, JobReport, Rank, ShardRunner, finish, run_job, runner
from dlm_sampling.jobs.files import publish
from tests.forks import Forks
from tests.jobs.conftest import PROMPTS, contents, load_and_run


def records(folder: Path) -> list[dict[str, object]]:
    paths = sorted((folder / "data").iterdir())
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_rows_are_those_of_generate(job: Job, denoiser: Denoiser, clean: Path) -> None:
    found = records(clean)
    assert [row["id"] for row in found] == [item.name for item in PROMPTS]
    assert [row["index"] for row in found] == list(range(len(PROMPTS)))
    for row in found:
        if row["id"] == "too long":
            assert row["error"] == {
                "code": "prompt",
                "message": "Prompt 5 (id 'too long'): 97 tokens + 4 new exceed the context of 96. "
                "Shorten the prompt by 5.",
            }
            assert row["text"] is None
            continue
        out = generate(
            denoiser, row["prompt"], sampler="ancestral", max_new_tokens=4, steps=3,
            seed=[row["row_seed"]],
        )  # fmt: skip
        assert row["token_ids"] == out.token_ids[0]
        assert row["text"] == (out.texts or [])[0]
        assert (row["nfe"], row["work"]) == (out.nfe.item(), out.work.item())
        assert row["error"] is None


def test_killed_many_times_the_bytes_are_those_of_one_run(
    job: Job, clean: Path, forks: Forks
) -> None:
    """Up to three processes at a time, killed as soon as some have written something new."""
    dice, kills = random.Random(0), 0
    deadline = time.monotonic() + 60
    while not (job.folder / "_SUCCESS").exists():
        assert time.monotonic() < deadline
        world = dice.randint(1, 3)
        before = job.rows_done()
        processes = [forks.call(load_and_run, job, Rank(i, world)) for i in range(world)]
        while any(p.alive() for p in processes) and job.rows_done() <= before + 1:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        kills += [process.kill() for process in processes].count(-signal.SIGKILL)
    assert kills > 3
    finish(job)
    assert contents(job.folder) == contents(clean)


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_give_the_same_bytes(
    job: Job, clean: Path, forks: Forks, world: int
) -> None:
    processes = [forks.call(load_and_run, job, Rank(i, world)) for i in range(world)]
    for process in processes:
        code, _, err = process.ended()
        assert code == 0, err.decode()
    assert contents(job.folder) == contents(clean)


def test_a_process_finishes_what_others_have_left(
    job: Job, denoiser: Denoiser, clean: Path
) -> None:
    report = run_job(job, denoiser, rank=Rank(2, 3))
    assert report == JobReport(len(PROMPTS), 1, True)
    assert contents(job.folder) == contents(clean)
    assert run_job(job, denoiser) == report


def test_a_job_is_not_done_before_its_last_shard(job: Job, denoiser: Denoiser) -> None:
    runner = ShardRunner.open(job, denoiser)
    for shard in job.shards():
        assert finish(job) == JobReport(len(PROMPTS), 0, False)
        assert not (job.folder / "_SUCCESS").exists()
        runner.run_shard(shard)
    assert finish(job) == JobReport(len(PROMPTS), 1, True)


def test_two_may_finish_a_job_at_once(
    job: Job, denoiser: Denoiser, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One removes the folder of drafts while the other is about to write the card."""
    monkeypatch.setattr(runner, "finish", lambda job: None)
    run_job(job, denoiser)
    count, done = runner.count_errors, []

    def slow(path: Path) -> int:
        if not done:
            done.append(path)
            finish(job)
        return count(path)

    def card(folder: Path, name: str, data: bytes) -> None:
        if name == "README.md" and len(done) == 1:
            done.append(folder)
            finish(job)
        publish(folder, name, data)

    monkeypatch.setattr(runner, "count_errors", slow)
    monkeypatch.setattr(runner, "publish", card)
    assert finish(job).done
    assert contents(job.folder) == contents(clean)


def test_stop_ends_after_a_batch_and_keeps_it(job: Job, denoiser: Denoiser, clean: Path) -> None:
    asked = iter([False, False, True])
    with pytest.raises(KeyboardInterrupt):
        run_job(job, denoiser, stop=lambda: next(asked))
    assert job.rows_done() == 2
    run_job(job, denoiser)
    assert contents(job.folder) == contents(clean)


def test_the_folder_is_a_data_set(job: Job, denoiser: Denoiser, tmp_path: Path) -> None:
    import datasets

    report = run_job(replace(job, file_format="parquet"), denoiser)
    assert report == JobReport(len(PROMPTS), 1, True)
    cache = str(tmp_path / "cache")
    read = datasets.load_dataset(str(job.folder), split="train", cache_dir=cache)
    assert list(read["id"]) == [item.name for item in PROMPTS]
    lines = replace(job, output=tmp_path / "lines")
    run_job(lines, denoiser)
    assert read.to_list() == records(lines.folder)


def test_only_the_first_process_shows_it(
    job: Job, denoiser: Denoiser, capfd: pytest.CaptureFixture[str]
) -> None:
    run_job(job, denoiser, rank=Rank(1, 2), progress=True)
    assert capfd.readouterr().err == ""
    run_job(replace(job, output=job.folder / "again"), denoiser, progress=True)
    assert "/16 [" in capfd.readouterr().err
