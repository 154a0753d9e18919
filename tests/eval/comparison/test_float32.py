"""Float32 Gumbel noise: the closed form is the law of the race that released code runs."""

from __future__ import annotations

import pytest
import torch
from dlm_eval.comparison.float32 import GRID, Float32Ancestral, raced_law

from dlm_sampling import sample, wrap
from dlm_sampling.testing import chi_square


def test_the_closed_form_is_the_race_in_float32() -> None:
    """The race as released: tokens against the mask, uniform numbers on the grid of float32.

    Of the tokens only those whose uniform number is one of the largest `top` of the grid can win,
    so only these are drawn, and the mask's E is exponential.
    """
    rho, n = 4.0 / GRID, 400_000
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    top = 40
    place = torch.randint(1, top + 1, (n, 3), generator=generator)  # 1 - u in units of 2^-24
    mask = torch.empty(n).exponential_(generator=generator).double()
    winners = place < (GRID * rho * p) * mask.unsqueeze(1)
    counts = winners.sum(0)
    expected = raced_law(p, torch.tensor(rho, dtype=torch.float64))
    assert chi_square(counts, expected).p > 1e-3
    assert chi_square(counts, p).p < 1e-6
    # A coarse grid in time loses nothing.
    coarse = raced_law(p, torch.tensor(0.01, dtype=torch.float64))
    torch.testing.assert_close(coarse, p, atol=1e-5, rtol=0)


def test_the_sampler_draws_that_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a coarse grid of uniform numbers one step shows the difference."""
    monkeypatch.setattr("dlm_eval.comparison.float32.GRID", 16.0)
    p = torch.tensor([0.9, 0.09, 0.01], dtype=torch.float64)
    logits = torch.cat((p.log(), torch.tensor([-1e9], dtype=torch.float64)))
    denoiser = wrap(lambda ids: logits.expand(*ids.shape, -1), vocab_size=4, mask_token_id=3)
    canvas = torch.full((3000, 1), 3)
    everywhere = torch.ones_like(canvas, dtype=torch.bool)
    sampler = Float32Ancestral(grid=1, noise_removal="sample")
    out = sample(denoiser, sampler, canvas, everywhere, steps=1, seeds=list(range(3000)))
    counts = torch.bincount(out.tokens[:, 0], minlength=3)[:3]
    expected = raced_law(p, torch.tensor(1.0, dtype=torch.float64))
    assert chi_square(counts, expected).p > 1e-3
    assert chi_square(counts, p).p < 1e-6
