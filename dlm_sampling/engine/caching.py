"""Choose the cache policy of a run, refuse those that do not fit, and show it the active rows."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.caches import POLICIES, AnyPolicy, BlockCache, RefreshPolicy, policy_of
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.blocks import BlockPlan
from dlm_sampling.engine.request import Canvases, Request
from dlm_sampling.engine.state import RunState
from dlm_sampling.engine.windows import Windows
from dlm_sampling.errors import SamplingWarning
from dlm_sampling.prediction.audit import Meter
from dlm_sampling.prediction.cached import CachedPasses
from dlm_sampling.prediction.run_cache import RunCache, Shown


def choose_cache(
    denoiser: Denoiser, request: Request, plan: BlockPlan, canvases: Canvases
) -> AnyPolicy | None:
    """Return the policy of a run, or None if every pass runs all columns.

    "auto" is the exact block cache where the model is block-causal and the run writes its blocks.

    Raises:
        ValueError: the policy does not fit the model, the sampler, or the blocks, or there is none
            to audit, or no refresh of it.
    """
    policy = _chosen(denoiser, request, plan, canvases)
    if policy is None and request.cache_audit is not None:
        legal = ", ".join(map(repr, legal_caches(denoiser, request, plan, canvases)))
        raise ValueError(
            f"cache_audit={request.cache_audit!r}: this run has no cache to compare with "
            f"(cache={request.cache!r}); leave cache_audit out. Here cache may be {legal}."
        )
    if isinstance(request.cache_audit, str) and not isinstance(policy, RefreshPolicy):
        raise ValueError(
            f"cache_audit={request.cache_audit!r}: {policy!r} computes all columns in no pass in "
            "whose place another one was due, so that nothing would be audited; give the share of "
            "passes, such as 0.25."
        )
    return policy


def _chosen(
    denoiser: Denoiser, request: Request, plan: BlockPlan, canvases: Canvases
) -> AnyPolicy | None:
    """Return the policy of a run; see `choose_cache`."""
    asked = request.cache
    if asked == "none":
        return None
    if asked == "auto":
        reason = _against_any(denoiser, request) or _against_block(
            denoiser, request, plan, canvases
        )
        exact = reason is None and not denoiser.time_conditioned
        return BlockCache() if exact else None
    policy = policy_of(asked)
    reason = _against_any(denoiser, request)
    if reason is None and isinstance(policy, BlockCache):
        reason = _against_block(denoiser, request, plan, canvases)
    elif reason is None:
        reason = _against_approximate(denoiser, request, policy)
    if reason is not None:
        legal = ", ".join(map(repr, legal_caches(denoiser, request, plan, canvases)))
        raise ValueError(f"cache={policy.name!r}: {reason} Here cache may be {legal}.")
    if denoiser.time_conditioned:
        warnings.warn(
            f"cache={policy.name!r}: the network ({denoiser.family}) is told the time, and stored "
            "keys and values are of earlier times: the result is approximate.",
            SamplingWarning,
            stacklevel=2,
        )
        if isinstance(policy, BlockCache):
            # The time of a block's last step, as the released loop stores it.
            policy = replace(policy, commit="separate")
    if policy.separate and request.cuda_graph:
        raise ValueError(
            f"cuda_graph=True: {policy!r} takes passes of its own for finished blocks, which are "
            "not recorded; use cache='auto' or cache='none'."
        )
    if policy.separate and request.max_nfe is not None:
        raise ValueError(
            f"max_nfe={request.max_nfe}: {policy!r} takes a pass of its own for every finished "
            "block, which no sampler plans; use cache='auto' or cache='none'."
        )
    return policy


def legal_caches(
    denoiser: Denoiser, request: Request, plan: BlockPlan, canvases: Canvases
) -> list[str]:
    """Return the names of `cache` that fit, "none" first."""
    names = ["none"]
    if _against_any(denoiser, request) is None:
        if _against_block(denoiser, request, plan, canvases) is None:
            names.append("block")
        for name, policy in POLICIES.items():
            made = policy()
            if name != "block" and _against_approximate(denoiser, request, made) is None:
                names.append(name)
    return names


def _against_any(denoiser: Denoiser, request: Request) -> str | None:
    """Return why no policy fits, as a sentence, or None."""
    if not denoiser.cacheable:
        return f"this network ({denoiser.family}) gives no access to its keys and values."
    if denoiser.carries and request.cache_audit is not None:
        return "cache_audit: a pass aside would move the state that the network carries; use None."
    if not denoiser.honours_padding and denoiser.canvas_length is None:
        return f"this network ({denoiser.family}) takes no mask of the columns that it may see."
    if request.guidance is not None:
        return "the passes of a guidance see other canvases."
    if request.cuda_graph and request.cache_audit is not None:
        return "cache_audit: recorded steps (cuda_graph=True) have no passes aside; use None."
    if request.sampler.looks_ahead or request.reads_ahead is not None:
        name = type(request.sampler).__name__
        name = name if request.reads_ahead is None else request.reads_ahead
        return f"{name} reads predictions outside of the current block, which are not computed."
    return None


def _against_block(
    denoiser: Denoiser, request: Request, plan: BlockPlan, canvases: Canvases
) -> str | None:
    """Return why the exact block cache does not fit, as a sentence, or None."""
    width = denoiser.block_length
    if request.cuda_graph and denoiser.time_conditioned:
        return (
            f"this network ({denoiser.family}) is told the time, so that finished blocks need "
            "passes of their own, which cuda_graph=True does not record."
        )
    if denoiser.canvas_length is not None:
        return None  # its blocks are whole canvases, and all before them is encoded causally
    if width is None:
        return (
            f"this network ({denoiser.family}) sees the whole canvas from every column, so that "
            "the keys and values of a finished block change; no cache of it is exact."
        )
    origin = canvases.attention.long().argmax(1, keepdim=True)
    end = origin + canvases.attention.sum(1, keepdim=True)
    used = torch.arange(plan.start.shape[1], device=plan.start.device) < plan.number.unsqueeze(1)
    starts = (plan.start - origin) % width == 0
    stops = ((plan.stop - origin) % width == 0) | (plan.stop == end)
    if bool((used & ~(starts & stops)).any()):
        return (
            f"the blocks of the run must be those of the network, {width} columns from a row's "
            f"first token: use block_length={width} (or a multiple) and align_blocks=True."
        )
    return None


def _against_approximate(denoiser: Denoiser, request: Request, policy: AnyPolicy) -> str | None:
    """Return why an approximate policy does not fit, as a sentence, or None."""
    name = type(request.sampler).__name__
    if request.cuda_graph:
        return "cuda_graph=True records passes over one block and over two, those of 'block'."
    if request.speculate > 1:
        return "speculate= predicts canvases whose keys and values are never stored; leave one out."
    if denoiser.canvas_length is not None:
        return "the prompt is encoded apart from the canvas, which is exact with 'block'."
    if policy.updates_layers and not denoiser.partial_layers:
        return f"the layers of this network ({denoiser.family}) cannot be computed in part."
    if policy.freezes and request.sampler.revises:
        return f"it freezes written tokens, and {name} may write them again."
    if policy.freezes and denoiser.mask_token_id is None:
        return "it computes masks, and this network has none."
    return None


def meter_of(policy: AnyPolicy | None, request: Request) -> Meter | None:
    """Return what audits a run, as `cache_audit` asks for; None without a cache."""
    if policy is None:
        return None
    audit, told = request.cache_audit, request.told_time
    if audit is None:
        return Meter(policy, told_time=told)
    every = None if isinstance(audit, str) else max(1, round(1 / audit))
    return Meter(policy, every, told)


def with_cache(state: RunState, policy: AnyPolicy) -> RunState:
    """Return the state before the first pass with an empty cache."""
    shown = _shown(state)
    empty = RunCache.empty(
        policy, shown.window, shown.unknown, shown.real, state.rng, state.editable
    )
    return replace(state, cache=empty)


def cached_passes(state: RunState, meter: Meter, causal: bool) -> CachedPasses:
    """Return what runs the passes of the next step; `causal` hides what is right of the block."""
    assert state.cache is not None
    return CachedPasses(state.cache, _shown(state, causal), meter, state.rng)


class PassWidths(NamedTuple):
    """Hold the columns of the passes of recorded steps with the exact block cache."""

    first: int  # of the first pass, which computes the prompt and is not recorded
    block: int  # W, of a pass over the block
    fused: int  # 2 W, of a pass over the finished block and the new one; W if each row has one


def pass_widths(state: RunState, windows: Windows, shift: int) -> PassWidths | None:
    """Return the widths of the passes of all batch rows, before the first step; None: no cache.

    With a shift, the column before the first of a pass counts too, whose state predicts it.

    Where blocks with nothing to write are left out, the columns between two blocks count to `fused`
    too.  A pipeline has windows of several blocks in their place.
    """
    if state.cache is None:
        return None
    column = torch.arange(state.tokens.shape[1], device=state.tokens.device)
    seen = state.attention & (column < state.window.stop.unsqueeze(1))
    return PassWidths(int(seen.sum(1).max()), windows.width + shift, windows.fused + shift)


def _shown(state: RunState, causal: bool = False) -> Shown:
    """Return what the passes of a step see of the rows."""
    column = torch.arange(state.tokens.shape[1], device=state.tokens.device)
    window: Tensor = (column >= state.window.start.unsqueeze(1)) & (
        column < state.window.stop.unsqueeze(1)
    )
    visible = state.attention
    if causal:
        visible = visible & (column < state.window.stop.unsqueeze(1))
    return Shown(state.tokens, state.unknown, window, visible, state.rng, state.editable)
