"""A step taken again: recorded tokens in place of random ones, with the sampler's own laws."""

from __future__ import annotations

import torch

from dlm_sampling import ops
from dlm_sampling.prediction.forced import ForcedPredictor, Record
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.types import Site, TokenLaw
from tests.samplers.small import MASK, small_toy

LAW = TokenLaw(0.5, suppressed=(MASK,))


def forced(known: list[bool], from_law: bool = False) -> tuple[ForcedPredictor, torch.Tensor]:
    toy, before = small_toy(), torch.tensor([[MASK, 1, MASK]])
    inside = torch.tensor([known])
    record = Record(
        before, torch.tensor([[2, 1, 0]]), inside, inside & from_law,
        torch.zeros(1, 3), torch.zeros(1, 3).bool(),
    )  # fmt: skip
    predictor = Predictor.alone(toy, LAW, torch.ones(1, 3).bool())
    logits = toy.logits(before)[0].double()
    logits[:, MASK] = -torch.inf
    return ForcedPredictor(predictor, record), logits


def test_a_draw_takes_the_recorded_tokens_and_draws_the_others() -> None:
    predictor, logits = forced([True, False, False])
    rng = ops.Rng.from_seeds([1])
    where = torch.tensor([[True, False, True]])
    draw = predictor(predictor.record.before, torch.ones(1).double()).draw(where, rng)
    expected = (logits / 0.5).log_softmax(-1)
    assert int(draw.token[0, 0]) == 2
    assert abs(float(draw.logprob[0, 0] - expected[0, 2])) < 1e-6
    assert abs(float(draw.logprob[0, 2] - expected[2, draw.token[0, 2]])) < 1e-6
    assert predictor.record.scored.tolist() == [[True, False, False]]
    greedy = predictor(predictor.record.before, torch.ones(1).double()).draw(
        where, rng, greedy=torch.ones(1).bool()
    )
    assert float(greedy.logprob[0, 0]) == 0.0


def test_laws_of_rules_tables_and_mixtures_are_scored_normalised() -> None:
    weights = torch.tensor([[1.0, 2.0, 5.0, 0.0], [3.0, 1.0, 0.0, 0.0]]).double()
    where, rng = torch.tensor([[True, False, True]]), ops.Rng.from_seeds([1])
    expected = torch.tensor([5 / 8, 3 / 4]).double()

    def rule(site: Site) -> torch.Tensor:
        return weights[(site.column == 2).long()]

    predictor, _ = forced([True, False, True])
    time = torch.ones(1).double()
    prediction = predictor(predictor.record.before, time)
    alpha = torch.full((1,), 0.5).double()
    for draw in (
        prediction.draw_by(rule, where, rng, alpha=alpha, reads="posterior"),
        prediction.draw_table(weights, where, rng),
    ):
        assert draw.token[where].tolist() == [2, 0]
        assert torch.allclose(draw.logprob[where].exp().double(), expected)
    mixed = prediction.draw_from(weights.log(), where, rng).logprob[where].exp().double()
    square = weights**2  # at temperature 0.5
    assert torch.allclose(mixed, torch.stack([square[0, 2], square[1, 0]]) / square.sum(1))


def test_tokens_of_the_runs_law_are_scored_wherever_the_sampler_would_write_now() -> None:
    predictor, logits = forced([True, False, False], from_law=True)
    predictor(predictor.record.before, torch.ones(1).double())
    found = predictor.record.logprob[0, 0]
    assert abs(float(found - (logits / 0.5).log_softmax(-1)[0, 2])) < 1e-6
    assert not predictor(predictor.record.before, torch.ones(1).double()).direct


def test_positions_that_are_not_recorded_are_drawn_as_without_a_record() -> None:
    """Every kind of draw, at many positions and seeds; recorded positions change nothing else."""
    where = torch.tensor([[True, True, True]])
    weights = torch.tensor([[1.0, 2.0, 5.0, 0.0], [3.0, 1.0, 4.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    alpha, time = torch.full((1,), 0.5).double(), torch.ones(1).double()

    def rule(site: Site) -> torch.Tensor:
        return weights.double()[site.column]

    for seed in range(8):
        predictor, _ = forced([True, False, False])
        alone = Predictor.alone(small_toy(), LAW, where)
        rng = ops.Rng.from_seeds([seed])
        some, plain = (p(predictor.record.before, time) for p in (predictor, alone))
        pairs = [
            (
                p.draw_by(rule, where, rng, alpha=alpha, reads="posterior"),
                p.draw_table(weights.double(), where, rng),
                p.draw_from(weights.log(), where, rng),
                p.draw(where, rng),
            )
            for p in (some, plain)
        ]
        for found, wanted in zip(*pairs, strict=True):
            assert found.token.tolist() == [[2, *wanted.token[0, 1:].tolist()]]
            torch.testing.assert_close(
                found.logprob[0, 1:].double(), wanted.logprob[0, 1:].double()
            )
