"""The texts of an evaluation are those of one process, however many ran and were stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from dlm_eval.text.samples import Sample, describe, run_samples

from dlm_sampling import AutoDenoiser, Denoiser
from dlm_sampling.jobs import GenerateOptions, Job, PromptItem, Rank, run_job


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return AutoDenoiser.from_pretrained("sudoku4x4")


def job_in(folder: Path, sampler: str = "ancestral") -> Job:
    options = GenerateOptions(sampler=sampler, max_new_tokens=15, seed=4)
    return Job(
        [PromptItem("")] * 7, folder, "sudoku4x4", options, shard_rows=3, batch_rows=2,
        file_format="jsonl", max_errors=0,
    )  # fmt: skip


def test_processes_and_interrupts_change_no_text(tmp_path: Path, denoiser: Denoiser) -> None:
    whole = run_samples(job_in(tmp_path / "one"), Rank(), denoiser)
    assert whole is not None
    assert len({sample.text for sample in whole}) > 4
    assert [sample.nfe for sample in whole] == [sample.nfe for sample in whole if sample.nfe]

    job, batches = job_in(tmp_path / "two"), 0

    def after_two() -> bool:
        nonlocal batches
        batches += 1
        return batches > 2

    with pytest.raises(KeyboardInterrupt):
        run_job(job, denoiser, rank=Rank(1, 2), stop=after_two)
    assert job.rows_done() == 2 + 1
    assert run_samples(job, Rank(0, 2), denoiser) == whole
    assert run_samples(job, Rank(1, 2), denoiser) == whole
    assert [sample.seed for sample in whole] == list(dict.fromkeys(s.seed for s in whole))


def test_the_subject_names_the_sampler_and_the_protocol_the_task(
    tmp_path: Path, denoiser: Denoiser
) -> None:
    facts = []
    for sampler in ("ancestral", "llada"):
        job = job_in(tmp_path / sampler, sampler)
        run_samples(job, Rank(), denoiser)
        facts.append(describe(job))
    (one, asked), (other, same) = facts
    assert asked == same
    assert asked["max_new_tokens"] == 15 and asked["prompts"] == "none"
    assert one["seed"] == 4 and one["weights"] == other["weights"]
    assert str(one["sampler"]).startswith("Ancestral(") and one["sampler"] != other["sampler"]


def test_a_sample_that_was_read_has_no_cost() -> None:
    assert Sample("text").nfe is None
