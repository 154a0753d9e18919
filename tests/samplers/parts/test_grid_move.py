"""One step of the solvers on a grid, by hand: what stays, and which rows remove their noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.samplers import Ancestral, Euler, FlowMatching, Psi
from dlm_sampling.types import Canvas, Clock, Step, TokenLaw
from tests.samplers.small import small_toy

TOKENS = torch.tensor([[1, 7, 1, 2, 7, 7]]).expand(40, -1)
EDITABLE = torch.tensor([[False, True, False, True, True, True]]).expand(40, -1)
STEPS = torch.tensor([3, 4] * 20)
"""At step 3 - 1 the rows of even number take their last step, the others do not."""


def step(sampler: Any, now: Tensor, rows: slice = slice(None), mask: int | None = None) -> Step:
    """Take one step of some of the rows from the same canvas."""
    toy = small_toy(length=6, vocab_size=9)
    net = wrap(lambda input_ids: toy.logits(input_ids), vocab_size=9, mask_token_id=mask)
    tokens, editable = TOKENS[rows], EDITABLE[rows]
    unknown = editable if mask is None else editable & (tokens == mask)
    canvas = Canvas(tokens, unknown, editable, torch.zeros(len(tokens)).long(), mask)
    predict = Predictor.alone(net, TokenLaw(), torch.ones_like(editable))
    rng = ops.Rng.from_seeds(ops.row_seeds(3, 40)[rows])
    clock = Clock(now[rows], STEPS[rows])
    _, done = sampler.step(None, canvas, clock, predict, rng)
    return done


@pytest.mark.parametrize("sampler", [Euler(), Ancestral(), FlowMatching(), Psi()])
@pytest.mark.parametrize("behind", [0, 1, 3])
@pytest.mark.parametrize("mask", [None, 7])
def test_a_row_does_what_it_does_alone_and_fixed_positions_stay(
    sampler: Any, behind: int, mask: int | None
) -> None:
    """`behind` 0 and 1: half of the rows are in their last step, or in that of the noise."""
    check_rows(sampler, behind, mask)


def check_rows(sampler: Any, behind: int, mask: int | None) -> None:
    """Take a step of 40 rows, half of which have one step more to go, together and apart."""
    now = torch.full((40,), 3 - behind)
    together = step(sampler, now, mask=mask)
    assert torch.equal(together.tokens[:, [0, 2]], TOKENS[:, [0, 2]])
    assert not together.logprob[:, [0, 2]].any()
    assert bool((together.tokens != TOKENS).any(1).any()), "something was written"
    for kind in (slice(0, None, 2), slice(1, None, 2)):
        apart = step(sampler, now, kind, mask)
        assert torch.equal(together.tokens[kind], apart.tokens)
        assert torch.equal(together.unknown[kind], apart.unknown)
        torch.testing.assert_close(together.logprob[kind], apart.logprob)
