"""Orders of positions: what each reads from the record of a draw."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.samplers.parts.orders import LAW_ORDERS, POSITION_ORDERS, check_order
from dlm_sampling.types import Canvas, DrawRecord

FIELDS = [torch.tensor([[float(n), n + 0.5]]) for n in range(6)]
DRAW = DrawRecord(torch.zeros(1, 2).long(), *FIELDS)
CANVAS = Canvas(torch.zeros(2, 3).long(), *(torch.ones(2, 3).bool(),) * 2, torch.zeros(2).long(), 9)


def test_laws_are_scored_by_their_statistics() -> None:
    confident, margin, entropy = (LAW_ORDERS[n] for n in ("confidence", "margin", "entropy"))
    assert torch.equal(confident.score(DRAW), DRAW.log_confidence)
    assert torch.equal(confident.natural(DRAW), DRAW.log_confidence.exp())
    for read in margin:
        assert torch.equal(read(DRAW), DRAW.margin)
    for read in entropy:
        assert torch.equal(read(DRAW), -DRAW.entropy)


def test_positions_are_scored_without_the_law() -> None:
    rng = ops.Rng.from_seeds([1, 2])
    left = POSITION_ORDERS["left_to_right"](CANVAS, rng)
    assert left.tolist() == [[0.0, -1.0, -2.0]] * 2
    u = rng.uniform(ops.Stream.POSITION, CANVAS.tokens)
    assert torch.equal(POSITION_ORDERS["random"](CANVAS, rng), u)


def test_an_unknown_order_is_named() -> None:
    for name in (*LAW_ORDERS, *POSITION_ORDERS):
        check_order("order", name)
    check_order("order", "margin", ("margin",))
    with pytest.raises(ValueError, match="order='randm'"):
        check_order("order", "randm")
    with pytest.raises(ValueError, match="order='random'"):
        check_order("order", "random", tuple(LAW_ORDERS))
