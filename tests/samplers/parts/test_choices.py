"""Log-probabilities of a choice of positions, by enumeration of all choices."""

from __future__ import annotations

import math

import torch

from dlm_sampling.samplers.parts.choices import (
    certain,
    log_independent,
    log_moves,
    log_subset,
)
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import Canvas, Choice

EVERY = all_states(4, 2).bool()  # all 16 subsets of four positions
AMONG = torch.tensor([True, True, False, True]).expand(16, -1)


def test_independent_choices_add_up_to_one() -> None:
    p = torch.tensor([0.3, 0.0, 0.5, 1.0], dtype=torch.float64)
    subsets = EVERY[~EVERY[:, 2]]
    found = log_independent(subsets, AMONG[:8], p.expand(8, -1))
    for subset, value in zip(subsets.tolist(), found.tolist(), strict=True):
        factors = [float(q) if on else 1.0 - float(q) for on, q in zip(subset, p, strict=True)]
        wanted = factors[0] * factors[1] * factors[3]
        assert math.isclose(math.exp(value), wanted, abs_tol=1e-15)
    assert math.isclose(float(found.exp().sum()), 1.0)
    rows = torch.tensor([0.25, 1.5], dtype=torch.float64)  # one of each row, cut to [0, 1]
    chosen = torch.tensor([[True, False, False, True], [True, True, False, True]])
    wanted = torch.tensor([2 * math.log(0.25) + math.log(0.75), 0.0], dtype=torch.float64)
    torch.testing.assert_close(log_independent(chosen, AMONG[:2], rows), wanted)


def test_subsets_of_a_size_are_equally_probable() -> None:
    chosen = EVERY & AMONG
    for size in range(6):
        found = log_subset(chosen, AMONG, torch.full((16,), size))
        k = min(size, 3)
        right = chosen.sum(1) == k
        wanted = torch.full((16,), -torch.inf, dtype=torch.float64)
        wanted[right] = -math.log(math.comb(3, k))
        torch.testing.assert_close(found, wanted)


def test_moves_are_reveals_and_masks_and_the_last_step_writes_all() -> None:
    """Two masks and two tokens; another probability of each row and of each position."""
    unknown = torch.tensor([[True, True, False, False]]).expand(2, -1)
    rows = torch.zeros(2, dtype=torch.int64)
    canvas = Canvas(torch.zeros(2, 4).long(), unknown, torch.ones(2, 4).bool(), rows, 9)
    choice = Choice(
        torch.tensor([[True, False, False, False], [True, True, False, False]]),
        torch.tensor([[False, False, True, False], [False, False, False, False]]),
        greedy=False,
    )
    reveal = torch.tensor([0.4, 0.9], dtype=torch.float64)
    remask = torch.tensor([0.0, 0.0, 0.2, 0.7], dtype=torch.float64).expand(2, -1)
    some = math.log(0.4) + math.log(0.6) + math.log(0.2) + math.log(0.3)
    found = log_moves(canvas, choice, reveal, remask, torch.tensor([False, True]))
    torch.testing.assert_close(found, torch.tensor([some, 0.0], dtype=torch.float64))
    alike = log_moves(canvas, choice, reveal.unsqueeze(1), remask, torch.tensor([False, True]))
    assert torch.equal(alike, found)
    each = log_moves(canvas, choice, reveal, reveal / 2, torch.tensor([False, False]))
    first = math.log(0.4) + math.log(0.6) + math.log(0.2) + math.log(0.8)
    second = 2 * math.log(0.9) + 2 * math.log(0.55)
    torch.testing.assert_close(each, torch.tensor([first, second], dtype=torch.float64))
    late = log_moves(canvas, choice, reveal, remask, torch.tensor([True, True]))
    assert late.tolist() == [-math.inf, 0.0]
    assert certain(canvas).tolist() == [0.0, 0.0]
