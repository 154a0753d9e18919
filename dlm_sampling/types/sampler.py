"""Define the contract of a sampler: every member that the loop reads."""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

from dlm_sampling.types.canvas import Canvas, Choice, Clock, ClockUse, Step
from dlm_sampling.types.law import TokenLaw
from dlm_sampling.types.pipeline import Pipeline
from dlm_sampling.types.prediction import Predict
from dlm_sampling.types.process import NoiseKind as NoiseKind
from dlm_sampling.types.process import Process, RandomSource
from dlm_sampling.types.schedule import Schedule

S = TypeVar("S")


class Sampler(Protocol[S]):
    """Move a canvas one step at a time; the loop reads no other members than these.

    `samplers.SamplerBase` implements all of them but `step`, with the default named here; derive
    from it.  Implementations are frozen dataclasses.

    The state is a NamedTuple (or None) of tensors whose leading dimension is B, so that the loop
    can drop finished rows.  A row enters a new block with `clock.step == 0`; state that belongs to
    a block is reset there by the sampler, row by row.  A number in it belongs to all rows; with
    `cuda_graph=True` it must not change, as a replay would repeat the one that was recorded.
    """

    @property
    def law(self) -> TokenLaw:
        """Return the token law that a run uses unless the caller gives another.

        Default: the model's own law.  (`samplers.AdaptiveSampler` has temperature 0.)
        """
        ...

    @property
    def runs_on(self) -> tuple[NoiseKind, ...]:
        """Return the kinds of noise whose models it samples from.  Default: masks ("absorbing")."""
        ...

    @property
    def recorded_on(self) -> tuple[NoiseKind, ...]:
        """Return the kinds of noise on which a CUDA graph can record a step (`cuda_graph=True`).

        There a step never waits for the device and never makes a tensor whose shape depends on
        values.  Default: ("absorbing", "uniform").
        """
        ...

    @property
    def scored_on(self) -> tuple[NoiseKind, ...]:
        """Return the kinds of noise on which `replay` may take a step again from its record.

        There a step draws every position that it may write once, from a law that follows from the
        canvases before it.  Which positions it draws does not depend on the model.  On masks,
        tokens that come from the run's law of the canvas need no such step.  Default: none.
        """
        ...

    @property
    def unscored(self) -> str:
        """Return why no record of its steps gives their laws, where `replay` refuses them.

        A clause without a full stop, such as "its look-ahead is drawn and forgotten".  Default: "".
        """
        ...

    @property
    def looks_ahead(self) -> bool:
        """Return whether a step reads predictions of positions outside of the current block.

        Only then is the denoiser asked for every column.  Default: False.
        """
        ...

    @property
    def schedule(self) -> Schedule:
        """Return the schedule alpha(t) of the times that it gives to `predict`.

        A time-conditioned model is told the time at which its own alpha has the same value.
        Default: linear, t is the share of noise, `canvas.unknown_fraction`.
        """
        ...

    @property
    def clock_use(self) -> ClockUse:
        """Return what it does with `clock.begin` and `clock.times`.

        "times": it takes its times from `clock.at`; "begin": its time begins at `clock.begin`;
        "fixed": it begins with noise, so that no draft can be refined.  Default: "none", it reads
        what is unknown and no time.
        """
        ...

    @property
    def own_steps(self) -> int | None:
        """Return the planned steps of a block if the caller names none.

        Default: None, one per position.
        """
        ...

    @property
    def pipeline(self) -> Pipeline | None:
        """Return how several blocks are written at the same time; `canvas.blocks` has them.

        Default: None, one block after the other.
        """
        ...

    @property
    def passes_per_step(self) -> int:
        """Return the most forward passes of a row in one loop step.  Default: 1."""
        ...

    @property
    def revises(self) -> bool:
        """Return whether written tokens may change: a block is then over when its schedule is.

        Default: False.
        """
        ...

    @property
    def exact(self) -> bool:
        """Return whether the sum of `Step.logprob` is exact: log p(tokens given the positions).

        Default: True.
        """
        ...

    @property
    def constrainable(self) -> bool:
        """Return whether a constraint can hold: unknown positions are written by draws, others not.

        Tokens that a step writes all come from one draw at unknown positions, and a written token
        is only ever masked again.  Default: True.
        """
        ...

    def canvas_process(self, process: Process) -> Process | None:
        """Return the noise of the canvas that it edits, for a model trained on `process`.

        None: it cannot use such a model.  Default: `process` if its kind is in `runs_on`.
        """
        ...

    def schedule_length(self, steps: int) -> int | None:
        """Return the loop steps of a block planned with `steps`; None: until nothing is unknown.

        Default: `steps`.
        """
        ...

    def patience(self, length: int) -> int:
        """Return the loop steps after which an adaptive block of a canvas of `length` is stuck.

        Default: 4 length + 64.
        """
        ...

    def finished(self, state: S, canvas: Canvas, clock: Clock) -> Tensor | None:
        """Return the rows whose block is over after the step, bool [B]; None: the loop's own rule.

        state and canvas are those after the step, clock is that of the step.  A block also ends
        with its schedule, and an unmask-only one once nothing is unknown; the loop fills positions
        that are unknown at its end.  Default: None.
        """
        ...

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return the log-probability of the positions that a step chose, float64 [B].

        canvas and clock are those before the step.  0 where canvas and model leave no choice, or
        every position is drawn.  None: it does not follow from them, as where the choice reads
        tokens that were drawn and thrown away.  Default: None.
        """
        ...

    def init(self, canvas: Canvas) -> S:
        """Return the state before the first step.  Default: None, no state."""
        ...

    def step(
        self, state: S, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[S, Step]:
        """Move every row from its step to the next.  No default."""
        ...
