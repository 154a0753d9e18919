"""Define `uniform_elbo`, which estimates the likelihood bound of a uniform-noise model.

    log p(x0) >= -KL(q(x_1 | x0) || uniform) - sum_k E KL(q(x_s | x_t, x0) || p(x_s | x_t)),
    t = k / T,  s = t - 1 / T,  k = 1..T

Here q(x_s | x_t, x0) is the law of one reverse step given the clean token, and p is the same law
with the model's leave-one-out law in place of the clean token; positions are independent given x_t.
The term of k = 1 is log p(x0 | x_t).  It is the bound of the T-step ancestral sampler, and becomes
the bound of continuous time as T grows.

Austin et al. 2021, arXiv:2107.03006, eq. 1; with a model's law as in Schiff et al. 2024,
arXiv:2412.10193 (UDLM), and Sahoo et al. 2025, arXiv:2506.10892 (Duo).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.batches import check_batch_size, in_parts
from dlm_sampling.engine.checks import check_canvases, check_denoiser, check_ids, written_positions
from dlm_sampling.engine.request import Canvases
from dlm_sampling.errors import check_whole
from dlm_sampling.likelihood.scoring import check_scorable
from dlm_sampling.prediction.model import full_law
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.types import TokenLaw

DEFAULT_DRAWS = 8
DEFAULT_STEPS = 1000

_LEVEL, _NOISE, _KEPT = 0, 1, 2  # numbers of the random draws of a row
_TABLE = 1 << 22  # entries of a float64 table [positions, V] that are held at once


@dataclass(frozen=True)
class UniformElbo:
    """Hold the result of `uniform_elbo`, in nats, float64 on the denoiser's device.

    Fields:
        value: [B], the mean of the terms.
        terms: [B, n], one per draw of a step and of noise; each is an estimate by itself.
        logprob: [B, L], each position's share of the value, 0 at positions that are not editable.
        nfe: int64 [B], forward passes: n, or 0 in a row without editable positions.
    """

    value: Tensor
    terms: Tensor
    logprob: Tensor
    nfe: Tensor


def uniform_elbo(
    denoiser: Denoiser,
    tokens: Tensor,
    *,
    editable: Tensor | None = None,
    attention_mask: Tensor | None = None,
    n: int = DEFAULT_DRAWS,
    steps: int = DEFAULT_STEPS,
    seed: int | Sequence[int] | None = None,
    batch_size: int | None = None,
) -> UniformElbo:
    """Estimate the bound on log p(tokens at `editable` | all other tokens) of each row.

    The n steps k of a row are systematic: spread evenly over 1..T, each uniform on 1..T, so that
    every term is unbiased.  Noise is put on editable positions only.

    Args:
        denoiser: a model of uniform noise with a schedule.
        tokens: int64 [B, L], finished texts.
        editable: bool [B, L], the positions whose tokens are scored; the rest is context.  Default
            every position that is no padding.
        attention_mask: bool [B, L], False at padding; None when there is none.
        n: draws of a step and of noise per row.
        steps: T, the steps of the sampler whose bound it is.
        seed: one int, or one per row; default a random one.  A row's draws depend on its own seed
            and positions only.
        batch_size: canvases per forward pass; default B.

    Returns:
        A `UniformElbo`, without gradients.  NFE n per row.

    Raises:
        TypeError: n or steps is no whole number, or another argument of another type.
        ValueError: the model has other noise, no schedule, or carries a state; shapes do not match,
            a token is outside the vocabulary, or n, steps or batch_size < 1.
    """
    check_batch_size(batch_size)
    check_denoiser(denoiser)
    check_scorable(denoiser)
    for name, number in (("n", n), ("steps", steps)):
        check_whole(name, number)
        if number < 1:
            raise ValueError(f"{name}={number}: must be at least 1.")
    if denoiser.process.name != "uniform" or denoiser.schedule is None:
        raise ValueError(
            f"denoiser ({denoiser.family}) has noise {denoiser.process.name!r} and schedule "
            f"{denoiser.schedule}: must be uniform noise with a schedule. The bound of masks is "
            "elbo."
        )
    if editable is None:
        editable = written_positions(tokens, attention_mask)
    inputs = check_canvases(denoiser, tokens, editable, attention_mask, None)
    check_ids(denoiser, inputs.tokens, inputs.attention)
    seeds = ops.row_seeds(ops.fresh_seed() if seed is None else seed, len(inputs.tokens))
    rng = ops.Rng.from_seeds(seeds, device=inputs.tokens.device)
    rng = replace(rng, origin=inputs.attention.long().argmax(1))
    last = denoiser.schedule.alpha(torch.ones((), dtype=torch.float64))
    prior = prior_kl(float(last), denoiser.vocab_size)
    shares = torch.zeros(len(rng.keys), n, inputs.tokens.shape[1], dtype=torch.float64)
    shares = shares.to(inputs.tokens.device)
    for j in range(n):
        noised = _noised(denoiser, inputs, rng, (j, n), steps)

        def kl(first: int, last: int, noised: Noised = noised) -> Tensor:
            rows = torch.arange(first, last, device=shares.device)
            return step_kl(denoiser, inputs, noised, rows)

        for first, found in in_parts(len(seeds), batch_size, kl):
            shares[first : first + len(found), j] = -steps * found
    shares -= prior * inputs.editable.unsqueeze(1)
    nfe = inputs.editable.any(1).long() * n
    return UniformElbo(shares.sum((1, 2)) / n, shares.sum(2), shares.mean(1), nfe)


class Noised(NamedTuple):
    """Hold noised texts, and the levels of the step that is taken from them."""

    x_t: Tensor  # int64 [B, L]
    t: Tensor  # float64 [B], the time of x_t
    alpha_t: Tensor  # float64 [B], the level of x_t
    alpha_s: Tensor  # float64 [B], the level after the step; 1 for the last step


def levels(denoiser: Denoiser, step: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return t, alpha_t and alpha_s of the steps k (int64 [B], 1..T), float64 [B] each."""
    assert denoiser.schedule is not None
    t, s = step.double() / steps, (step - 1).double() / steps
    return t, denoiser.schedule.alpha(t), denoiser.schedule.alpha(s)


def _noised(
    denoiser: Denoiser, inputs: Canvases, rng: ops.Rng, draw: tuple[int, int], steps: int
) -> Noised:
    """Draw step and noise of the j-th of n draws of each row; `draw` is (j, n)."""
    (j, n), tokens = draw, inputs.tokens
    level = (rng.uniform(ops.Stream.MASK, rng.keys, _LEVEL) + j / n) % 1.0
    t, alpha_t, alpha_s = levels(denoiser, (level * steps).long().clamp(max=steps - 1) + 1, steps)
    here = rng.with_step(torch.full_like(rng.step, j))
    size = denoiser.vocab_size
    noise = (here.uniform(ops.Stream.MASK, tokens, _NOISE) * size).long().clamp_(max=size - 1)
    lost = here.uniform(ops.Stream.MASK, tokens, _KEPT) >= alpha_t.unsqueeze(1)
    return Noised(torch.where(lost & inputs.editable, noise, tokens), t, alpha_t, alpha_s)


@torch.no_grad()
def step_kl(denoiser: Denoiser, inputs: Canvases, noised: Noised, rows: Tensor) -> Tensor:
    """Return KL(q(x_s | x_t, x0) || p(x_s | x_t)) of every position, float64 [n, L].

    Args:
        denoiser: see `uniform_elbo`.
        inputs: the clean texts, [B, L].
        noised: x_t of all rows.
        rows: int64 [n], the rows that are computed (NFE 1 each).
    """
    where, process = inputs.editable[rows], denoiser.process
    x_t, t, alpha_t, alpha_s = (value[rows] for value in noised)
    law = full_law(TokenLaw(), denoiser)
    predict = Predictor.alone(denoiser, law, inputs.attention[rows])
    prediction = predict(x_t, t)
    prediction.evaluate(where)  # one pass; the tables below are made in parts
    row, column = where.nonzero(as_tuple=True)
    found = torch.zeros(where.shape, dtype=torch.float64, device=where.device)
    size = max(1, _TABLE // denoiser.vocab_size)
    for first in range(0, len(row), size):
        i, k = row[first : first + size], column[first : first + size]
        some = torch.zeros_like(where)
        some[i, k] = True
        loo = prediction.table(some, alpha=alpha_t, reads=process.reads)
        x, clean = x_t[i, k], F.one_hot(inputs.tokens[rows[i], k], denoiser.vocab_size).double()
        q = process.reverse(clean, x, alpha_t[i], alpha_s[i])
        p = process.reverse(loo, x, alpha_t[i], alpha_s[i])
        found[i, k] = (torch.xlogy(q, q) - torch.xlogy(q, p)).sum(1)
    return found


def prior_kl(alpha: float, vocab_size: int) -> float:
    """Return KL(q(x_1 | x0) || uniform) of one position, alpha = alpha(1)."""
    rest = torch.tensor((1 - alpha) / vocab_size, dtype=torch.float64)
    law = torch.stack((rest + alpha, rest))
    weight = torch.tensor([1.0, vocab_size - 1.0], dtype=torch.float64)
    return float((weight * torch.xlogy(law, law * vocab_size)).sum())
