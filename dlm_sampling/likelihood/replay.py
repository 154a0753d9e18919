"""Define `replay`, which scores the tokens of a recorded run under any denoiser.

    log p(tokens | positions) = sum_k sum over i drawn in step k of log q_i(x_i | z_k)

z_k is the canvas before step k, q the law that the step draws from: the model's at a mask, the
step of noise elsewhere.  On masks, with `shrink` s, each group of s consecutive steps is scored in
one pass, on the canvas before the first, where all tokens of the group are unknown.  With
s >= steps, all tokens are scored in one pass, as if independent.

Wang et al. 2025, "Revolutionizing Reinforcement Learning Framework for Diffusion Large Language
Models", arXiv:2509.06949 (TraceRL).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.batches import check_batch_size
from dlm_sampling.engine.checks import check_denoiser
from dlm_sampling.engine.output import RunOutput
from dlm_sampling.engine.request import Request
from dlm_sampling.engine.start import taken_as_it_is
from dlm_sampling.engine.trajectory import Trajectory
from dlm_sampling.errors import SamplingWarning, check_flag, check_whole
from dlm_sampling.likelihood.choices import log_choices
from dlm_sampling.likelihood.clean_prefix import CacheName, CleanPrefix, check_cache, fits
from dlm_sampling.likelihood.retake import check_retakable, needs_retaking, retake
from dlm_sampling.likelihood.rollout import Rollout
from dlm_sampling.likelihood.runs import check_noise, check_window, record_of, steps_of
from dlm_sampling.likelihood.scoring import Scorer, Views
from dlm_sampling.likelihood.step_groups import views_of
from dlm_sampling.likelihood.tables import steps_within
from dlm_sampling.types import TokenLaw

LawName = Literal["sampled", "model"]


@dataclass(frozen=True)
class Replay:
    """Hold the result of `replay` on the denoiser's device; differentiable if requested.

    Fields:
        logprob: [B, L], log-probability of each token in the step (of the window) that wrote it
            last, 0 at positions that were never written.
        step_logprob: [B, S], sum over all tokens that the row's k-th scored step drew, including
            tokens that a later step replaced; 0 after the row's last step.
        nfe: int64 [B], forward passes of this replay.
        scored: bool [B, L], positions with a token whose log-probability is in `logprob`: those
            that were written, within the window.
        position_logprob: [B, L], sum over all tokens that were drawn at the position, including
            those that a later step replaced; `logprob` for samplers that write once.
        entropy: [B, L], entropy (nats) of the law that each token of `logprob` was scored in, 0
            elsewhere; None if it was not asked for.
        reveal_logprob: float64 [B, T], log-probability of the positions that the row's k-th loop
            step chose, those without a write included; None if it was not asked for.
        work: float64 [B], columns that the row showed to those passes, in units of its canvas; None
            where the run's steps are taken again.
    """

    logprob: Tensor
    step_logprob: Tensor
    nfe: Tensor
    scored: Tensor
    position_logprob: Tensor
    entropy: Tensor | None = None
    reveal_logprob: Tensor | None = None
    work: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Return the log-probability of all drawn tokens, given their positions, [B]."""
        return self.step_logprob.sum(1)


def replay(
    denoiser: Denoiser,
    run: RunOutput | Trajectory | Rollout,
    *,
    shrink: int = 1,
    window: tuple[int, int] | None = None,
    law: TokenLaw | LawName = "sampled",
    grad: bool | None = None,
    batch_size: int | None = None,
    entropy: bool = False,
    positions: bool = False,
    cache: CacheName = "auto",
) -> Replay:
    """Recompute the log-probability of every token of a run.

    The denoiser that sampled the run gives the log-probabilities of `sample` up to rounding.
    Tokens that the run took as the argmax whatever the temperature, such as those of a last step,
    have log-probability 0 and no gradient.  The choice of positions is scored on request.

    A run with an approximate cache was drawn from the law of that cache: the log-probabilities here
    are those without it, and a warning says so.

    Without a mask, and where the law of a token is made of several predictions or of a state that
    the network carries, the sampler's own steps are taken again with the recorded tokens.  A run
    whose steps do not follow from its record is refused by the name of its sampler.

    Args:
        denoiser: the model that scores the tokens; it need not be the one that sampled them.
        run: the output of `generate` with return_rollout=True, of `generate` or `sample` with
            return_trajectory=True, a trajectory, or a `Rollout`.
        shrink: s >= 1, consecutive writing steps of a row that are scored in one pass; steps that
            are taken again allow 1 only.
        window: the steps to score, a pair (a, b) of numbers of a row's writing steps, a <= k < b,
            counted from 0; no other is paid for.  A training loop may move it from update to
            update (MixGRPO, Li et al. 2025, arXiv:2507.21802).  None scores all.  Where steps are
            taken again and a state goes from step to step, those before the window run too.  A row
            that has no such step has total 0.
        law: "sampled" scores the law that the run drew from, with its temperature, filters and
            guidance; "model" the model's own law at temperature 1 without them; or a law.
            Suppressed ids of the denoiser and its mask id are added.
        grad: whether to record gradients; None follows the caller's grad mode.
        batch_size: canvases per forward pass; None takes the k-th steps of all rows together.
        entropy: also return entropies, differentiable as the rest; runs whose steps are taken again
            allow False only.
        positions: also return the log-probability of the choice of positions, `reveal_logprob`: of
            Bernoulli choices, random quotas, the order of hitting times (not the times), remasking;
            0 where the canvas decides or every position is drawn.  It has no gradient.  A choice
            that reads tokens which were drawn and not written is refused by the sampler's name.
        cache: "auto" scores the blocks of a block-causal model beside one pass over the finished
            texts, whose keys and values they read: the same up to rounding, in fewer columns
            (`work`), for one pass more.  "none" runs whole canvases.

    Returns:
        A `Replay`; float64 for float64 logits, else float32.  NFE ceil(S / s) of a row with S
        steps that wrote something within the window, less those whose tokens are all an argmax;
        that of the run where steps are taken again.  With gradients, the activations of all passes
        stay in memory: split the batch (`Rollout.select`), score a window of the steps, or use the
        network's gradient checkpointing.

    Raises:
        TypeError: an argument is of another type.
        ValueError: shrink or batch_size < 1, window is not 0 <= a < b, another name of a law, there
            is no trajectory, the denoiser is of another noise, or a token came from a law that does
            not follow from the record.
    """
    check_denoiser(denoiser)
    check_whole("shrink", shrink)
    if shrink < 1:
        raise ValueError(f"shrink={shrink}: must be at least 1; 1 scores every step on its own.")
    check_batch_size(batch_size)
    check_window(window)
    check_flag("grad", grad, optional=True)
    check_flag("entropy", entropy)
    check_flag("positions", positions)
    check_cache(cache)
    record = record_of(run)
    check_noise(denoiser, record)
    header, events = steps_of(record)
    _warn_of_cache(header)
    if header.request is not None and header.request.constraint is not None:
        raise ValueError(
            f"run was constrained by {header.request.constraint.name}: no record tells the laws "
            "given the constraint; use the log-probabilities that the run returned, or `elbo`."
        )
    chosen, guidance = _law_of(header, law)
    reveal = None
    if positions:
        mask = denoiser.process.mask_token_id if header.masked else None
        reveal = log_choices(*steps_of(record), mask).to(denoiser.device)
    with torch.set_grad_enabled(torch.is_grad_enabled() if grad is None else grad):
        if needs_retaking(denoiser, header):
            if entropy:
                raise ValueError(
                    f"entropy=True: the steps of this run (sampled by {header.sampler}) are taken "
                    "again, each in a law of its own; take -logprob, whose mean is the entropy."
                )
            rollout = record if isinstance(record, Rollout) else Rollout.of_trajectory(header)
            found = _retaken(denoiser, rollout, chosen, guidance, shrink, batch_size, window)
        else:
            prefix = None
            if cache == "auto" and fits(denoiser, guidance):
                prefix = CleanPrefix.of_run(denoiser, *steps_of(record), batch_size)
            scorer = Scorer(denoiser, chosen, guidance, ~header.editable, prefix)
            views = views_of(denoiser, header, events, shrink, window)
            found = _gather(scorer, views, header.initial.shape, batch_size, entropy=entropy)
        return replace(found, reveal_logprob=reveal)


def _law_of(run: Trajectory, law: TokenLaw | LawName) -> tuple[TokenLaw | None, float]:
    """Return the law to score, None for the model's own, and the weight of guidance."""
    if isinstance(law, TokenLaw):
        return law, 0.0
    if law == "model":
        return None, 0.0
    if law != "sampled":
        raise ValueError(f"law={law!r}: must be 'sampled', 'model' or a TokenLaw.")
    request = run.request
    if request is None:
        return None, 0.0
    if request.guidance is not None:
        raise ValueError(
            f"law='sampled': the run was guided by {type(request.guidance).__name__}, whose laws "
            "do not follow from the record; use law='model' for the model's own law, or the log-"
            "probabilities that the run returned."
        )
    return request.sampler.law if request.law is None else request.law, request.guidance_scale


def _retaken(
    denoiser: Denoiser,
    rollout: Rollout,
    law: TokenLaw | None,
    guidance: float,
    shrink: int,
    batch_size: int | None,
    window: tuple[int, int] | None,
) -> Replay:
    """Take all steps again, `batch_size` rows at a time."""
    if shrink > 1:
        raise ValueError(
            f"shrink={shrink}: must be 1 here, since the steps of this run (sampled by "
            f"{rollout.header.sampler}) are taken again one by one; only steps from mask to token "
            "can be merged."
        )
    request = replace(
        rollout.request,
        law=TokenLaw() if law is None else law,
        guidance_scale=guidance,
        cuda_graph=False,
        cache="none",
        start=taken_as_it_is(rollout.request.start),
        guidance=None,
        cache_audit=None,
    )
    check_retakable(denoiser, rollout.header, request)
    rows = torch.arange(max(len(rollout), 1))[: len(rollout)]
    parts = [
        _retaken_rows(denoiser, rollout.select(part) if batch_size else rollout, request, window)
        for part in torch.split(rows, batch_size or max(len(rollout), 1))
    ]
    width = max(part.step_logprob.shape[1] for part in parts)
    steps = [
        torch.nn.functional.pad(part.step_logprob, (0, width - part.step_logprob.shape[1]))
        for part in parts
    ]
    logprob, nfe, scored, drawn = (
        torch.cat(list(part))
        for part in zip(
            *((p.logprob, p.nfe, p.scored, p.position_logprob) for p in parts), strict=True
        )
    )
    return Replay(logprob, torch.cat(steps), nfe, scored, drawn)


def _retaken_rows(
    denoiser: Denoiser, rollout: Rollout, request: Request, window: tuple[int, int] | None
) -> Replay:
    """Take the steps of a few rows again, and collect by token and by step."""
    device, shape = denoiser.device, rollout.tokens.shape
    logprob = torch.zeros(shape, dtype=torch.float32, device=device)
    nfe, number = (torch.zeros(shape[0], dtype=torch.int64, device=device) for _ in range(2))
    scored = torch.zeros(shape, dtype=torch.bool, device=device)
    sums, owners, everywhere = [logprob.new_zeros(0)], [number.new_zeros(2, 0)], logprob
    within = None if window is None else steps_within(rollout.steps, window, len(rollout))
    for step in retake(denoiser, rollout.header, rollout.events(), request, within):
        rows, found, nfe = step.event.rows.to(device), step.logprob, step.nfe
        logprob = logprob.to(torch.promote_types(logprob.dtype, found.dtype))
        everywhere = everywhere.to(logprob.dtype).index_add(0, rows, found.to(logprob.dtype))
        written = step.written
        logprob = logprob.index_copy(0, rows, torch.where(written, found, logprob[rows]))
        scored[rows] |= written
        counted = rows[step.counted]
        sums.append(found.sum(1)[step.counted])
        owners.append(torch.stack([counted, number[counted]]))
        number[counted] += 1
    return Replay(logprob, _by_step(sums, owners, number), nfe, scored, everywhere)


def _warn_of_cache(run: Trajectory) -> None:
    """Warn that a run was sampled from the law of an approximate cache."""
    if run.cache is not None:
        warnings.warn(
            f"the run was sampled with {run.cache}, which is approximate: its tokens come from "
            "another law than the one that is scored here, so that ratios of the two are not 1 "
            "under the same weights. Sample with cache='auto' or 'none', or keep the run's own "
            "log-probabilities (`Rollout.total`) as those of the behaviour.",
            SamplingWarning,
            stacklevel=3,
        )


def _gather(
    scorer: Scorer,
    steps: Iterator[Views],
    shape: torch.Size,
    batch_size: int | None,
    *,
    entropy: bool,
) -> Replay:
    """Score all steps, and collect the log-probabilities by token and by step."""
    device = scorer.denoiser.device
    nfe, number = (torch.zeros(shape[0], dtype=torch.int64, device=device) for _ in range(2))
    place = torch.full(
        shape, -1, dtype=torch.int64, device=device
    )  # index of each token in the list
    none = torch.zeros(0, dtype=torch.float32, device=device)
    found, entropies, owners, places = [none], [none], [nfe.new_zeros(2, 0)], [nfe[:0]]
    count, asked = 0, False
    for step in steps:
        for views in step.split(batch_size):
            row, column = views.where.nonzero(as_tuple=True)
            row = views.rows[row]
            place[row, column] = torch.arange(count, count + len(row), device=device)
            count += len(row)
            owners.append(torch.stack([row, number[row]]))
            places.append(row * shape[1] + column)
            scores = scorer.scores(views, entropy=entropy)
            found.append(scores.logprob)
            entropies.append(scores.entropy)
            number[views.rows] += 1
            needed = views.scored.any(1)
            asked = asked or bool(needed.any())
            nfe[views.rows] += needed * scorer.passes
    if torch.is_grad_enabled() and count and not asked:
        warnings.warn(
            "every token of this run was taken as the argmax: all log-probabilities are 0, without "
            "a gradient. Sample with more steps, or with noise_removal='sample'.",
            SamplingWarning,
            stacklevel=3,
        )
    work = nfe.double()
    if scorer.prefix is not None:
        nfe, work = nfe + scorer.prefix.nfe, scorer.prefix.work
    listed = torch.cat(found)
    everywhere = listed.new_zeros(shape.numel()).index_add(0, torch.cat(places), listed)
    return Replay(
        logprob=_read(listed, place),
        step_logprob=_by_step(found, owners, number),
        nfe=nfe,
        scored=place >= 0,
        position_logprob=everywhere.view(shape),
        entropy=_read(torch.cat(entropies), place) if entropy else None,
        work=work,
    )


def _read(listed: Tensor, place: Tensor) -> Tensor:
    """Return the entries of a list at `place`, 0 where it is -1."""
    return torch.cat([listed, listed.new_zeros(1)])[place]


def _by_step(found: list[Tensor], owners: list[Tensor], number: Tensor) -> Tensor:
    """Sum log-probabilities by row and step, [B, S].

    Args:
        found: log-probabilities, [n] each.
        owners: row and step of each of them, int64 [2, n].
        number: int64 [B], steps of every row.
    """
    listed, (row, step) = torch.cat(found), torch.cat(owners, 1)
    width = int(number.max()) if number.numel() else 0
    sums = listed.new_zeros(len(number) * width).index_add(0, row * width + step, listed)
    return sums.view(len(number), width)
