"""Run a window of steps at once by Picard sweeps, with the tokens of the sequential run.

    x_{j+1} = F_j(x_j; omega_j)                 the base solver, omega_j fixed by the seed and j
    sweep:  d_j = F_j(x_j; omega_j) against x_j     for a window of W steps in one forward pass
            x_{j+1} <- x_j with the changes d_j     from left to right, each on the new x_j

The changes play the part of the increments that a Picard sweep adds up.  A state is final once the
state that it was made from is, so a sweep settles at least one step, and one more for every state
that it leaves as it was; then the window moves on.  Random numbers that are a function of the step
make the sequential run the fixed point.  Shih et al. 2023, "Parallel
Sampling of Diffusion Models", arXiv:2305.16317, for continuous noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.samplers.ancestral import Ancestral
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.contract import check_sampler
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Schedule, Step
from dlm_sampling.types.rows import repeat_rows
from dlm_sampling.types.values import distinct, ints

_ANCESTRAL = Ancestral()


class PicardState(NamedTuple):
    """Hold the window of each row."""

    ahead: Tensor  # int64 [B, W, L], x_j .. x_{j+W-1}; the first is final, the others are guesses
    first: Tensor  # int64 [B], number of the block's first step in the sequential run
    done: Tensor  # int64 [B], j, the settled steps of the block
    over: Tensor  # bool [B], whether the block is written


@dataclass(frozen=True)
class Picard(SamplerBase[PicardState]):
    """Run W steps of a solver at once and repeat until they agree with the sequential run.

    The tokens equal those of `base` for the same seed, provided the network gives a row the same
    logits in any batch; otherwise a near-tie may fall differently.  Faster than `base` where W
    canvases in one forward pass cost less than W passes.

    Fields:
        base: a solver of one forward pass per step that keeps no state, such as Ancestral, Euler,
            Tweedie or TauLeaping.
        window: W, the steps of the solver that run at once.

    NFE: W times the number of sweeps, less where a step needs no pass; at most as many sweeps as
        `base` has steps.
    """

    base: SamplerBase[None] = _ANCESTRAL
    window: int = 8

    unscored = (
        "a sweep settles several steps of its solver, whose canvases stand in no record; the "
        "solver itself, its base, draws the same tokens"
    )
    paper = "Shih et al. 2023, arXiv:2305.16317"
    nfe = "window x sweeps; at most as many sweeps as the solver has steps"
    runs_on = ("absorbing", "uniform", "matrix")
    recorded_on = ()

    def __post_init__(self) -> None:
        try:
            check_sampler(self.base)
        except TypeError as error:
            raise TypeError(
                f"base={self.base!r}: must be a sampler, such as samplers.Ancestral() or "
                f"samplers.Euler(), not its name ({error})."
            ) from None
        super().__post_init__()
        object.__setattr__(self, "clock_use", self.base.clock_use)
        at_least("window", self.window, 1, "8 steps at a time fill a small batch")
        if self.base.schedule_length(1) is None or self.base.passes_per_step != 1:
            raise ValueError(
                f"base={type(self.base).__name__}: must be a solver of a fixed number of steps "
                "with one forward pass each, such as Ancestral, Euler, Tweedie or TauLeaping."
            )

    @property
    def schedule(self) -> Schedule:
        """Return the schedule of the solver."""
        return self.base.schedule

    @property
    def revises(self) -> bool:
        """Return whether the solver revises."""
        return self.base.revises

    @property
    def constrainable(self) -> bool:
        """Return False: the steps of a sweep do not see each other's tokens."""
        return False

    @property
    def exact(self) -> bool:
        """Return whether the solver is exact."""
        return self.base.exact

    @property
    def passes_per_step(self) -> int:
        """Return W: every state of the window has its own pass."""
        return self.window

    def schedule_length(self, steps: int) -> None:
        """Return None: the sweeps end a block."""
        return

    def patience(self, length: int) -> int:
        """Return a bound that is never reached: each sweep settles at least one step."""
        return 2**40

    def finished(self, state: PicardState, canvas: Canvas, clock: Clock) -> Tensor:
        """Return the rows whose last step is settled."""
        return state.over

    def init(self, canvas: Canvas) -> PicardState:
        """Return an empty window; it is filled when a row enters a block.

        Raises:
            ValueError: the solver keeps a state.
        """
        if self.base.init(canvas) is not None:
            raise ValueError(
                f"base={type(self.base).__name__}: keeps a state from step to step; use a solver "
                "without one, such as Ancestral, Euler, Tweedie or TauLeaping."
            )
        zero = torch.zeros_like(canvas.start)
        return PicardState(self.repeated(canvas.tokens), zero, zero, zero.bool())

    def repeated(self, tokens: Tensor) -> Tensor:
        """Return the window full of one canvas, [B, W, L]."""
        return tokens.unsqueeze(1).expand(-1, self.window, -1)

    def step(
        self, state: PicardState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[PicardState, Step]:
        """Take one sweep."""
        fresh = clock.step == 0
        first = torch.where(fresh, state.first + state.done, state.first)
        done = torch.where(fresh, 0, state.done)
        ahead = torch.where(fresh[:, None, None], self.repeated(canvas.tokens), state.ahead)
        total = self.lengths(clock.steps)
        j = done.unsqueeze(1) + torch.arange(self.window, device=done.device)
        window = self.spread(canvas, ahead, j < total.unsqueeze(1))
        times = clock._replace(step=j.flatten(), steps=clock.steps.repeat_interleave(self.window))
        _, swept = self.base.step(
            None, window, times, predict.repeated(self.window), rng.spread(first.unsqueeze(1) + j)
        )
        shape = ahead.shape
        tokens = self.compose(canvas.tokens, ahead, window, swept)
        same = (tokens[:, :-1] == ahead[:, 1:]).all(2).long().cumprod(1).sum(1)
        settled = torch.minimum(same + 1, total - done)
        unknown = torch.where(window.editable, swept.unknown, window.unknown).view(shape)
        if canvas.mask_token_id is not None:
            masked = tokens == canvas.mask_token_id
            unknown = torch.where(window.editable.view(shape), masked, unknown)
        settled, over = self.stop(canvas, unknown, settled, total - done)
        step = self.outcome(canvas, tokens, unknown, swept.logprob.view(shape), settled)
        place = (settled - 1).unsqueeze(1) + torch.arange(self.window, device=done.device)
        index = place.clamp(max=self.window - 1).unsqueeze(2).expand(shape)
        return PicardState(tokens.gather(1, index), first, done + settled, over), step

    def lengths(self, steps: Tensor) -> Tensor:
        """Return the steps of the solver in a block, int64 [B]."""
        total = torch.zeros_like(steps)
        for planned in ints(distinct(steps.flatten())[0]):
            total[steps == planned] = self.base.schedule_length(planned) or 0
        return total

    def spread(self, canvas: Canvas, ahead: Tensor, valid: Tensor) -> Canvas:
        """Return the window as B W canvases; nothing may be written beyond the last step."""
        window = repeat_rows(canvas, self.window)
        editable = window.editable & valid.flatten().unsqueeze(1)
        tokens, unknown = ahead.flatten(0, 1), window.unknown
        if canvas.mask_token_id is not None:
            unknown = torch.where(editable, tokens == canvas.mask_token_id, unknown)
        return window._replace(tokens=tokens, unknown=unknown, editable=editable, width=None)

    def compose(self, x: Tensor, ahead: Tensor, window: Canvas, swept: Step) -> Tensor:
        """Apply the changes of the sweep one after the other to x [B, L]: x_{j+1} .., [B, W, L]."""
        after = torch.where(window.editable, swept.tokens, window.tokens).view(ahead.shape)
        states: list[Tensor] = []
        for i in range(self.window):
            x = torch.where(after[:, i] != ahead[:, i], after[:, i], x)
            states.append(x)
        return torch.stack(states, 1)

    def stop(
        self, canvas: Canvas, unknown: Tensor, settled: Tensor, left: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the settled steps within the block, int64 [B], and whether it ends, bool [B].

        The sequential run leaves a block that is never revised once nothing is unknown.
        """
        open_ = (unknown & canvas.editable.unsqueeze(1)).any(2)
        written = settled if self.revises else open_.long().cumprod(1).sum(1) + 1
        return torch.minimum(settled, written), (settled >= left) | (written <= settled) & (
            not self.revises
        )

    def outcome(
        self, canvas: Canvas, tokens: Tensor, unknown: Tensor, logprob: Tensor, settled: Tensor
    ) -> Step:
        """Return the canvas after the settled steps, with the log-probabilities of its writes."""
        x, open_ = canvas.tokens, canvas.unknown
        record = torch.zeros_like(logprob[:, 0])
        for i in range(self.window):
            counts = (i < settled).unsqueeze(1)
            wrote = counts & ((tokens[:, i] != x) | (open_ & ~unknown[:, i]))
            record = torch.where(wrote, logprob[:, i], record)
            x = torch.where(counts, tokens[:, i], x)
            open_ = torch.where(counts, unknown[:, i], open_)
        return Step(x, open_, record)


register("picard", Picard)
