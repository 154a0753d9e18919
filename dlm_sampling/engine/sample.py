"""Define `sample`, the low-level entry from canvases to finished canvases.

The loop never changes a fixed position and leaves no mask.  `run` holds the rules that samplers
share (blocks, step counters, stopping); `stepwise` and `recorded` drive them to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.caches import AnyPolicy
from dlm_sampling.constraints import TokenAutomaton
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.blocks import (
    BlockPlan,
    check_canvas,
    check_whole,
    in_whole_blocks,
    plan_blocks,
)
from dlm_sampling.engine.budget import fitted
from dlm_sampling.engine.checks import check_canvases, check_denoiser, listed_seeds
from dlm_sampling.engine.drafts import start_of, with_draft
from dlm_sampling.engine.graph import check_device, check_recordable, record
from dlm_sampling.engine.output import Listeners, SampleOutput
from dlm_sampling.engine.recorded import run_recorded
from dlm_sampling.engine.request import BlockRequest, Canvases, Request
from dlm_sampling.engine.run import Run
from dlm_sampling.engine.stepwise import run_stepwise
from dlm_sampling.engine.trajectory import StepCallback, Trajectory
from dlm_sampling.guidance.base import Guidance
from dlm_sampling.prediction.network import prove_padding
from dlm_sampling.samplers.contract import check_logprobs, check_sampler, check_written
from dlm_sampling.types import Sampler, TokenLaw
from dlm_sampling.watermark import Watermark, as_watermark

__all__ = ["SampleOutput", "sample"]


def sample(
    denoiser: Denoiser,
    sampler: Sampler[Any],
    tokens: Tensor,
    editable: Tensor,
    *,
    attention_mask: Tensor | None = None,
    seeds: Sequence[int],
    steps: int | None = None,
    block_length: int | None = None,
    steps_per_block: int | None = None,
    align_blocks: bool = False,
    causal_blocks: bool = False,
    law: TokenLaw | None = None,
    guidance_scale: float = 0.0,
    stop_token_ids: Sequence[int] = (),
    every_step: bool = False,
    suppress_mask: bool = True,
    callback: StepCallback | None = None,
    return_trajectory: bool = False,
    cuda_graph: bool = False,
    cache: str | AnyPolicy = "auto",
    cache_audit: float | str | None = None,
    start: Tensor | None = None,
    t_start: float | None = None,
    renoise: bool = True,
    times: Sequence[float] | None = None,
    constraint: TokenAutomaton | None = None,
    guidance: Guidance | None = None,
    max_nfe: int | None = None,
    watermark: Watermark | int | None = None,
    fill_behind_stop: bool = False,
    speculate: int = 1,
) -> SampleOutput:
    """Run a sampler over a batch of canvases until every editable position is written.

    Args:
        denoiser: predicts the clean tokens.
        sampler: decides where and when to write.
        tokens: int64 [B, L]; fixed tokens where `editable` is False; the rest is overwritten by
            masks.
        editable: bool [B, L], the positions to write.
        attention_mask: bool [B, L], False at padding; None when there is none.
        seeds: one 64-bit seed per row; a row's result depends on its own seed only.
        steps: planned steps over all blocks of a row; None is one per editable position, or
            the sampler's own number if it has one.
        block_length: columns per block, or None for one block, for those of a network that writes
            whole canvases only, or for those of a sampler that writes several at once.
        steps_per_block: steps of every block, of any size; replaces `steps`.
        align_blocks: put block boundaries at multiples of block_length from the row's first token,
            prompt included, as block-causal models need; otherwise blocks start with the first
            editable position.
        causal_blocks: hide everything right of the current block from the model, or of the last one
            where a sampler writes several.
        law: temperature and filters of the draws; None takes the sampler's own default.
        guidance_scale: w of classifier-free guidance, u + (w + 1) (c - u), with conditional and
            unconditional logits c and u; the unconditional pass has masks in place of all fixed
            tokens; a guided pass counts 2 NFE.
        stop_token_ids: a row ends once one of these is written and everything left of it is known;
            positions that are then still unknown become padding.
        every_step: run the model in every planned step, even where nothing can be written, and no
            early exit: the accounting of the released loops.
        suppress_mask: never draw the mask id; False only to reproduce code that may draw it.
        callback: called with a `StepEvent` after each step.
        return_trajectory: keep all events.
        cuda_graph: record one step as a CUDA graph and replay it: the same tokens without a launch
            per kernel.  A step counts as a forward pass of its rows, even if it writes nothing.
            Rows that are done leave when the others fit into the next smaller power of two; a step
            is then recorded anew.  With a callback, a trajectory or the block cache, the host waits
            for every step; the block cache takes two graphs, of passes over one block and over two.
            No GPU has run this yet.
        cache: "auto" keeps the keys and values of finished blocks where that is exact, "none" runs
            all columns in every pass; "block" insists on the first; "prefix", "dual", "vicinity",
            "dkv", "dpad", "adaptive" and "dllm", or a policy of `dlm_sampling.caches`, are
            approximate.
        cache_audit: compare the cache's laws with the exact ones, see `generate`.
        start: int64 [B, L], a draft, of which the editable positions are read; the mask or -1
            stands for noise.  None begins with noise everywhere.
        t_start: time at which the clock begins, see `generate`.
        renoise: whether the draft is noised to that level first.
        times: times of every block, falling, in place of the sampler's grid.
        constraint: an automaton that every row's tokens satisfy, prompt included; see
            `Constraint.compile`.
        guidance: an object of `dlm_sampling.guidance`, in place of guidance_scale.
        max_nfe: most forward passes of a row, see `generate`.
        watermark: a secret key, or a `Watermark`, see `generate`.
        fill_behind_stop: write the stop token at all unknown positions behind one at once; see
            `generate(eos="fill")`.
        speculate: canvases of a row in one pass, see `generate`.

    Returns:
        The finished canvases; no mask is left and fixed positions are unchanged.

    Raises:
        ValueError: shapes do not match, a token is outside the vocabulary, `seeds` has a wrong
            length, the sampler does not support the denoiser's noise, a block is not a whole
            canvas of a network that writes whole canvases only, or with `cuda_graph` there is no
            GPU or the sampler's step cannot be recorded.
        RuntimeError: with `cuda_graph`, filters without the Triton kernels, or a network whose
            pass cannot be recorded.
    """
    blocks = BlockRequest(block_length, steps, steps_per_block, align_blocks, causal_blocks)
    request = Request(
        sampler=sampler,
        law=law,
        blocks=blocks,
        guidance_scale=guidance_scale,
        stop_token_ids=tuple(stop_token_ids),
        every_step=every_step,
        suppress_mask=suppress_mask,
        return_trajectory=return_trajectory,
        cuda_graph=cuda_graph,
        cache=cache,
        cache_audit=cache_audit,
        start=start_of(start is not None, t_start, renoise, times),
        times=None if times is None else tuple(times),
        constraint=constraint,
        guidance=guidance,
        max_nfe=max_nfe,
        watermark=as_watermark(watermark),
        fills_behind=fill_behind_stop,
        speculate=speculate,
    )
    check_sampler(sampler)
    check_denoiser(denoiser)
    canvases = check_canvases(denoiser, tokens, editable, attention_mask, listed_seeds(seeds))
    if start is not None:
        canvases = with_draft(denoiser, canvases, start)
    return run_request(denoiser, request, canvases, () if callback is None else (callback,))


def run_request(
    denoiser: Denoiser,
    request: Request,
    canvases: Canvases,
    callbacks: Sequence[StepCallback] = (),
    numbers: Sequence[int] | None = None,
) -> SampleOutput:
    """Run a request over all rows at once; see `sample`.

    Args:
        denoiser: the model.
        request: the settings of the run.
        canvases: the rows, checked by `check_canvases` or built by `text.prompts`.
        callbacks: called after each step.
        numbers: the rows' numbers in the whole batch, for messages; None counts from 0.
    """
    canvases = canvases.to(denoiser.device)
    request, plan = plan_request(denoiser, request, canvases)
    with torch.no_grad():
        if request.cuda_graph:
            check_device(denoiser.device, request.law or request.sampler.law)
            check_recordable(denoiser, request, canvases)
            prove_padding(denoiser, canvases.tokens, canvases.attention)
        run = Run.of(denoiser, request, canvases, plan)
        state = run.begin(canvases)
        trajectory = Trajectory(
            initial=state.tokens,
            editable=canvases.editable,
            attention_mask=canvases.attention,
            sampler=type(request.sampler).__name__,
            masked=run.process.mask_token_id is not None,
            unknown=state.unknown.clone(),
            request=request,
            seeds=canvases.seeds,
        )
        listeners = Listeners(tuple(callbacks), trajectory if request.return_trajectory else None)
        if request.cuda_graph:
            output = run_recorded(run, state, listeners, record)
        else:
            output = run_stepwise(run, state, listeners)
    written = canvases.editable & (output.tokens != run.filler)
    check_written(request.sampler, output.tokens, written, denoiser.vocab_size, numbers)
    check_logprobs(request.sampler, output.logprob, numbers)
    return output


def plan_request(
    denoiser: Denoiser, request: Request, canvases: Canvases
) -> tuple[Request, BlockPlan]:
    """Return the request as sampler and denoiser adjust it, and the blocks of every row."""
    blocks = request.blocks
    if request.times is not None:
        blocks = replace(blocks, steps=None, steps_per_block=len(request.times) - 1)
    if blocks.steps is None and blocks.steps_per_block is None:
        blocks = replace(blocks, steps_per_block=request.sampler.own_steps)
    pipeline, canvas_length = request.sampler.pipeline, denoiser.canvas_length
    if pipeline is not None and blocks.length is None:
        blocks = replace(blocks, length=canvas_length or pipeline.block_length)
    if canvas_length is not None:
        check_canvas(canvas_length, blocks.length, blocks.align)
        blocks = replace(blocks, length=canvas_length, causal=True)
    origin = canvases.attention.long().argmax(1) if blocks.align else None
    plan = plan_blocks(
        canvases.editable,
        blocks.length,
        blocks.steps,
        origin=origin,
        steps_per_block=blocks.steps_per_block,
    )
    if canvas_length is not None:
        check_whole(plan, canvas_length)
    width = denoiser.block_length
    if width is not None and blocks.length is not None and blocks.align and not blocks.causal:
        whole = blocks.length % width == 0
        plan = in_whole_blocks(plan, canvases.attention, width) if whole else plan
    process = request.sampler.canvas_process(denoiser.process) or denoiser.process
    plan = fitted(request, plan, process)
    ahead = request.reads_ahead
    if request.guidance is not None and request.guidance.looks_ahead:
        ahead = type(request.guidance).__name__
    if ahead is not None and blocks.causal and int(plan.number.max()) > 1:
        raise ValueError(
            f"block_length={blocks.length}: {ahead} reads predictions of blocks to come, which "
            "causal blocks hide; use one block for the whole row."
        )
    ahead = ahead if len(plan.number) and int(plan.number.max()) > 1 else None
    told = denoiser.time_conditioned
    return replace(request, blocks=blocks, reads_ahead=ahead, told_time=told), plan
