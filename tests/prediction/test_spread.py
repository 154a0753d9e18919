"""A draw at some positions, spread over the canvas."""

from __future__ import annotations

import torch

from dlm_sampling.prediction.shapes import FREE
from dlm_sampling.prediction.spread import SpreadDraw, empty_draw
from dlm_sampling.types import DrawRecord


def test_every_field_goes_to_its_positions() -> None:
    where = torch.tensor([[True, False, True], [False, True, False]])
    columns = [torch.tensor([1, 2, 3]) + 10 * i for i in range(7)]
    draw = SpreadDraw(DrawRecord(*columns), FREE.sites(where))
    for _ in range(2):  # made once, then kept
        for column, table in zip(columns, DrawRecord.of(draw), strict=True):
            assert torch.equal(table[where], column)
            assert not table[~where].any()
    nothing = DrawRecord.of(empty_draw(FREE.sites(torch.zeros_like(where))))
    assert nothing.token.dtype == torch.int64
    assert all(table.shape == where.shape and not table.any() for table in nothing)
