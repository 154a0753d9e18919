"""Combine the passes of a guidance, and tilt what comes out of them.

masks           logits of the clean token: blended, then tilted
other noise     laws of a step that a rule makes of each pass: blended, then tilted
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.guidance.base import Guidance, Moment
from dlm_sampling.guidance.reward_gradient import standing
from dlm_sampling.prediction.law_rows import Rule, SiteLaws
from dlm_sampling.prediction.logits import PassLogits
from dlm_sampling.prediction.passes import Passes
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.processes.guidance import (
    blended_logits,
    classifier_based_law,
    rate_preserving_law,
    tilted_logits,
)
from dlm_sampling.types import Site
from dlm_sampling.types.rows import select_rows


def moment_of(rows: PassRows, x: Tensor, t: Tensor, mask: int | None) -> Moment:
    """Return what a guidance reads of canvases x, int64 [n, L], at times t [n]."""
    assert rows.given is not None
    fixed = rows.given if rows.attention is None else rows.given | ~rows.attention
    return Moment(x, t, rows.index, fixed, mask)


def guided_logits(
    passes: Passes,
    x: Tensor,
    t: Tensor,
    missing: Tensor | None,
    temperature: Tensor | None,
    dt: Tensor | None,
    before: PassLogits | None,
    tilt: Tensor | None,
) -> tuple[PassLogits, Tensor | None]:
    """Run the passes of the rows `missing` (int64 [n]; None: all), with their tilts.

    Returns:
        The logits of these rows and of those before, and what is added to the laws of all rows,
        float64 [A, L, V], or None where the guidance tilts nothing.
    """
    model = passes.model
    guidance, denoiser = model.guidance, model.denoiser
    assert guidance is not None
    outputs, weights = passes.guided(x, t, missing, temperature, dt)
    every = (passes.rows, x, t)
    rows, own_x, own_t = every if missing is None else select_rows(every, missing)
    moment = moment_of(rows, own_x, own_t, denoiser.mask_token_id)
    own = PassLogits.of(outputs, None, moment.x, model, None, weights)
    mask = denoiser.mask_token_id
    where = ~moment.fixed if mask is None else ~moment.fixed & (moment.x == mask)
    if rows.horizon is not None:  # what is hidden has no law
        column = torch.arange(moment.x.shape[1], device=x.device)
        where = where & (column < rows.horizon.unsqueeze(1))
    law = model.own_law

    def laws(view: int) -> Tensor:
        source = own.view(view)
        assert source is not None
        every = ops.log_probs(source, law=law).exp()
        return every.view(*moment.x.shape, -1)

    def log_p() -> Tensor:
        sites = Sites.of(where)
        found = ops.log_probs(own.source(), law=law, rows=own.index(sites))
        table = standing(moment.x, denoiser.vocab_size)
        return table.index_put((sites.row, sites.column), found.to(table.dtype).clamp_min(-1e9))

    weights = guidance.settle(weights, laws, where)
    found = PassLogits.of(outputs, missing, x, model, before, weights)
    if not guidance.tilts:
        return found, None
    own = replace(own, weights=weights)
    here = guidance.tilt(moment, where, log_p).double()
    if missing is None:
        return found, here
    whole = here.new_zeros(len(x), *here.shape[1:]) if tilt is None else tilt
    return found, whole.index_copy(0, missing, here)


def guided_rows(
    logits: PassLogits, made: SiteLaws, tilt: Tensor | None, rule: Rule
) -> ops.LogitRows:
    """Return laws of the step at the positions, of all passes, blended and tilted.

    A rule that reads ratios of probabilities makes rates of them: there the ratios are blended and
    tilted, R~ = prod_k R_k^w_k exp(tilt), and the rule is asked once.  Tokens that pass the filters
    are those of the blended law of the clean token, for all passes alike.

    Args:
        logits: of the passes.
        made: makes a rule's laws of the logits of one pass at the positions.
        tilt: float64 [A, L, V], or None.
        rule: makes laws of the next token.
    """
    sites, ratios = made.sites, made.reads == "log_score"
    index, here = logits.index(sites), sites.read(made.x)
    inner = _table if ratios else rule
    views = [
        None if view is None else _chosen(view, index)
        for view in map(logits.view, range(len(logits.parts)))
    ]
    parts = [None if view is None else made.rows(view, inner) for view in views]
    first = next(part for part in parts if part is not None)
    guidance, law = logits.model.guidance, made.model.law
    assert guidance is not None
    cuts = len(views) > 1 and (law.temperature == 0.0 or not law.plain)

    def plausible(i: Tensor) -> Tensor | None:
        return None if views[0] is None else logits.kept(views[0].fetch(i))

    def possible(table: Tensor, i: Tensor) -> Tensor:
        kept = plausible(i)
        if kept is None:
            return table
        # The token that stands is no choice of the network, and may always stay.
        kept = kept.scatter(1, here[i].unsqueeze(1), True)
        left = table.where(kept, 0.0)
        return left if ratios else left / left.sum(-1, keepdim=True)

    def filtered(i: Tensor) -> list[Tensor | None]:
        """Return the tables of all passes over the tokens that pass the filters."""
        clean = [None if view is None else made.clean(view, i) for view in views]
        some = next(table for table in clean if table is not None)
        blend = blended_logits(
            [torch.zeros_like(some) if table is None else table for table in clean],
            logits.weights_at(index[i]),
        )
        kept = plausible(i)
        blend = blend if kept is None else blend.masked_fill(~kept, -torch.inf)
        if law.temperature == 0.0:
            kept = torch.zeros_like(blend, dtype=torch.bool)
            kept = kept.scatter(1, blend.argmax(1, keepdim=True), True)
        else:
            kept = ops.filtered_log_law(blend, law) > -torch.inf
        left = [None if t is None else t.masked_fill(~kept, -torch.inf) for t in clean]
        warmth = law.temperature or 1.0
        return [
            None if t is None else made.of_clean((t / warmth).log_softmax(-1), i, inner)
            for t in left
        ]

    def fetch(i: Tensor) -> Tensor:
        weights = logits.weights_at(index[i])
        own = [None if part is None else part.fetch(i) for part in parts]
        tables = filtered(i) if cuts else own
        table = possible(_blended(own, tables, weights, normalised=not ratios), i)
        there = None if tilt is None else tilt[sites.row[i], sites.column[i]]
        if not ratios:
            return table if there is None else _tilted(guidance, table, there, here[i])
        table = table if there is None else tilted_logits(table.log(), there).exp()
        return rule(Site(here[i], sites.row[i], table, sites.column[i]))

    return replace(first, fetch=fetch)


def mixed_rows(logits: PassLogits, count: int) -> Tensor:
    """Return the rows whose law of a step is made of several passes or tilted, bool [count].

    In the others it is that of one pass.
    """
    guidance, weights = logits.model.guidance, logits.weights
    assert guidance is not None
    assert weights is not None
    if guidance.tilts:
        return torch.ones(count, dtype=torch.bool, device=weights.device)
    alone = ((weights == 0.0) | (weights == 1.0)).all(0) & (weights.sum(0) == 1.0)
    # A row without a slot has not been asked for, and draws nothing.
    return ~alone if logits.slot is None else ~alone[logits.slot.clamp_min(0)]


def _table(site: Site) -> Tensor:
    """Return the table of a prediction as it is."""
    return site.p


def _chosen(rows: ops.LogitRows, index: Tensor) -> ops.LogitRows:
    """Return some rows, int64 [R], in that order."""
    every = rows.fetch

    def fetch(i: Tensor) -> Tensor:
        return every(index[i])

    return replace(rows, fetch=fetch, count=len(index))


def _blended(
    own: list[Tensor | None], tables: list[Tensor | None], weights: Tensor, *, normalised: bool
) -> Tensor:
    """Return the blend of the tables of all passes, [r, V]; weights [K, r].

    Where one weight is 1, and all others are 0, it is the pass's `own` table as it is.
    """
    first = next(law for law in own if law is not None)
    laws = [torch.ones_like(first) if law is None else law for law in tables]
    mixed = blended_logits([law.log() for law in laws], weights)
    mixed = mixed.softmax(-1) if normalised else mixed.exp()
    alone = ((weights == 0.0) | (weights == 1.0)).all(0) & (weights.sum(0) == 1.0)
    same = torch.zeros_like(first)
    for law, weight in zip(own, weights, strict=True):
        if law is not None:
            same = same + torch.where((weight == 1.0).unsqueeze(-1), law, 0.0)
    return torch.where(alone.unsqueeze(-1), same, mixed)


def _tilted(guidance: Guidance, law: Tensor, tilt: Tensor, x: Tensor) -> Tensor:
    """Return the tilted law of a step, [r, V]."""
    if guidance.keeps_rates:
        return rate_preserving_law(law, tilt, x, 1.0)
    return classifier_based_law(law, tilt, 1.0)


def moved_rate(log_p: Tensor, tilt: Tensor, prob: Tensor) -> Tensor:
    """Return r Z / (r Z + 1 - r), Z = sum_v p(v) exp(tilt(v)): the rate of a tilted law, [R].

    The mask keeps its weight 1 in the law r p(v) + (1 - r) 1[v = mask].

    Args:
        log_p: log-laws of the clean token, [R, V].
        tilt: float64 [R, V].
        prob: r, [R].
    """
    leaving = prob * (log_p.double() + tilt).logsumexp(-1).exp()
    return (leaving / (leaving + 1.0 - prob)).where(prob < 1.0, 1.0)
