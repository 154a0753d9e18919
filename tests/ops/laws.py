"""Exact laws and goodness-of-fit bounds for the tests of the arithmetic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dlm_sampling.types import TokenLaw


def chi_square_p(counts: Tensor, law: Tensor, least: float = 5.0) -> float:
    """p-value of counts against exact probabilities; rare cells are pooled up to `least`."""
    expected = law.double() * counts.sum()
    order = expected.argsort(descending=True, stable=True)
    expected, counts = expected[order], counts[order].double()
    group = (expected.flip(0).cumsum(0).flip(0) / least).floor()  # a new group every `least`
    group = torch.where(expected >= least, -1.0 - torch.arange(len(order)), group)
    _, cell = group.unique(return_inverse=True)
    want = torch.zeros(int(cell.max()) + 1, dtype=torch.float64).index_add_(0, cell, expected)
    seen = torch.zeros_like(want).index_add_(0, cell, counts)
    assert not (seen[want == 0.0]).any()
    seen, want = seen[want >= least / 2], want[want >= least / 2]
    statistic = ((seen - want) ** 2 / want).sum()
    freedom = torch.tensor((want.numel() - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))


def poisson_plausible(hits: int, expected: float, level: float = 1e-4) -> bool:
    """Whether a Poisson count is inside the central 1 - 2 * level of its law."""
    mean = torch.tensor(expected, dtype=torch.float64)
    at_most = float(torch.special.gammaincc(torch.tensor(hits + 1.0).double(), mean))
    below = (
        float(torch.special.gammaincc(torch.tensor(float(hits)).double(), mean)) if hits else 0.0
    )
    return at_most > level and 1.0 - below > level


def brute_law(logits: Tensor, law: TokenLaw) -> Tensor:
    """The sampled law of one row [V], float64, token by token from the definition."""
    numbers = logits.double().tolist()
    score = {v: x for v, x in enumerate(numbers) if v not in law.suppressed}
    order = sorted((v for v in score if score[v] > -math.inf), key=lambda v: (-score[v], v))
    out = [0.0] * len(numbers)
    if law.temperature == 0.0:
        out[order[0]] = 1.0
        return torch.tensor(out, dtype=torch.float64)
    top = score[order[0]]
    kept = [(v, math.exp((score[v] - top) / law.temperature)) for v in order]
    kept = kept[: law.top_k]
    if law.top_p is not None and law.top_p < 1.0:
        whole, before, passed = math.fsum(w for _, w in kept), 0.0, []
        for v, w in kept:
            limit = law.top_p * whole
            full = before >= limit if law.crossing == "include" else before + w > limit
            if passed and full:
                break
            passed.append((v, w))
            before += w
        kept = passed
    if law.min_p is not None:
        kept = [(v, w) for v, w in kept if w >= law.min_p]
    for v, w in kept:
        out[v] = w
    weights = torch.tensor(out, dtype=torch.float64)
    return weights / weights.sum()
