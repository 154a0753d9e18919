"""Keep a run within a number of forward passes: `max_nfe`.

A schedule is planned with fewer steps, so that it fits.  Where a block goes on until it is written,
with R passes left for the block and M of its positions unknown, a step writes

    max(the positions of the sampler, ceil(M / R))

of which the further ones, the least uncertain of the model's law, are drawn from the pass that the
step made.  R is the block's part of the passes that the row has left, by its unknown positions, and
at least one for each later block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.engine.blocks import BlockPlan, step_limits
from dlm_sampling.engine.request import Request
from dlm_sampling.engine.state import Moved, RunState, apply
from dlm_sampling.ops import top_k_positions
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.samplers.contract import check_answer
from dlm_sampling.schedules import Schedule
from dlm_sampling.types import Process, Sampler
from dlm_sampling.types.values import distinct, ints, some

_SUB = 14  # of the random numbers of a step: that of tokens beyond the sampler's own


@dataclass(frozen=True)
class Budget:
    """Hold the passes that the rows of a run may take.

    Fields:
        passes: most passes of a row.
        per_step: passes of a step, 2 with guidance.
        later: int64 [B, K + 1], passes kept for the blocks after each one.
        adaptive: whether a block goes on until it is written.
        ends_early: whether a block is cut one pass early, and then filled: a sampler that revises
            may mask a position in its last step.
        schedule: alpha(t) of the sampler.
        forced: int64 [B], tokens that were written beyond the sampler's own, counted in place.
    """

    passes: int
    per_step: int
    later: Tensor
    adaptive: bool
    ends_early: bool
    schedule: Schedule
    forced: Tensor

    @classmethod
    def of(cls, request: Request, plan: BlockPlan) -> Budget | None:
        """Return the budget of a run whose plan fits, see `fitted`; None without one."""
        if request.max_nfe is None:
            return None
        sampler, each = request.sampler, _passes(request)
        adaptive = sampler.schedule_length(1) is None
        if adaptive:
            kept = torch.full_like(plan.steps, _least(sampler, each, 1))
        else:
            kept = each * step_limits(sampler, plan.steps) + _reserve(sampler, each)
        used = torch.arange(kept.shape[1], device=kept.device) < plan.number.unsqueeze(1)
        kept = torch.where(used, kept, 0)
        after = kept.flip(1).cumsum(1).flip(1) - kept
        return cls(
            request.max_nfe,
            each,
            torch.nn.functional.pad(after, (0, 1)),
            adaptive,
            adaptive and sampler.revises,
            sampler.schedule,
            torch.zeros_like(plan.number),
        )

    def left(self, nfe: Tensor, rows: Tensor, block: Tensor) -> Tensor:
        """Return the passes that a block may take when its row has taken `nfe`, int64 [A]."""
        return self.passes - nfe - self.later[rows, block]

    def kept(self, before: RunState, moved: Moved, predictor: Predictor, nfe: Tensor) -> Moved:
        """Return the step with the tokens that the budget asks for.

        Args:
            before: the rows before the step.
            moved: the step.
            predictor: its passes.
            nfe: int64 [A], passes that the rows had asked for before it.
        """
        rows, block, canvas, each = before.rows, before.block, moved.canvas, self.per_step
        most = self.left(nfe, rows, block)
        now = self.left(predictor.model.counts.asked[rows], rows, block)
        unknown = canvas.eligible
        ahead = unknown.sum(1)
        still = unknown & moved.state.unknown
        if self.adaptive:
            everywhere = (before.unknown & before.editable).sum(1).clamp_min(1)
            share = torch.minimum((self.passes - nfe) * ahead // everywhere, most)
            rounds = share.div(each, rounding_mode="floor").clamp_min(1)
            quota = -(-ahead // rounds) - (ahead - still.sum(1))
        else:
            # After the last step of a schedule there is no pass to fill what is left.
            quota = torch.where(moved.over & (now < each), ahead, 0)
        if self.ends_early:
            spent = now < 2 * each
            moved = replace(moved, over=moved.over | spent)
        elif self.adaptive:  # with `every_step` a written block may ask for one pass more
            moved = replace(moved, over=moved.over | (~still.any(1) & (now < each)))
        where = still & (quota > 0).unsqueeze(1)
        if not some(where):
            return moved
        made = predictor.made
        if made is None or made.canvases is not canvas.tokens:
            made = predictor.lazily(
                canvas.tokens, self.schedule.time_of(1 - canvas.unknown_fraction)
            )
        draw = made.draw(where, before.rng, sub=_SUB)
        chosen = top_k_positions(-draw.entropy, where, quota)
        step = moved.step._replace(
            tokens=torch.where(chosen, draw.token, moved.step.tokens),
            unknown=moved.step.unknown & ~chosen,
            logprob=torch.where(chosen, draw.logprob.to(moved.step.logprob), moved.step.logprob),
        )
        self.forced.index_add_(0, rows, chosen.sum(1))
        state = apply(moved.state, canvas, step)
        written = ~(state.unknown & canvas.editable).any(1)
        over = moved.over if self.ends_early else moved.over | (written & self.adaptive)
        return replace(moved, state=state, step=step, over=over)


def fitted(request: Request, plan: BlockPlan, process: Process) -> BlockPlan:
    """Return the plan with as many steps as `max_nfe` allows.

    Each block gets the passes of its shortest schedule, and its part of all others by its planned
    steps.

    Raises:
        ValueError: the budget has no meaning for the sampler, or is less than the least of a row.
    """
    budget, sampler = request.max_nfe, request.sampler
    if budget is None:
        return plan
    name = type(sampler).__name__
    if sampler.passes_per_step != 1:
        raise ValueError(
            f"max_nfe={budget}: {name} takes up to {sampler.passes_per_step} passes in a step, of "
            "which none can be left out; leave max_nfe out."
        )
    each = _passes(request)
    adaptive = sampler.schedule_length(1) is None
    if adaptive and process.mask_token_id is None:
        raise ValueError(
            f"max_nfe={budget}: {name} takes as many steps as it needs, and without masks no "
            "token can be written for good before; use a sampler of planned steps, with steps=."
        )
    least = _least(sampler, each, 1)
    needed = plan.number * least
    if bool((needed > budget).any()):
        row = int(needed.argmax())
        blocks, enough = int(plan.number[row]), int(needed[row])
        longer = ", or longer blocks (block_length=)" if blocks > 1 else ""
        raise ValueError(
            f"max_nfe={budget}: {name} takes at least {enough} passes in row {row}, {least} in "
            f"each block (blocks: {blocks}); use max_nfe={enough}{longer}."
        )
    if adaptive:
        return plan
    used = torch.arange(plan.steps.shape[1], device=plan.steps.device) < plan.number.unsqueeze(1)
    planned = torch.where(used, plan.steps, 0)
    spare = (budget - needed).unsqueeze(1)
    total, sums = planned.sum(1, keepdim=True).clamp_min(1), planned.cumsum(1)
    share = least + spare * sums // total - spare * (sums - planned) // total
    pairs = torch.stack([planned, share], 2)
    steps = plan.steps.clone()
    for asked, allowed in _pairs(pairs[used]):
        steps[used & (planned == asked) & (share == allowed)] = _longest(
            sampler, each, asked, allowed
        )
    if request.times is not None and bool((steps < plan.steps)[used].any()):
        raise ValueError(
            f"max_nfe={budget}: times has {len(request.times) - 1} steps in each block, which take "
            "more passes; give a grid of fewer times."
        )
    return plan._replace(steps=steps)


def _pairs(pairs: Tensor) -> list[tuple[int, int]]:
    """Return the different rows of int64 [n, 2]."""
    found = distinct(pairs)[0]
    return list(zip(ints(found[:, 0]), ints(found[:, 1]), strict=True))


def _longest(sampler: Sampler[Any], each: int, asked: int, allowed: int) -> int:
    """Return the most planned steps up to `asked` whose schedule takes at most `allowed` passes."""
    low, high = 1, asked
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if _least(sampler, each, middle) <= allowed else (low, middle - 1)
        )
    return low


def _least(sampler: Sampler[Any], each: int, steps: int) -> int:
    """Return the passes that a block of so many planned steps may take, 1 step if it adapts."""
    length = check_answer(sampler, "schedule_length", sampler.schedule_length(steps))
    return each * (1 if length is None else length) + _reserve(sampler, each)


def _reserve(sampler: Sampler[Any], each: int) -> int:
    """Return the passes kept to fill what a sampler that revises has masked in its last step."""
    return each if sampler.revises else 0


def _passes(request: Request) -> int:
    """Return the passes of a prediction."""
    return 2 if request.guidance_scale != 0.0 else 1
