"""The rank that launchers set."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import Rank, rank_of

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "5"}


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, Rank()),
        (TORCHRUN, Rank(5, 8, 1)),
        (SLURM, Rank(3, 4, 1)),
        (ARRAY, Rank(2, 5, 0)),
        (SLURM | ARRAY, Rank(2 * 4 + 3, 20, 1)),
        (SLURM | ARRAY | {"SLURM_PROCID": "0"}, Rank(2 * 4, 20, 1)),
        (TORCHRUN | SLURM, Rank(5, 8, 1)),
        (TORCHRUN | {"DLM_SHARD": "3/16"}, Rank(3, 16, 1)),
        ({"SLURM_NTASKS": "4"}, Rank()),
    ],
)
def test_launchers(environment: dict[str, str], rank: Rank) -> None:
    assert rank_of(environment) == rank


@pytest.mark.parametrize(
    "environment",
    [
        {"DLM_SHARD": "4/4"},
        {"DLM_SHARD": "3"},
        {"DLM_SHARD": "-1/4"},
        {"RANK": "8", "WORLD_SIZE": "8"},
        {"RANK": "x", "WORLD_SIZE": "8"},
    ],
)
def test_wrong_ranks_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="must be"):
        rank_of(environment)


def test_a_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert Rank(5, 8, 5).device(None) == "cuda:1"
    assert Rank(5, 8, 1).device("cuda") == "cuda:1"
    assert Rank(5, 8, 1).device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert Rank(5, 8, 1).device(None) is None
