"""Picard sweeps end at the sequential run: tokens, log-probabilities, blocks; in fewer sweeps."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import (
    Ancestral,
    Euler,
    Picard,
    Psi,
    TauLeaping,
    ThetaTrapezoidal,
    Tweedie,
)
from dlm_sampling.types import TokenLaw

VOCAB, LENGTH = 9, 12


def toy(mask: int | None, coupling: float = 1.0) -> Any:
    """Row-wise arithmetic in float64: a row has the same logits in every batch."""
    generator = torch.Generator().manual_seed(2)
    e = torch.randn(VOCAB, VOCAB, generator=generator).double()
    p = torch.randn(LENGTH, VOCAB, generator=generator).double()

    def logits(input_ids: Tensor, t: Tensor) -> Tensor:
        before = e[input_ids].roll(1, 1) + e.T[input_ids].roll(-2, 1)
        return p[: input_ids.shape[1]] + coupling * before + t[:, None, None] * 0.1

    kind: Any = "posterior" if mask is not None else "leave_one_out"
    return wrap(logits, vocab_size=VOCAB, mask_token_id=mask, kind=kind)


def run(denoiser: Any, sampler: Any, steps: int, **options: Any) -> Any:
    tokens = torch.full((5, LENGTH), 1)
    editable = torch.ones(5, LENGTH).bool()
    editable[1, :4] = editable[2, 5:7] = editable[3, 3:] = False
    editable[4] = False
    return sample(
        denoiser, sampler, tokens, editable, seeds=ops.row_seeds(8, 5), steps=steps, **options
    )


BASES = [
    (Ancestral(), None),
    (Ancestral(noise_removal="sample"), 8),
    (Euler(), 8),
    (Tweedie(), None),
    (TauLeaping(t_end=1e-2), None),
    (TauLeaping(t_end=1e-2, events="reject"), 8),
    (Psi(), None),  # a solver that revises ends with its last step
    (Psi(), 8),
]


OPTIONS: list[dict[str, Any]] = [{}, {"block_length": 5}, {"law": TokenLaw(0.7, top_p=0.8)}]


@cache
def sequential(base: Any, mask: int | None, which: int) -> Any:
    return run(toy(mask), base, 11, **OPTIONS[which])


@pytest.mark.parametrize("window", [1, 3, 64])
@pytest.mark.parametrize(("base", "mask"), BASES, ids=lambda v: getattr(type(v), "__name__", "x"))
def test_the_result_is_the_sequential_one(base: Any, mask: int | None, window: int) -> None:
    for which, options in enumerate(OPTIONS):
        one = sequential(base, mask, which)
        many = run(toy(mask), Picard(base, window), 11, **options)
        assert torch.equal(one.tokens, many.tokens)
        torch.testing.assert_close(one.logprob, many.logprob)
        assert bool((many.steps <= one.steps).all())
        if window == 1:
            assert torch.equal(one.nfe, many.nfe)


def test_positions_that_ignore_each_other_settle_in_three_sweeps() -> None:
    """On masks: which come first, that they stay, and that nothing else changes."""
    out = run(toy(8, coupling=0.0), Picard(Ancestral(noise_removal="sample"), 64), 31)
    assert int(out.steps.max()) <= 3


@pytest.mark.parametrize("mask", [None, 8])
def test_weak_coupling_takes_fewer_sweeps_than_steps(mask: int | None) -> None:
    sampler = Picard(Ancestral(noise_removal="sample"), 64)
    sweeps = [int(run(toy(mask, c), sampler, 31).steps.max()) for c in (0.3, 3.0)]
    assert sweeps[0] < 16
    assert sweeps[0] <= sweeps[1] <= 32


def test_what_cannot_run_in_parallel_is_refused() -> None:
    with pytest.raises(ValueError, match="ThetaTrapezoidal"):
        run(toy(8), Picard(ThetaTrapezoidal()), 4)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"base='ancestral'.*samplers\.Ancestral\(\)"):
        Picard("ancestral")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window"):
        Picard(window=0)
    with pytest.raises(ValueError, match="fixed number"):
        Picard(Picard())  # type: ignore[arg-type]
