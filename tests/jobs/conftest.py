"""A job of a few rows that every test of this folder may run."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlm_sampling import AutoDenoiser, Denoiser
from dlm_sampling.jobs import BlockRequest, GenerateOptions, Job, PromptItem, Rank, run_job
from tests.tiny import CONTEXT

PROMPTS = [PromptItem("a" * (1 + 5 * i % 7), name=f"r{i}") for i in range(16)]
PROMPTS[5] = PromptItem("b" * (CONTEXT + 1), name="too long")
OPTIONS = GenerateOptions(
    sampler="ancestral", max_new_tokens=4, blocks=BlockRequest(steps=3), seed=3
)


@pytest.fixture(scope="session")
def denoiser(tiny_llada: Path) -> Denoiser:
    return AutoDenoiser.from_pretrained(str(tiny_llada))


@pytest.fixture
def job(tmp_path: Path, tiny_llada: Path) -> Job:
    """Rows of different length, one of them too long; four shards of up to six batches."""
    return Job(
        PROMPTS,
        tmp_path / "out",
        str(tiny_llada),
        OPTIONS,
        shard_rows=5,
        batch_rows=1,
        file_format="jsonl",
    )


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory, denoiser: Denoiser, tiny_llada: Path) -> Path:
    """The folder of that job after one run without a disturbance."""
    folder = tmp_path_factory.mktemp("clean")
    run_job(
        Job(PROMPTS, folder / "out", str(tiny_llada), OPTIONS, 5, 1, "jsonl"),
        denoiser,
    )
    return folder / "out"


def load_and_run(job: Job, rank: Rank) -> None:
    """Be one of the processes of a job."""
    run_job(job, AutoDenoiser.from_pretrained(job.model), rank=rank)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but logs, by its name."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != "logs"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
