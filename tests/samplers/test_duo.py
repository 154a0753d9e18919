"""Duo's last step: the posterior, its argmax, and the released argmax that ignores the token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import Ancestral, Duo
from dlm_sampling.testing import NoisyEnumerableDenoiser, count_states, tv

SYMBOLS, LENGTH, ROWS = 3, 2, 4_000


def joint() -> Tensor:
    """A law whose positions say little about each other: loo's argmax is one fixed token."""
    weights = torch.tensor([[4.0, 2.0, 2.0], [2.0, 1.2, 1.0], [2.0, 1.0, 1.1]]).double()
    return weights / weights.sum()


def law(sampler: Ancestral, steps: int = 32) -> Tensor:
    tokens = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    toy = NoisyEnumerableDenoiser(joint())
    out = sample(toy, sampler, tokens, tokens == 0, seeds=ops.row_seeds(0, ROWS), steps=steps)
    return count_states(out.tokens, SYMBOLS) / ROWS


def test_the_ancestral_tail_is_ancestral_sampling() -> None:
    assert torch.equal(law(Duo()), law(Ancestral(noise_removal="sample")))
    assert torch.equal(law(Duo(tail="greedy")), law(Ancestral(noise_removal="argmax")))


def test_the_greedy_tail_keeps_the_law_and_the_released_one_loses_it() -> None:
    truth = joint().flatten()
    assert tv(law(Duo()), truth) < 0.04
    assert tv(law(Duo(tail="greedy")), truth) < 0.04
    assert tv(law(Duo(tail="released")), truth) > 0.3


def test_an_unknown_tail_is_refused() -> None:
    with pytest.raises(ValueError, match="tail"):
        Duo(tail="gredy")  # type: ignore[arg-type]
