"""The projection of laws against its closed form for a linear cost, and where it does nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, samplers
from dlm_sampling.guidance import Projection
from dlm_sampling.types import TokenLaw
from tests.guidance.toys import CANVASES, EXACT_P, LENGTH, MASK, S, log_probs

COST = torch.tensor([1.0, 0.2, 0.6], dtype=torch.float64)


def cost(y: Tensor) -> Tensor:
    """The expected cost of all positions; the mask costs nothing."""
    return (y[..., :S] * COST).sum((1, 2))


def closed_form(p: Tensor, bound: float) -> Tensor:
    """argmin KL(p || y) with E_y[c] <= bound, of one position: y = p / (nu + lam c)."""

    def bisected(low: float, high: float, grows: Any) -> float:
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if grows(middle) else (low, middle)
        return high

    def law(lam: float) -> Tensor:
        nu = bisected(
            -lam * float(COST.min()), 2.0, lambda n: float((p / (n + lam * COST)).sum()) > 1
        )
        return p / (nu + lam * COST)

    if float((p * COST).sum()) <= bound:
        return p
    return law(bisected(0.0, 1e4, lambda lam: float((law(lam) * COST).sum()) > bound))


def test_a_linear_cost_has_the_closed_form() -> None:
    """One open position in each of the canvases of a mask, whose laws are those of P."""
    x = CANVASES[(CANVASES == MASK).sum(1) == 1][::9]
    plain = log_probs(None, EXACT_P, x).exp()[:, :S].double()
    spent = (plain * COST).sum(1)
    for bound in (float(spent.quantile(0.6)), float(spent.quantile(0.2))):
        row = torch.nn.functional.one_hot(x, S + 1)[..., :S].double()
        known = ((row * COST).sum((1, 2))).unsqueeze(1)

        def own(y: Tensor, known: Tensor = known) -> Tensor:
            return cost(y) - known[:, 0]

        found = log_probs(Projection(own, bound), EXACT_P, x).exp()[:, :S].double()
        wanted = torch.stack([closed_form(p, bound) for p in plain])
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        within = spent <= bound
        assert bool(within.any()) and not bool(within.all())
        torch.testing.assert_close(found[within], plain[within], rtol=0, atol=1e-12)


def run(guide: Projection | None, count: int, **options: Any) -> Any:
    empty = torch.zeros(count, LENGTH, dtype=torch.int64)
    return sample(
        EXACT_P, samplers.create("llada-random"), empty, empty == 0, law=TokenLaw(),
        guidance=guide, **{"seeds": range(count), **options},
    )  # fmt: skip


@pytest.mark.slow
def test_texts_become_cheaper_and_loose_bounds_change_nothing() -> None:
    plain = run(None, 60)
    for guide in (Projection(cost, 3.0), Projection(cost, 0.9, outer=0)):
        assert torch.equal(run(guide, 60).tokens, plain.tokens)
    guide = Projection(cost, 1.2, outer=8, inner=30)
    out = run(guide, 60)
    spent, before = (COST[rows.tokens].sum(1).mean() for rows in (out, plain))
    assert float(spent) < float(before) - 0.2
    alone = run(guide, 1, seeds=[7])
    assert torch.equal(alone.tokens[0], out.tokens[7])
    assert out.nfe.tolist() == plain.nfe.tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"constraint": 1}, "constraint is an int: must be a function"),
        ({"bound": float("nan")}, "bound=nan: must be finite"),
        ({"inner": -1}, "inner=-1: must be at least 0"),
        ({"growth": 0.5}, "growth >= 1"),
    ],
)
def test_what_is_no_projection_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Projection(**{"constraint": cost, **options})
