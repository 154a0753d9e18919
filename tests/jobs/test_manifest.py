"""The manifest: another job in the same folder is refused by the name of the option."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_sampling import Denoiser
from dlm_sampling.errors import JobMismatchError, UsageError
from dlm_sampling.jobs import Job, run_job
from dlm_sampling.jobs.manifest import MADE_WITH, compare, make_folder
from tests.jobs.conftest import PROMPTS, contents


def test_another_seed_or_prompt_is_refused(job: Job, denoiser: Denoiser, clean: Path) -> None:
    run_job(job, denoiser)
    before = contents(job.folder)
    reseeded = replace(job, options=replace(job.options, seed=4))
    for changed, words in (
        (
            reseeded,
            "holds a job with seed=3, now 4. Give",
        ),
        (replace(job, prompts=PROMPTS[:-1]), "prompts=16, now 15; input="),
        (replace(job, batch_rows=2), "batch_rows=1, now 2. Give"),
    ):
        with pytest.raises(JobMismatchError, match=words):
            run_job(changed, denoiser)
    assert contents(job.folder) == before


def test_another_machine_is_logged_and_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    old = {"seed": 1, MADE_WITH: {"torch": "2.0", "device": "cpu"}}
    new = {"seed": 1, MADE_WITH: {"torch": "2.0", "device": "H200"}}
    with caplog.at_level(logging.WARNING):
        compare(old, new, Path("out"))
        assert "H200" in caplog.text
    with pytest.raises(JobMismatchError, match="seed=1, now 2; steps=4, now None"):
        compare(old | {"steps": 4}, old | {"steps": None, "seed": 2}, Path("out"))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt and no job"):
        make_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
