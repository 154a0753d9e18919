"""Sudoku whose clues were observed with errors: the posterior of all 288 grids by particles."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers
from dlm_sampling.guidance import Classifier
from dlm_sampling.smc import TwistedTarget, sample_particles
from dlm_sampling.testing.sudoku import MASK, SudokuOracle, all_grids, is_valid

pytestmark = pytest.mark.slow

SEEN = torch.tensor([0, 3, 5, 10, 12, 15])  # cells that were looked at
DIGITS = torch.tensor([0, 2, 3, 3, 1, 0])  # and what was seen there
RIGHT = 0.8  # chance to see the digit; else one of the three others
GROUPS, COUNT = 100, 24


def log_likelihood(rows: Tensor) -> Tensor:
    """log l(digits | row); a cell to be filled says nothing."""
    held = rows[:, SEEN]
    right = math.log(RIGHT) - math.log((1.0 - RIGHT) / 3)
    open_ = -math.log(4.0) - math.log((1.0 - RIGHT) / 3)
    each = torch.where(held == DIGITS, right, 0.0)
    each = torch.where(held == MASK, open_, each).double()
    return (each + math.log((1.0 - RIGHT) / 3)).sum(1)


def test_noisy_clues_have_the_posterior_of_all_grids() -> None:
    """Every particle is a valid grid, Z is unbiased, and so are the digits of the cells."""
    grids = all_grids()
    likelihood = log_likelihood(grids).exp()
    evidence, posterior = float(likelihood.mean()), likelihood / likelihood.sum()
    empty = torch.zeros(GROUPS, 16, dtype=torch.int64)
    out = sample_particles(
        SudokuOracle(), samplers.create("llada-random"), empty, empty == 0,
        TwistedTarget(log_likelihood), particles=COUNT, seeds=range(GROUPS),
        guidance=Classifier(log_likelihood, 5),
    )  # fmt: skip
    assert bool(is_valid(out.tokens).all())
    ratio = out.log_normalizer.exp() / evidence
    assert abs(float((ratio.mean() - 1.0) / (ratio.std() / math.sqrt(GROUPS)))) < 3.5
    digits = torch.nn.functional.one_hot(out.tokens, 4).double()
    found = (out.log_weights.exp()[:, :, None, None] * digits).sum((0, 1)) / GROUPS
    wanted = (posterior[:, None, None] * torch.nn.functional.one_hot(grids, 4)).sum(0)
    assert float((found - wanted).abs().max()) < 0.12
    assert float((0.25 - wanted).abs().max()) > 0.4
