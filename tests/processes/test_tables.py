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
    too_long = with_stay(2 * leave, x)
    same(too_long.sum(-1), torch.ones(2).double())
    assert float(too_long[1, 1]) == -1.0, "left for `normalised`"
    same(normalised(too_long)[1], torch.tensor([0.5, 0.0, 0.5]).double())


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
