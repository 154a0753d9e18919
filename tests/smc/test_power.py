"""Metropolis to the power alpha against p^alpha / Z, by enumeration."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling import sample, samplers
from dlm_sampling.smc.power import sample_power
from dlm_sampling.testing import EnumerableDenoiser, chi_square, count_states
from dlm_sampling.types import TokenLaw

pytestmark = pytest.mark.slow

JOINT = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(2)).double()
DENOISER = EnumerableDenoiser(JOINT)
TOKENS, EDITABLE = torch.full((3000, 3), 3), torch.ones(3000, 3, dtype=torch.bool)


def test_the_chain_reaches_the_power_law() -> None:
    out = sample_power(DENOISER, TOKENS, EDITABLE, alpha=2.5, moves=16, seeds=range(3000))
    table = JOINT.flatten() ** 2.5
    assert chi_square(count_states(out.tokens, 3), table / table.sum()).p > 1e-3
    assert chi_square(count_states(out.tokens, 3), JOINT.flatten() / JOINT.sum()).p < 1e-9
    place = out.tokens @ torch.tensor([9, 3, 1])
    wanted = (JOINT.flatten() / JOINT.sum()).log()[place]  # exact conditionals: no order matters
    torch.testing.assert_close(out.logprob, wanted, rtol=0, atol=1e-5)
    assert 0.3 < float(out.accepted.mean()) < 0.95


def test_power_one_takes_every_move_and_no_moves_are_a_plain_run() -> None:
    rows = slice(0, 50)
    one = sample_power(DENOISER, TOKENS[rows], EDITABLE[rows], alpha=1.0, moves=3, seeds=range(50))
    assert bool((one.accepted == 1.0).all())
    none = sample_power(DENOISER, TOKENS[rows], EDITABLE[rows], alpha=4.0, moves=0, seeds=range(50))
    plain = sample(
        DENOISER, samplers.create("llada-random"), TOKENS[rows], EDITABLE[rows], seeds=range(50),
        law=TokenLaw(),
    )  # fmt: skip
    assert torch.equal(none.tokens, plain.tokens) and none.nfe.tolist() == [3] * 50


@pytest.mark.parametrize(("alpha", "moves"), [(math.inf, 1), (2.0, -1)])
def test_what_cannot_be_is_refused(alpha: float, moves: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        sample_power(DENOISER, TOKENS[:1], EDITABLE[:1], alpha=alpha, moves=moves, seeds=[0])
