"""Tables of laws: the rest stays at x, temperature and filters act on the law of the network."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.processes.tables import (
    clean_table,
    normalised,
    off_diagonal,
    one_hot,
    per_position,
    value_at,
    with_stay,
)
from dlm_sampling.types import PredictionKind, TokenLaw
from tests.processes.random_laws import MASK, SIZE, laws, masked, number, same

LAWS = [TokenLaw(), TokenLaw(temperature=0.5), TokenLaw(top_k=2), TokenLaw(temperature=2.0)]


def test_a_current_token_is_read_marked_and_left_out() -> None:
    p, x = laws(1)
    here = one_hot(x, p)
    same(here.sum(-1), torch.ones(x.shape).double())
    same(value_at(p, x).squeeze(-1), (here * p).sum(-1))
    same(off_diagonal(p, x), p * (1 - here))
    for value in (number(0.3), number(0.3).expand(len(x), 1), number(0.3).expand(x.shape)):
        assert per_position(value, x, p).shape == (*x.shape, 1)


def test_what_does_not_leave_stays() -> None:
    leave, x = torch.tensor([[0.75, 0.25, 0.125], [0.5, 0.75, 0.5]]).double(), torch.tensor([0, 1])
    law = with_stay(leave, x)
    same(law, torch.tensor([[0.625, 0.25, 0.125], [0.5, 0.0, 0.5]]).double())
    canvas = with_stay(leave.view(2, 1, 3), x.view(2, 1))
    same(canvas, law.view(2, 1, 3))
    too_long = with_stay(2 * leave, x)
    same(too_long.sum(-1), torch.ones(2).double())
    assert float(too_long[1, 1]) == -1.0, "left for `normalised`"
    same(normalised(too_long)[1], torch.tensor([0.5, 0.0, 0.5]).double())


def test_only_rounding_below_0_becomes_0() -> None:
    """At x = 0 what is left is 1 minus the others."""
    leave = torch.tensor([[[0, 0.5, 0.5 + 1e-13], [0, 0.5, 0.5 + 1e-9]]], dtype=torch.float64)
    law = with_stay(leave, torch.zeros(1, 2, dtype=torch.int64))
    assert float(law[0, 0, 0]) == 0.0
    assert float(law[0, 1, 0]) == pytest.approx(-1e-9, rel=1e-3)


def test_rows_are_divided_by_their_sum() -> None:
    weights = torch.tensor([[[1.0, -5.0, 3.0], [2.0, 2.0, 4.0]]]).double()
    wanted = torch.tensor([[[0.25, 0.0, 0.75], [0.25, 0.25, 0.5]]]).double()
    same(normalised(weights), wanted)


def test_values_are_spread_over_positions() -> None:
    p, x = laws(4)
    rows = torch.arange(float(len(x))).unsqueeze(1)
    same(per_position(rows, x, p), rows.double().expand(x.shape).unsqueeze(-1))
    same(per_position(number(0.3), x, p), torch.full((*x.shape, 1), 0.3, dtype=torch.float64))
    assert per_position(number(0.3), x, p.float()).dtype == torch.float32


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_temperature_and_filters_act_on_the_law_of_the_network(law: TokenLaw) -> None:
    loo, x = (part.flatten(0, 1) for part in laws(2))
    alpha = number(0.4).expand(x.shape)
    scaled = loo ** (1 / law.temperature)
    if law.top_k is not None:
        scaled = scaled * (loo >= loo.topk(law.top_k).values[:, -1:])
    wanted = scaled / scaled.sum(-1, keepdim=True)

    def table(source: PredictionKind, target: PredictionKind, logits: torch.Tensor) -> torch.Tensor:
        return clean_table(
            logits, x, alpha, law=law, process=Uniform(), source=source, target=target
        )

    same(table("leave_one_out", "leave_one_out", loo.log()), wanted)
    posterior = Uniform().convert(wanted, x, alpha, "leave_one_out", "posterior")
    same(table("leave_one_out", "posterior", loo.log()), posterior)
    ratios = Uniform().convert(loo, x, alpha, "leave_one_out", "log_score")
    same(table("log_score", "leave_one_out", ratios.log()), wanted)


def test_scores_keep_their_learned_scale_where_nothing_is_filtered() -> None:
    p, x = (part.flatten(0, 1) for part in masked(3))
    scores = 3.0 * p + (torch.arange(SIZE) == MASK)
    found = clean_table(
        scores.log(), x, number(0.4).expand(x.shape), law=TokenLaw(suppressed=(MASK,)),
        process=Absorbing(MASK), source="log_score", target="log_score",
    )  # fmt: skip
    same(found[x == MASK][:, :MASK], 3.0 * p[x == MASK][:, :MASK])


def test_filters_act_on_scores_through_their_law() -> None:
    """A network of scores of masks: suppressing a token as well is a filter."""
    p, x = masked(5)
    p, x = p[x == MASK], x[x == MASK]
    alpha = number(0.4).expand(x.shape)
    process = Absorbing(MASK)
    scores = 3.0 * process.convert(p, x, alpha, "posterior", "log_score")
    found = clean_table(
        scores.log(), x, alpha, law=TokenLaw(suppressed=(MASK, 0)), process=process,
        source="log_score", target="posterior",
    )  # fmt: skip
    left = p * (torch.arange(SIZE) != 0)
    same(found, left / left.sum(-1, keepdim=True))
