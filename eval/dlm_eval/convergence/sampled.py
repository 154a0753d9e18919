"""The experiment of the theta-trapezoidal paper by sampling, as the paper has it.

One token of 15 states, Q = E / 15 - I, p0 ~ Dir(1), time from 12 to 0 on a uniform grid, the exact
score, theta = 1/2.  KL(p0 || q) is estimated by the frequencies q of the samples, with a percentile
bootstrap.  Both are biased upwards by about 14 / (2 n): sampling sees nothing below.  Ren et al.
2025, "Fast Solvers for Discrete Diffusion Models", arXiv:2502.00234.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlm_eval.convergence.plan import Experiment, kl, rounded
from dlm_eval.convergence.rules import final_law, simulate
from dlm_sampling.testing import chi_square

METHODS = ("tau-leaping", "theta-rk-2", "theta-trapezoidal")
INTERVALS = (8, 16, 32, 64)
RESAMPLES, LEVEL = 1000, 0.95


def interval(p0: Tensor, counts: Tensor, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of KL(p0 || frequencies), 1000 resamples, 95%."""
    n = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, (counts.double() / n).numpy(), RESAMPLES)
    estimates = [kl(p0, torch.from_numpy(row) / n) for row in draws]
    low, high = np.quantile(estimates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def sampled(
    experiment: Experiment, method: str, intervals: int, samples: int, seed: int
) -> dict[str, Any]:
    """Sample one solver on one grid and compare with its own exact law and with the data."""
    rule, p0 = experiment.rules[method], experiment.world.joint
    counts = simulate(rule, experiment.world, intervals, samples, seed)
    exact = final_law(rule, experiment.world, intervals)
    low, high = interval(p0, counts, seed)
    return {
        "method": method,
        "intervals": intervals,
        "nfe": rule.forwards * intervals,
        "counts": counts.tolist(),
        "kl": rounded(kl(p0, counts.double() / samples)),
        "low": rounded(low),
        "high": rounded(high),
        "exact_kl": rounded(kl(p0, exact)),
        "chi_square_p": rounded(chi_square(counts, exact).p),
    }


def sample_all(
    experiment: Experiment, samples: int, seed: int, intervals: Sequence[int] = INTERVALS
) -> dict[str, Any]:
    """Every method of the paper on every grid."""
    return {
        "experiment": experiment.name,
        "samples": samples,
        "seed": seed,
        "resamples": RESAMPLES,
        "level": LEVEL,
        "records": [sampled(experiment, m, n, samples, seed) for m in METHODS for n in intervals],
    }
