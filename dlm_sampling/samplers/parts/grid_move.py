"""Move a canvas one step on a time grid when written tokens may change again.

On masks a step has two probabilities: that a mask is revealed, and that a token is masked again.
Positions are chosen first and tokens are drawn only where a mask is revealed, so a step that
reveals nothing needs no forward pass.  Under any other noise every position is drawn from a table;
see `table_step`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dlm_sampling.ops import Stream, any_or_assume
from dlm_sampling.samplers.parts.checks import NoiseRemoval
from dlm_sampling.samplers.parts.kept_laws import merge_draws
from dlm_sampling.samplers.parts.remasking import reveal_and_remask
from dlm_sampling.samplers.parts.table_step import draw_clean, write_draws
from dlm_sampling.types import Canvas, Draw, Prediction, Process, RandomSource, Step


class Interval(NamedTuple):
    """Hold one step of the grid, from t to s < t; float64 [B], or broadcast to positions."""

    t: Tensor
    s: Tensor
    progress: Tensor  # share of the block's steps already taken, in [0, 1)

    def of(self, row: Tensor) -> Interval:
        """Return the interval of every position whose row is `row`, int64 [r]."""
        return Interval(self.t[row], self.s[row], self.progress[row])


class MaskMove(NamedTuple):
    """Hold the two probabilities of a step on masks, float64 [B] each."""

    reveal: Tensor  # probability that a masked position is written
    remask: Tensor  # probability that a written position is masked again


def move_masks(
    canvas: Canvas,
    prediction: Prediction,
    rng: RandomSource,
    move: MaskMove,
    last: Tensor,
    noise_removal: NoiseRemoval,
) -> Step:
    """Reveal masks and mask tokens again, independently; rows of `last` (bool [B]) reveal all."""
    u = rng.uniform(Stream.COMMIT, canvas.tokens)
    over = last.unsqueeze(1)
    revealed = u < prediction.reveal_prob(move.reveal, canvas.eligible)
    where = canvas.eligible & (over | revealed)
    remask = canvas.committed & ~over & (u < move.remask.unsqueeze(1))
    greedy = last if noise_removal == "argmax" else None
    return reveal_and_remask(canvas, where, remask, prediction.draw(where, rng, greedy=greedy))


def finish_step(
    canvas: Canvas,
    moved: Draw,
    prediction: Prediction,
    process: Process,
    rng: RandomSource,
    alpha: Tensor,
    last: Tensor,
    noise_removal: NoiseRemoval,
) -> Step:
    """Write draws from tables; rows of `last` are drawn from the posterior instead.

    Args:
        canvas: before the step.
        moved: draws at the positions of all other rows.
        prediction: at the canvas.
        process: the noise.
        rng: random numbers of the step.
        alpha: level of the canvas, float64 [B].
        last: rows whose schedule ends here, bool [B].
        noise_removal: "sample", or "argmax" of the posterior.
    """
    if not any_or_assume(last):
        return write_draws(canvas, moved, canvas.editable, last)
    ending = last.unsqueeze(1) & canvas.editable
    final = draw_clean(process, prediction, ending, rng, alpha, noise_removal)
    return write_draws(canvas, merge_draws(ending, final, moved), canvas.editable, last)
