"""Define `elbo`, which estimates the likelihood bound of a masked diffusion model.

    log p(x) >= E_l E_S (C / l) sum over i in S of log p(x_i | x outside S)

Here l is uniform on 1..C, and S is a uniform subset of l of the C positions.  The bound equals the
mean, over all orders, of the log-probability of writing the tokens one by one; it is tight if the
model's conditionals belong to one joint law.

Ou et al. 2024, arXiv:2406.03736; Sahoo et al. 2024, arXiv:2406.07524; Nie et al. 2025,
arXiv:2502.09992, eq. 14.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.batches import check_batch_size, in_parts
from dlm_sampling.engine.checks import check_canvases, check_denoiser, check_ids, written_positions
from dlm_sampling.engine.request import Canvases
from dlm_sampling.errors import check_flag, check_whole, named, unknown_choice
from dlm_sampling.likelihood.clean_prefix import CacheName, CleanPrefix, check_cache, fits
from dlm_sampling.likelihood.mask_plans import SCHEMES, MaskPlan, Places
from dlm_sampling.likelihood.scoring import Scorer, Views
from dlm_sampling.prediction.model import time_at

SchemeName = Literal[
    "count", "stratified", "bernoulli", "coupled", "mean_field", "leave_one_out", "enumerate"
]
DEFAULT_MASKS = 8


@dataclass(frozen=True)
class Elbo:
    """Hold the result of `elbo`, in nats, on the denoiser's device; differentiable if requested.

    Fields:
        value: [B], the mean of the terms.
        terms: [B, n], one per mask; under the random schemes each term is an estimate by itself.
        logprob: [B, L], each token's share of the value, 0 at positions that no mask covered.
        masks: the plan; pass it to another call for the same masks.
        nfe: int64 [B], forward passes: n less the number of empty masks, and that over the clean
            text where one is made.
        work: float64 [B], columns that the row showed to them, in units of its canvas.
    """

    value: Tensor
    terms: Tensor
    logprob: Tensor
    masks: MaskPlan
    nfe: Tensor
    work: Tensor


def elbo(
    denoiser: Denoiser,
    tokens: Tensor,
    *,
    editable: Tensor | None = None,
    attention_mask: Tensor | None = None,
    n: int | None = None,
    scheme: SchemeName = "count",
    seed: int | Sequence[int] | None = None,
    masks: MaskPlan | None = None,
    grad: bool | None = None,
    batch_size: int | None = None,
    cache: CacheName = "auto",
) -> Elbo:
    """Estimate the bound on log p(tokens at `editable` | all other tokens) of each row.

    Four schemes are unbiased: "count" (the default, of small variance), "stratified" (sizes l
    spread evenly over 1..C), "bernoulli" (t uniform, weight 1 / t) and "coupled" (pairs of a mask
    and its complement).  "enumerate" computes the bound exactly.  "mean_field" (all masked, one
    pass) and "leave_one_out" (one masked at a time) compute other quantities, not bounds.

    Args:
        denoiser: a model of masked diffusion.
        tokens: int64 [B, L], finished texts.
        editable: bool [B, L], the C positions whose tokens are scored; the rest is context.
            Default every position that is no padding: the bound on the whole text.
        attention_mask: bool [B, L], False at padding; None when there is none.
        n: masks per row of the random schemes; default 8.
        scheme: the rule that chooses masks.
        seed: one int, or one per row; default a random one.  A row's masks depend on its own seed
            and positions only, and are independent of sampling with the same seed.
        masks: the plan of an earlier call, in place of n, scheme and seed; policy, old policy and
            reference are then compared on the same masks.
        grad: whether to record gradients; None follows the caller's grad mode.
        batch_size: canvases per forward pass; default B.
        cache: "auto" runs a block-causal model from each mask's first block to its last one, beside
            one pass over the clean blocks before that which several masks share: the same up to
            rounding, in fewer columns (`work`), for at most one pass more.  "none" runs whole
            canvases, and as many passes whatever the masks, as ranks of a sharded network must.

    Returns:
        An `Elbo`; float64 for float64 logits, else float32.  NFE n per row; 1 with "mean_field", C
        with "leave_one_out", 2 ** C - 1 with "enumerate".  A time-conditioned model gets
        the time at which the expected fraction of masked positions is that of the mask.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the model has no masks or carries a state, shapes do not match, a token is
            outside the vocabulary, a token to score is the mask, n or batch_size < 1, n is odd with
            "coupled", C > 12 with "enumerate", another name of a cache, or two arguments exclude
            each other.
    """
    check_flag("grad", grad, optional=True)
    check_cache(cache)
    inputs = check_texts(denoiser, tokens, editable, attention_mask, batch_size)
    masks = (
        _plan(inputs, scheme, n, seed) if masks is None else checked_plan(masks, inputs, n, seed)
    )
    with torch.set_grad_enabled(torch.is_grad_enabled() if grad is None else grad):
        return _estimate(denoiser, inputs, masks, batch_size, cache)


def check_texts(
    denoiser: Denoiser,
    tokens: Tensor,
    editable: Tensor | None,
    attention_mask: Tensor | None,
    batch_size: int | None,
) -> Canvases:
    """Check texts that are to be masked and scored; see `elbo`.

    Raises:
        TypeError: the denoiser is none, or the texts are no tensors.
        ValueError: the model has no masks, shapes do not match, a token is outside the vocabulary,
            a token to score is the mask, or batch_size < 1.
    """
    check_denoiser(denoiser)
    _check_noise(denoiser)
    check_batch_size(batch_size)
    if editable is None:
        editable = written_positions(tokens, attention_mask)
    inputs = check_canvases(denoiser, tokens, editable, attention_mask, None)
    _check_tokens(denoiser, inputs)
    return inputs


def _estimate(
    denoiser: Denoiser, inputs: Canvases, plan: MaskPlan, batch_size: int | None, cache: CacheName
) -> Elbo:
    """Estimate the bound with one forward pass per mask that is not empty."""
    draws, (batch, length) = len(plan.masks), inputs.tokens.shape
    found = score_masks(denoiser, inputs, plan.masks, plan.masks, batch_size, cache)
    listed, (draw, row, column) = found.logprob, found.place
    worth = plan.weights[draw, row].to(listed.dtype)
    terms = listed.new_zeros(batch * draws).index_add(0, row * draws + draw, listed * worth)
    share = listed.new_zeros(batch * length).index_add(
        0, row * length + column, listed * worth / max(draws, 1)
    )
    terms = terms.view(batch, draws)
    value = terms.sum(1) / max(draws, 1)
    return Elbo(value, terms, share.view(batch, length), plan, found.nfe, found.work)


class MaskScores(NamedTuple):
    """Hold the log-probabilities of R tokens on canvases with masks, and what they took."""

    logprob: Tensor  # [R], float64 for float64 logits, else float32
    place: tuple[Tensor, Tensor, Tensor]  # int64 [R] each: mask, row and column
    nfe: Tensor  # int64 [B]
    work: Tensor  # float64 [B]


def score_masks(
    denoiser: Denoiser,
    inputs: Canvases,
    hidden: Tensor,
    scored: Tensor,
    batch_size: int | None,
    cache: CacheName,
) -> MaskScores:
    """Score tokens on canvases with masks, one forward pass per canvas with a token to score.

    Args:
        denoiser: the model.
        inputs: texts int64 [B, L], with the positions that set the time of a canvas.
        hidden: bool [n, B, L], positions that are masked.
        scored: bool [n, B, L], positions whose tokens are scored; each is hidden.
        batch_size: canvases per forward pass; None is B.
        cache: see `elbo`.

    Raises:
        ValueError: the denoiser carries a state from pass to pass, or is step-conditioned.
    """
    device, mask, prefix = inputs.tokens.device, denoiser.mask_token_id, None
    assert mask is not None
    size = batch_size or max(len(inputs.tokens), 1)
    if cache == "auto" and fits(denoiser, 0.0):
        prefix = CleanPrefix.of_masks(
            denoiser, inputs.tokens, inputs.attention, hidden, scored, size
        )
    scorer = Scorer(denoiser, prefix=prefix)
    used = scored.any(2).nonzero()  # (draw, row)
    found: list[Tensor] = [torch.zeros(0, dtype=torch.float32, device=device)]
    places: list[Tensor] = [used.new_zeros(0, 3)]

    def score(first: int, last: int) -> tuple[Tensor, Tensor]:
        draw, row = used[first:last].T
        where, masked, text = scored[draw, row], hidden[draw, row], inputs.tokens[row]
        canvas = text.masked_fill(masked, mask)
        editable = inputs.editable[row]
        time = _time(denoiser, masked & editable, editable)
        listed = scorer(Views(row, canvas, text, where, inputs.attention[row], None, time))
        which, column = where.nonzero(as_tuple=True)
        return listed, torch.stack([draw[which], row[which], column], 1)

    for _, (listed, place) in in_parts(len(used), size, score):
        found.append(listed)
        places.append(place)
    draw, row, column = torch.cat(places).T
    nfe = scored.any(2).sum(0)
    work = nfe.double() if prefix is None else prefix.work
    nfe = nfe if prefix is None else nfe + prefix.nfe
    return MaskScores(torch.cat(found), (draw, row, column), nfe, work)


def _time(denoiser: Denoiser, masked: Tensor, editable: Tensor) -> Tensor | None:
    """Return the time that matches the fraction of masked positions, float64 [n], or None."""
    if not denoiser.time_conditioned:
        return None
    fraction = masked.sum(1).double() / editable.sum(1).double()
    return time_at(denoiser, 1.0 - fraction)


def _plan(
    inputs: Canvases, scheme: SchemeName, n: int | None, seed: int | Sequence[int] | None
) -> MaskPlan:
    """Return the masks of a scheme."""
    chosen = SCHEMES.get(scheme)
    if chosen is None:
        raise unknown_choice("scheme", scheme, SCHEMES)
    if not chosen.drawn and n is not None:
        raise ValueError(f"n={n}: scheme {scheme!r} has as many masks as it needs; leave n out.")
    check_whole("n", n, optional=True)
    n = DEFAULT_MASKS if n is None else n
    if n < 1:
        raise ValueError(f"n={n}: must be at least 1.")
    seeds = ops.row_seeds(ops.fresh_seed() if seed is None else seed, len(inputs.tokens))
    rng = ops.Rng.from_seeds(seeds, device=inputs.tokens.device)
    origin = inputs.attention.long().argmax(1)
    return chosen.plan(Places(inputs.editable, replace(rng, origin=origin)), n)


def checked_plan(
    plan: object, inputs: Canvases, n: int | None, seed: int | Sequence[int] | None
) -> MaskPlan:
    """Return the plan of an earlier call on the device, after checking that it fits.

    Raises:
        TypeError: it is no plan.
        ValueError: n or seed is given too, or the plan is of other rows or positions.
    """
    if not isinstance(plan, MaskPlan):
        raise TypeError(f"masks is {named(plan)}: must be a MaskPlan, the `masks` of `elbo`.")
    if n is not None or seed is not None:
        raise ValueError("masks: a plan comes with its number and seeds; leave n and seed out.")
    masks, weights = (x.to(inputs.tokens.device) for x in (plan.masks, plan.weights))
    if masks.shape[1:] != inputs.tokens.shape or weights.shape != masks.shape[:2]:
        raise ValueError(
            f"masks: the plan is for rows {tuple(masks.shape[1:])}, with weights "
            f"{tuple(weights.shape)}; must be {tuple(inputs.tokens.shape)} as the tokens."
        )
    if bool((masks & ~inputs.editable).any()):
        raise ValueError("masks: the plan masks positions that are not editable.")
    return MaskPlan(masks, weights)


def _check_noise(denoiser: Denoiser) -> None:
    if denoiser.process.name != "absorbing" or denoiser.mask_token_id is None:
        raise ValueError(
            f"denoiser ({denoiser.family}) was trained on {denoiser.process.name} noise: this "
            "bound is that of masks. Pass mask_token_id= if the model has a mask; the bound of "
            "uniform noise is uniform_elbo."
        )


def _check_tokens(denoiser: Denoiser, inputs: Canvases) -> None:
    check_ids(denoiser, inputs.tokens, inputs.attention)
    masked = (inputs.tokens == denoiser.mask_token_id) & inputs.editable
    if bool(masked.any()):
        row, position = (int(i) for i in masked.nonzero()[0])
        raise ValueError(
            f"tokens[{row}, {position}] is the mask id {denoiser.mask_token_id}: only written "
            "tokens have a probability; set editable to False there."
        )
