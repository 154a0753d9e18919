"""A job: its shards, the names of its files, and the values that cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlm_sampling.jobs import GenerateOptions, Job, PromptItem


def job(folder: Path, **changes: Any) -> Job:
    options = GenerateOptions(seed=1, num_return_sequences=2)
    return Job(["a", PromptItem("b"), "c"], folder, options=options, shard_rows=2, **changes)


def test_shards_cover_every_prompt_once_and_name_their_files(tmp_path: Path) -> None:
    found = job(tmp_path)
    assert [(s.number, s.count, s.first, s.last) for s in found.shards()] == [
        (0, 2, 0, 2), (1, 2, 2, 3),
    ]  # fmt: skip
    assert found.part(found.shards()[1]) == tmp_path / "data" / "part-00001-of-00002.parquet"
    assert found.items == [PromptItem("a"), PromptItem("b"), PromptItem("c")]


def test_rows_are_counted_from_the_names_of_files(tmp_path: Path) -> None:
    found = job(tmp_path, file_format="jsonl")
    assert found.rows_done() == 0
    (tmp_path / "data").mkdir()
    (tmp_path / "partial").mkdir()
    found.part(found.shards()[1]).touch()
    (tmp_path / "data" / "part-00000-of-00009.jsonl").touch()  # of another job
    (tmp_path / "partial" / "00000-00001-3.jsonl").touch()
    assert found.rows_done() == 1 * 2 + 3


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"shard_rows": 0}, ValueError, "shard_rows=0: must be at least 1"),
        ({"batch_rows": 2.5}, TypeError, "batch_rows=2.5: must be a whole number"),
        ({"max_errors": "1%"}, TypeError, "max_errors='1%'"),
        ({"file_format": "parqet"}, ValueError, "Did you mean 'parquet'"),
        ({"options": GenerateOptions(seed=None)}, ValueError, "seed=None: a job needs one"),
        ({"options": GenerateOptions(seed=[1, 2, 3])}, ValueError, "a job needs one whole number"),
        (
            {"options": GenerateOptions(seed=0, cache="dual", cache_audit=0.5)},
            ValueError,
            "cache_audit=0.5: a job keeps rows",
        ),
        ({"prompts": []}, ValueError, r"prompts=\[\]: give at least one"),
    ],
)
def test_a_job_that_cannot_be_is_refused(
    changes: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        replace(job(tmp_path), **changes)
