"""Sample p(x) l(x) by turns of a prior step and a likelihood step: split Gibbs, SG-DPS.

    target of a round    p(x) q_t(u | x) l(u),  q_t the uniform noise at time t
    u | x                Metropolis: one position gets a uniform token, accepted with
                         min(1, l(u') / l(u) exp(d log-odds)),  d the growth of #{i : u_i != x_i},
                         log-odds = log [(1 - a) / V] - log [a + (1 - a) / V],  a = alpha(t)
    x | u                the reverse process from u at time t

At a fixed t the law of x is p(x) sum_u q_t(u | x) l(u), up to a constant, which tends to p(x) l(x)
as t falls to 0; the times of the rounds fall.  The likelihood is a black box of clean rows.
The moves of a round begin at the u of the round before, so that any number of them is right.

Chu et al. 2025, "Split Gibbs Discrete Diffusion Posterior Sampling", arXiv:2503.01161.  The
released log-odds have the chance of any change, (1 - a) (1 - 1 / V), for that of one token; here
the kernel is the one of the noise, but for `released_compat`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.checks import check_canvases
from dlm_sampling.engine.sample import sample
from dlm_sampling.errors import check_flag, check_real, check_whole
from dlm_sampling.guidance.base import one_per_row
from dlm_sampling.ops.philox import Rng, Stream
from dlm_sampling.types import Sampler, TokenLaw

LogLikelihood = Callable[[Tensor], Tensor]
"""Maps rows int64 [n, L] to log l, [n], up to a constant."""

TIMES = tuple(0.9 * (0.05 / 0.9) ** (k / 15) for k in range(16))
"""Sixteen levels, falling by a constant factor from 0.9 to 0.05."""


@dataclass(frozen=True)
class SplitOutput:
    """Hold the rows after the last round.

    Fields:
        tokens: int64 [B, L], x.
        observed: int64 [B, L], u of the last round, the row that the likelihood saw; it differs
            from x by the noise of the last time.
        accepted: float64 [B], share of the Metropolis moves that were taken.
        nfe: int64 [B], forward passes.
    """

    tokens: Tensor
    observed: Tensor
    accepted: Tensor
    nfe: Tensor


def sample_split_gibbs(
    denoiser: Denoiser,
    sampler: Sampler[Any],
    tokens: Tensor,
    editable: Tensor,
    log_likelihood: LogLikelihood,
    *,
    seeds: Sequence[int],
    times: Sequence[float] = TIMES,
    moves: int = 200,
    attention_mask: Tensor | None = None,
    steps: int | None = None,
    law: TokenLaw | None = None,
    released_compat: bool = False,
) -> SplitOutput:
    """Sample rows from the posterior law p(x) l(x) / Z.

    Args:
        denoiser: a model of uniform noise, the prior p.
        sampler: the reverse process, one that refines drafts: uniformization is exact, euler and
            others as good as their steps.
        tokens: int64 [B, L], as in `sample`.
        editable: bool [B, L].
        log_likelihood: log l of clean rows; of one without operator, a constant, the law is p.
        seeds: one per row.
        times: noise of the rounds, in (0, 1), on the sampler's schedule; () is the plain run.
        moves: Metropolis moves per round.
        attention_mask: bool [B, L], False at padding, or None.
        steps: steps of the reverse process in each round; see `sample`.
        law: token law; default the model's own.
        released_compat: take the log-odds of the released code, which are log(V - 1) larger for
            each position that differs; the law is another one then, of noisier u.

    Raises:
        ValueError: an argument is out of range, or the model has masks.

    NFE: the plain run and one run for each time; moves calls of the likelihood per round.
    """
    check_whole("moves", moves)
    check_flag("released_compat", released_compat)
    if moves < 0:
        raise ValueError(f"moves={moves}: must be at least 0; try 200.")
    for k, t in enumerate(times):
        check_real(f"times[{k}]", t)
        if not 0.0 < t < 1.0:
            raise ValueError(f"times[{k}]={t}: must be in (0, 1); near 1 little of x is kept.")
    if denoiser.process.name != "uniform":
        raise ValueError(
            f"denoiser ({denoiser.family}) has {denoiser.process.name} noise: a likelihood of rows "
            "needs tokens everywhere, as uniform noise has; with masks use sample_particles with "
            "RewardTarget or TwistedTarget."
        )
    rows = check_canvases(denoiser, tokens, editable, attention_mask, seeds)
    given: dict[str, Any] = {
        "attention_mask": attention_mask, "law": TokenLaw() if law is None else law, "steps": steps,
    }  # fmt: skip
    out = sample(denoiser, sampler, tokens, editable, seeds=rows.seeds, **given)
    x, u, nfe = out.tokens, out.tokens, out.nfe
    taken = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    fresh = [ops.row_seeds(seed, 2 * len(times)) for seed in rows.seeds]
    for k, t in enumerate(times):
        level = float(sampler.schedule.alpha(torch.tensor(t, dtype=torch.float64)))
        rng = Rng.from_seeds([own[2 * k] for own in fresh], device=x.device)
        ids = allowed(denoiser, x.device)
        odds = log_odds(level, len(ids), released=released_compat)
        u, accepted = noisy_moves(log_likelihood, x, u, rows.editable, ids, odds, moves, rng)
        out = sample(
            denoiser, sampler, tokens, editable, start=u, t_start=t, renoise=False,
            seeds=[own[2 * k + 1] for own in fresh], **given,
        )  # fmt: skip
        x, nfe, taken = out.tokens, nfe + out.nfe, taken + accepted
    return SplitOutput(x, u, taken / max(1, moves * len(times)), nfe)


def allowed(denoiser: Denoiser, device: torch.device) -> Tensor:
    """Return the ids that may be written, int64 [n]."""
    banned = set(denoiser.suppressed)
    ids = [v for v in range(denoiser.vocab_size) if v not in banned]
    return torch.tensor(ids, device=device)


def log_odds(level: float, size: int, *, released: bool = False) -> float:
    """Return the log-odds that the noise made one given other token, against the token itself.

    Args:
        level: alpha.
        size: V.
        released: of any other token, as in the released code.
    """
    other = (1.0 - level) / size
    many = size - 1 if released else 1
    return math.log(many * other) - math.log(level + other)


def noisy_moves(
    log_likelihood: LogLikelihood,
    x: Tensor,
    u: Tensor,
    editable: Tensor,
    ids: Tensor,
    odds: float,
    moves: int,
    rng: Rng,
) -> tuple[Tensor, Tensor]:
    """Move u by Metropolis steps that leave q(u | x) l(u) invariant; fixed positions stay.

    Args:
        log_likelihood: log l.
        x: int64 [B, L].
        u: int64 [B, L], the rows to move.
        editable: bool [B, L].
        ids: int64 [V], the tokens of the noise.
        odds: growth of the log-probability of u by each position that differs from x.
        moves: proposals.
        rng: random numbers of the round.

    Returns:
        u, int64 [B, L], and the moves that were taken, float64 [B].
    """
    count = editable.sum(1)
    taken = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    here = one_per_row("log_likelihood", log_likelihood(u), len(u))
    row = torch.arange(len(x), device=x.device)
    place = editable.long().cumsum(1)
    for move in range(moves):
        at = replace(rng, step=torch.full_like(rng.step, move))
        which = (at.uniform(Stream.POSITION, count) * count).long() + 1
        column = ((place == which.unsqueeze(1)) & editable).long().argmax(1)
        token = ids[(at.uniform(Stream.TOKEN, count) * len(ids)).long().clamp(max=len(ids) - 1)]
        new = u.clone()
        new[row, column] = token
        there = one_per_row("log_likelihood", log_likelihood(new), len(new))
        old, clean = u[row, column], x[row, column]
        grown = (token != clean).double() - (old != clean).double()
        # Where neither row is possible nothing but the noise decides, until one is found.
        lost = (here == -math.inf) & (there == -math.inf)
        gain = torch.where(lost, 0.0, there - here) + grown * odds
        accept = (at.uniform(Stream.COMMIT, count).log() < gain) & (count > 0)
        u = torch.where(accept.unsqueeze(1), new, u)
        here, taken = torch.where(accept, there, here), taken + accept
    return u, taken
