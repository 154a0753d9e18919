"""A large batch runs a part at a time, and nobody who looks at it can tell."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers, wrap
from dlm_sampling.engine.batches import by_length, check_batch_size, in_parts, run_parts
from dlm_sampling.engine.checks import check_canvases
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.engine.request import Canvases, Request
from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.types import TokenLaw

V, MASK, B, L = 9, 8, 5, 6
TABLE = torch.randn(V, L, V, generator=torch.Generator().manual_seed(0))


def logits(ids: Tensor) -> Tensor:
    """Depend on the whole row."""
    return sum(TABLE[ids[:, i]] for i in range(L))  # type: ignore[return-value]


DENOISER = wrap(logits, vocab_size=V, mask_token_id=MASK)
REQUEST = Request(samplers.create("llada"), TokenLaw(), return_trajectory=True)


def test_batches_are_of_similar_length_and_keep_the_order_of_equal_rows() -> None:
    lengths = [9, 3, 9, 1, 3, 7]
    assert by_length(range(6), lengths, 2) == [[3, 1], [4, 5], [0, 2]]
    assert by_length([2, 0, 4], lengths, 2) == [[4, 2], [0]]
    assert by_length([], lengths, 2) == []


def canvases() -> Canvases:
    editable = torch.ones(B, L, dtype=torch.bool)
    for row in range(B):
        editable[row, :row] = False
    return check_canvases(DENOISER, torch.full((B, L), 3), editable, None, range(10, 10 + B))


def run(batch_size: int | None) -> tuple[SampleOutput, list[StepEvent]]:
    heard: list[StepEvent] = []
    return run_parts(DENOISER, REQUEST, canvases(), batch_size, [heard.append]), heard


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_parts_give_what_the_whole_gives(batch_size: int) -> None:
    (whole, heard), (parts, heard_parts) = run(None), run(batch_size)
    for name in ("tokens", "logprob", "nfe", "work", "steps", "ended"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name
    assert parts.seeds == whole.seeds == (10, 11, 12, 13, 14)
    assert whole.trajectory is not None and parts.trajectory is not None
    for row in range(B):
        assert torch.equal(parts.trajectory.canvases(row), whole.trajectory.canvases(row))
        for events in (heard, heard_parts):  # rows have their number in the whole batch
            steps = sum(int((event.rows == row).sum()) for event in events)
            assert steps == int(whole.steps[row])


def ranges(first: int, last: int) -> list[int]:
    return list(range(first, last))


def test_parts_are_run_when_they_are_asked_for() -> None:
    asked: list[tuple[int, int]] = []
    parts = in_parts(5, 2, lambda first, last: asked.append((first, last)) or ranges(first, last))
    assert not asked
    assert next(parts) == (0, [0, 1])
    assert asked == [(0, 2)]
    assert list(parts) == [(2, [2, 3]), (4, [4])]


def test_halves_of_a_part_that_does_not_fit() -> None:
    sizes: list[int] = []

    def run(first: int, last: int) -> list[int]:
        if last - first > 3:
            raise MemoryError
        return ranges(first, last)

    assert [rows for _, rows in in_parts(11, 7, run, sizes.append)] == [
        [0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]
    ]  # fmt: skip
    assert sizes == [4, 2]
    with pytest.raises(MemoryError):
        next(in_parts(11, 7, run))  # a caller that cannot begin a part again


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_part_has_at_least_one_row(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size={batch_size}: must be at least 1"):
        run_parts(DENOISER, REQUEST, canvases(), batch_size)


def test_a_part_has_its_rows_of_every_field() -> None:
    """A new field of `Canvases` that `part` or `to` forgets fails here."""
    whole = replace(canvases(), complete=tuple(lambda text: bool(text) for _ in range(B)))
    whole = replace(whole, begin=torch.arange(B))
    part, moved = whole.part(1, 4), whole.to(torch.device("cpu"))
    for field in fields(Canvases):
        value, mine = getattr(whole, field.name), getattr(part, field.name)
        assert len(value) == B and len(mine) == 3, field.name
        same = torch.equal if isinstance(value, torch.Tensor) else tuple.__eq__
        assert same(value[1:4], mine) and same(value, getattr(moved, field.name)), field.name


def test_a_batch_size_is_checked_by_type_first() -> None:
    check_batch_size(None)
    check_batch_size(1)
    with pytest.raises(ValueError, match="batch_size=0: must be at least 1"):
        check_batch_size(0)
    with pytest.raises(TypeError, match="batch_size="):
        check_batch_size("8")  # type: ignore[arg-type]
