"""Blocks against a plain enumeration of the rule."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.engine.blocks import plan_blocks


def enumerate_blocks(
    row: list[bool], length: int | None, steps: int | None, origin: int | None
) -> list[tuple[int, int, int]]:
    columns = [i for i, e in enumerate(row) if e]
    if not columns:
        return []
    first, last, total = columns[0], columns[-1], len(columns)
    size = length or last - first + 1
    if origin is not None and length is not None:
        first = origin + (first - origin) // size * size
    planned, found = steps or total, []
    for start in range(first, last + 1, size):
        stop = min(start + size, last + 1)
        before, after = sum(c < start for c in columns), sum(c < stop for c in columns)
        if after > before:
            found.append(
                (start, stop, max(1, planned * after // total - planned * before // total))
            )
    return found


@pytest.mark.parametrize("length", [None, 1, 3, 4, 50])
@pytest.mark.parametrize("steps", [None, 1, 7, 100])
@pytest.mark.parametrize("aligned", [False, True])
def test_plan(length: int | None, steps: int | None, aligned: bool) -> None:
    editable = torch.rand(40, 17, generator=torch.Generator().manual_seed(1)) < 0.4
    editable[0] = False
    editable[1] = True
    origin = torch.arange(40) % 3 if aligned else None
    if origin is not None:
        editable &= torch.arange(17) >= origin.unsqueeze(1)
    plan = plan_blocks(editable, length, steps, origin=origin)
    for b, row in enumerate(editable.tolist()):
        n = int(plan.number[b])
        ours = list(
            zip(
                plan.start[b, :n].tolist(),
                plan.stop[b, :n].tolist(),
                plan.steps[b, :n].tolist(),
                strict=True,
            )
        )
        assert ours == enumerate_blocks(
            row, length, steps, None if origin is None else int(origin[b])
        )


def test_llada_share() -> None:
    editable = torch.zeros(1, 40, dtype=torch.bool)
    editable[0, 8:] = True
    assert plan_blocks(editable, 8, 20).steps.tolist() == [[5, 5, 5, 5]]
    assert plan_blocks(editable, 8, 3, steps_per_block=6).steps.tolist() == [[6, 6, 6, 6]]


@pytest.mark.parametrize(
    ("name", "options"), [("block_length", {"block_length": 0}), ("steps", {"steps": 0})]
)
def test_errors_name_the_argument(name: str, options: dict[str, int]) -> None:
    arguments = {"block_length": None, "steps": None, **options}
    with pytest.raises(ValueError, match=name):
        plan_blocks(torch.ones(1, 4).bool(), **arguments)
