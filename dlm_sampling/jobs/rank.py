"""Read the number of this process and of all processes from the environment; join none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dlm_sampling.errors import UsageError


@dataclass(frozen=True)
class Rank:
    """Hold the number of this process, from 0, of `world` in all; `local` counts on its machine."""

    index: int = 0
    world: int = 1
    local: int = 0

    def device(self, asked: str | None) -> str | None:
        """Return the device of this process: one GPU each where the machine has several."""
        import torch

        count = torch.cuda.device_count()
        return f"cuda:{self.local % count}" if asked in (None, "cuda") and count > 1 else asked


def rank_of(environment: Mapping[str, str]) -> Rank:
    """Return the rank that a launcher has set.

    In this order: DLM_SHARD=i/n with i from 0 to n - 1; RANK, WORLD_SIZE and LOCAL_RANK, as
    torchrun and accelerate set them; SLURM's tasks of a step, times the tasks of a job array.

    Raises:
        UsageError: a value is no number, or out of range.
    """

    def number(name: str, default: int) -> int:
        text = environment.get(name, str(default))
        if not text.isdecimal():
            raise UsageError(f"{name}={text}: must be a whole number from 0.")
        return int(text)

    if "DLM_SHARD" in environment:
        text = environment["DLM_SHARD"]
        index, _, world = text.partition("/")
        if not (index.isdecimal() and world.isdecimal() and int(index) < int(world)):
            raise UsageError(f"DLM_SHARD={text}: must be i/n with i from 0 to n - 1, such as 0/4.")
        return Rank(int(index), int(world), number("LOCAL_RANK", 0))
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank = Rank(number("RANK", 0), number("WORLD_SIZE", 1), number("LOCAL_RANK", 0))
    else:
        tasks = number("SLURM_NTASKS", 1) if "SLURM_PROCID" in environment else 1
        arrays = number("SLURM_ARRAY_TASK_COUNT", 1)
        array = number("SLURM_ARRAY_TASK_ID", 0) - number("SLURM_ARRAY_TASK_MIN", 0)
        task = number("SLURM_PROCID", 0)
        rank = Rank(array % arrays * tasks + task, arrays * tasks, number("SLURM_LOCALID", 0))
    if not rank.index < rank.world:
        raise UsageError(f"process {rank.index} of {rank.world}: must be one from 0 on.")
    return rank
