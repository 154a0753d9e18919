"""Steps that mask again: their probabilities, their table, and what they write."""

from __future__ import annotations

import torch

from dlm_sampling.samplers.parts.remasking import (
    Rates,
    remask_probs,
    reveal_and_remask,
    sigma_max,
    unmask_prob,
)
from dlm_sampling.types import Canvas, DrawRecord
from tests.processes.random_laws import laws, same

MASK = 4
TOKENS = torch.tensor([[MASK, 1, MASK, 2], [3, MASK, 0, 0]])
EDITABLE = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0]]).bool()
CANVAS = Canvas(TOKENS, TOKENS == MASK, EDITABLE, torch.zeros(2).long(), MASK)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def test_the_largest_sigma_keeps_the_probability_of_masks() -> None:
    found = sigma_max(column(0.0, 0.2, 0.5, 0.8, 0.8), column(0.5, 0.3, 0.6, 0.9, 1.0))
    same(found, column(1.0, 1.0, 0.8, 0.125, 0.0))


def test_a_step_keeps_the_share_of_masks_of_the_schedule() -> None:
    """(1 - alpha_t) (1 - p) + alpha_t sigma = 1 - alpha_s."""
    a, s, sigma = column(0.2, 0.5, 0.0), column(0.3, 0.9, 0.5), column(0.1, 0.2, 0.7)
    p = unmask_prob(Rates(a, s, sigma))
    same((1 - a) * (1 - p) + a * sigma, 1 - s)


def test_the_table_is_the_law_of_each_position() -> None:
    p0 = torch.nn.functional.pad(laws(61, MASK, 2)[0], (0, 1))[:, [0, 1, 2, 2]]
    rates = Rates(column(0.4, 0.3), column(0.6, 0.5), column(0.1, 0.3))
    p = unmask_prob(rates)
    found = remask_probs(CANVAS, p0.log(), rates)
    for b in range(2):
        for i in range(4):
            law = torch.zeros(MASK + 1, dtype=torch.float64)
            x = int(TOKENS[b, i])
            if not EDITABLE[b, i]:
                law[x] = 1.0
            elif x == MASK:
                law = float(p[b]) * p0[b, i]
                law[MASK] = 1 - float(p[b])
            else:
                law[x], law[MASK] = 1 - float(rates.sigma[b]), float(rates.sigma[b])
            same(found[b, i], law)
    # More than 1: negative weights count as 0.
    wild = remask_probs(
        CANVAS, p0.log(), Rates(column(0.4, 0.4), column(0.9, 0.9), column(1.5, 1.5))
    )
    same(wild[0, 0], p0[0, 0])
    same(wild[0, 1], torch.nn.functional.one_hot(torch.tensor(MASK), MASK + 1).double())


def test_tokens_are_written_and_masked_again() -> None:
    real = torch.zeros(2, 4)
    drawn = torch.full((2, 4), 2)
    draw = DrawRecord(drawn, real - 1.0, real, real, real, real, real)
    where = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    again = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0]]).bool()
    step = reveal_and_remask(CANVAS, where, again, draw)
    assert step.tokens.tolist() == [[2, MASK, MASK, 2], [MASK, MASK, 0, 0]]
    assert step.unknown.int().tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]
    assert step.logprob.tolist() == [[-1.0, 0, 0, 0], [0, 0, 0, 0]]
