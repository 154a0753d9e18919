"""A run whose step is recorded once as a CUDA graph and then replayed.

Every row takes part in every step, in tensors of fixed shape; rows that are done change no more.
The host enqueues the next step before it reads what became of the last one, so that the device
need not wait for it.  What a graph cannot hold happens between replays: the argmax at positions
that a finished schedule left unknown, and the events for callbacks.

No GPU has run this yet: the tests put something in the place of the graph that only repeats the
step, and refuses what a graph cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.blocks import BlockPlan
from dlm_sampling.engine.checks import Inputs
from dlm_sampling.engine.graph import Record, Watch, check_capture
from dlm_sampling.engine.options import RunOptions, SampleOutput
from dlm_sampling.engine.run import Run
from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.prediction.recorded import CapturedPredictor
from dlm_sampling.types import Canvas, Sampler, Step

_MOVED = ("tokens", "unknown", "logprob", "state")  # what the sampler's step changes
_TURNED = ("block", "step", "rng")  # what counting the step changes


class Shown(NamedTuple):
    """What a listener is told of the last step; all [B, L]."""

    logprob: Tensor
    log_confidence: Tensor
    entropy: Tensor


class CapturedRun(Run):
    """A run of all rows to the end, step by recorded step.

    Args:
        record: makes the CUDA graph; a test on a CPU passes something that only repeats the step.

    Raises:
        ValueError: the sampler, the model or the padding cannot be recorded.
        RuntimeError: the kernels cannot run.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler[Any],
        inputs: Inputs,
        plan: BlockPlan,
        seeds: Sequence[int],
        options: RunOptions,
        record: Record,
    ) -> None:
        """The ordinary run's tensors, and those that only a replay needs."""
        check_capture(denoiser, sampler, inputs, options)
        super().__init__(denoiser, sampler, inputs, plan, seeds, options)
        self.record = record
        self.ordinary: Predictor = self.predictor
        self.state = _copied(self.state)
        self.done = self.plan.number == 0
        nobody = torch.zeros_like(self.done)
        self.waiting, self.lawless, self.frozen = nobody.clone(), nobody.clone(), nobody.clone()
        self.flags = torch.zeros(3, dtype=torch.bool, device=self.done.device)
        self.width = int((plan.stop - plan.start).max()) if plan.start.numel() else 0
        self.captured = CapturedPredictor.of(self.ordinary, self.lawless)
        listens = options.callback is not None or options.return_trajectory
        blank = torch.zeros_like(self.logprob)
        self.shown = Shown(blank.clone(), blank.clone(), blank.clone()) if listens else None

    def tick(self) -> None:
        """One step of all rows that are not done and do not wait, on the device alone."""
        live = ~(self.done | self.waiting)
        held = self.held()
        self.predictor = self.captured
        self.captured.begin(live, self.window())
        with ops.without_sync():
            canvas, step, over = self.move()
        left = (self.unknown & canvas.editable).any(1) & over
        stuck = self.stuck(canvas, over)
        further = [
            (self.waiting, self.waiting | (live & left)),
            (self.frozen, self.frozen | (live & stuck)),
            *self.shown_changes(canvas, step),
        ]
        self.conclude(held, over, live, live & ~left, further)
        failed = (self.lawless | self.frozen).any()
        self.flags.copy_(torch.stack([self.done.all(), self.waiting.any(), failed]))

    def held(self) -> dict[str, Any]:
        """The tensors that the graph reads and writes, by name."""
        return {name: getattr(self, name) for name in (*_MOVED, *_TURNED)}

    def conclude(
        self,
        held: dict[str, Any],
        over: Tensor,
        moved: Tensor,
        counted: Tensor,
        further: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        """End a step: write what became of the rows into the tensors that the next one reads.

        Args:
            held: those tensors; their names are taken back from the step's own.
            over: bool [B], rows whose block ended.
            moved: bool [B], rows that take over what the sampler did.
            counted: bool [B], rows for which the step is complete.
            further: other tensors and what they will hold.
        """
        ended, done = self.endings(over)
        self.turn(over)
        new = self.held()
        changes = [
            (self.done, self.done | (counted & done)),
            (self.out_ended, self.out_ended | (counted & ended)),
            (self.out_steps, self.out_steps + counted),
            *further,
        ]
        for names, rows in ((_MOVED, moved), (_TURNED, counted)):
            changes += _changes([held[n] for n in names], [new[n] for n in names], rows)
        for there, value in changes:
            there.copy_(value)
        for name, value in held.items():
            setattr(self, name, value)

    def window(self) -> Tensor:
        """Columns of each row's block, and further ones where it is narrower, int64 [B, W]."""
        first = self.of_block(self.plan.start).unsqueeze(1)
        column = first + torch.arange(self.width, device=first.device)
        return column % max(self.tokens.shape[1], 1)

    def shown_changes(self, canvas: Canvas, step: Step) -> Iterator[tuple[Tensor, Tensor]]:
        """What listeners will be told of this step."""
        if self.shown is not None:
            told = (step.logprob.masked_fill(~canvas.editable, 0.0), *step[3:5])
            for there, value in zip(self.shown, told, strict=True):
                yield there, torch.zeros_like(there) if value is None else value

    def finish(self) -> SampleOutput:
        """Record the step, then replay it until every row is done."""
        over = bool(self.done.all())
        replay = self.recorded() if not over else self.tick
        watch = Watch(self.flags, lag=0 if self.shown is not None else 1)
        while not over:
            event = self.event() if self.shown is not None else None
            replay()
            over, waiting, failed = watch.look()
            if failed:
                raise self.failure()
            if waiting:
                self.settle()
            if event is not None:
                self.tell(event)
                over = bool(self.done.all())
            self.iteration += 1
        filled = (self.out_ended.unsqueeze(1) & self.unknown, self.filler)
        tokens = self.tokens.masked_fill(*filled)
        return SampleOutput(
            tokens,
            self.logprob,
            self.ordinary.nfe,
            self.out_steps,
            self.out_ended,
            self.trajectory,
        )

    def recorded(self) -> Callable[[], None]:
        """What repeats the step; recording it leaves no trace in the rows."""
        kept = [there.clone() for there in self.buffers()]
        replay = self.record(self.tick)
        for there, value in zip(self.buffers(), kept, strict=True):
            there.copy_(value)
        return replay

    def settle(self) -> None:
        """Fill what finished schedules left unknown, outside of the graph, and end those blocks."""
        rows, held = self.waiting.clone(), self.held()
        self.predictor = self.ordinary
        canvas = self.canvas()
        if self.options.causal_blocks:
            self.predictor.horizon = self.of_block(self.plan.stop)
        told = self.logprob if self.shown is None else self.shown.logprob
        step = self.fill(canvas, rows, Step(self.tokens, self.unknown, told))
        further = [(self.waiting, self.waiting & ~rows)]
        if self.shown is not None:
            further += [(self.shown.logprob, step.logprob)]
        self.conclude(held, rows, rows, rows, further)

    def event(self) -> StepEvent:
        """The rows that the next step moves, and how they stand before it."""
        rows = (~self.done).nonzero().squeeze(1)
        unknown, nfe = self.unknown[rows], self.ordinary.nfe[rows]
        nothing = torch.zeros_like(rows, dtype=torch.bool)
        tokens, logprob = self.tokens[rows], self.logprob[rows]
        return StepEvent(
            self.iteration, rows, tokens, tokens, unknown, unknown, self.block[rows],
            self.step[rows], nfe, nothing, logprob, None, None, nothing,
            self.of_block(self.plan.stop)[rows] if self.options.causal_blocks else None,
        )  # fmt: skip

    def tell(self, event: StepEvent) -> None:
        """Complete the event after its step, and pass it on."""
        rows, before = event.rows, event.before
        tokens, unknown, nfe = self.tokens[rows], self.unknown[rows], self.ordinary.nfe[rows]
        logprob, log_confidence, entropy = (part[rows] for part in self.shown or ())
        event = replace(
            event, tokens=tokens, unknown=unknown, nfe=nfe, forwarded=nfe > event.nfe,
            written=(tokens != before) | (event.unknown & ~unknown), logprob=logprob,
            log_confidence=log_confidence, entropy=entropy, final=self.done[rows],
            time=self.captured.told[rows],
        )  # fmt: skip
        self.pass_on(event)

    def failure(self) -> Exception:
        """The error for rows that cannot go on."""
        if bool(self.frozen.any()):
            return self.endless()
        row = int(self.lawless.long().argmax())
        return ValueError(
            f"row {row}: the logits hold NaN, +inf, or no token that may be drawn. Run it without "
            "cuda_graph to learn where, and check the model's output."
        )

    def buffers(self) -> list[Tensor]:
        """Every tensor that a step writes in place."""
        named = [getattr(self, name) for name in (*_MOVED, *_TURNED)]
        found = [self.done, self.waiting, self.lawless, self.frozen, self.flags]
        found += [self.out_steps, self.out_ended, self.ordinary.nfe, *(self.shown or ())]
        return [*found, *_leaves(named)]


def _changes(
    old: Sequence[Any], new: Sequence[Any], rows: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """What each tensor of `old` will hold: the rows of `new` where `rows` is True."""
    for there, value in zip(_leaves(old), _leaves(new), strict=True):
        chosen = rows.view(-1, *[1] * (there.ndim - 1))
        yield there, torch.where(chosen, value.to(there.dtype), there)


def _leaves(value: Any) -> list[Tensor]:
    """The tensors of a sampler's state, or of other things that hold rows."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, ops.Rng):
        return [value.step]
    parts = cast("Sequence[Any]", value) if isinstance(value, tuple | list) else ()
    return [leaf for part in parts for leaf in _leaves(part)]


def _copied(state: Any) -> Any:
    """A state whose tensors nothing else shares."""
    if isinstance(state, Tensor):
        return state.clone()
    if not isinstance(state, tuple):
        return state
    parts = [_copied(part) for part in cast("tuple[Any, ...]", state)]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)  # pyright: ignore
