"""The probability that a token is noise, from the law that does not see it."""

from __future__ import annotations

import torch

from dlm_sampling.processes import conversions
from dlm_sampling.processes.planned import noise_from_clean
from tests.processes.random_laws import SIZE, laws, number, same


def test_noise_probability_splits_the_posterior() -> None:
    loo, x = laws(7)
    alpha = number(0.35)
    post = conversions.posterior_from_leave_one_out(loo, x, alpha)
    rho = noise_from_clean(loo.gather(-1, x.unsqueeze(-1)), alpha, SIZE)
    here = torch.nn.functional.one_hot(x, SIZE).double()
    same(post, rho * loo + (1 - rho) * here)
