"""Draw one position per step from its law given all others: Glauber dynamics (Gibbs, heat bath).

    i = a position of the block;   x_i ~ P(x_i | x without i);   the others stay
    masks:    P is the prediction at i with i masked
    uniform:  P(y) = alpha_t loo_i(y) + (1 - alpha_t) / S, the law of noised data at the level of t

With exact conditionals every step leaves the law of the data (under uniform noise, of the noised
data at level t) as it is.  Varma et al. 2024, "Glauber Generative Model: Discrete Diffusion via
Binary Classification", arXiv:2405.17035, reverses noise that arrives at one position per step:
i follows a fixed order and t falls.  There the conditional comes from learned binary classifiers
p_a = P(the token is fresh noise | x_i = a, the others), as P(a) ~ Pi(a) / Pi(keep) (1 / p_a - 1).
That parametrisation is not part of this sampler, which reads the same conditional off an ordinary
denoiser; and one level t for all positions stands for noise that has reached some of them once
more often than the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.ops.vocabulary import allowed_ids
from dlm_sampling.samplers.base import SamplerBase, reveal
from dlm_sampling.samplers.parts.checks import unit_interval
from dlm_sampling.samplers.parts.choices import certain
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import LOG_LINEAR, Schedule
from dlm_sampling.types import (
    Canvas,
    Choice,
    Clock,
    Draw,
    Predict,
    Process,
    RandomSource,
    Site,
    Step,
)

Scan = Literal["sweep", "random"]


def _in_turn(canvas: Canvas, clock: Clock, rng: RandomSource) -> Tensor:
    """Score positions in turn, [B, L]: the highest is next, left to right."""
    rank = canvas.editable.long().cumsum(1) - 1
    turn = clock.step % canvas.editable.sum(1).clamp_min(1)
    return (rank == turn.unsqueeze(1)).double()


def _at_random(canvas: Canvas, clock: Clock, rng: RandomSource) -> Tensor:
    """Score positions at random, [B, L]; on masks those that hold no token yet come first."""
    first = canvas.unknown if canvas.mask_token_id is not None else torch.zeros_like(canvas.unknown)
    return rng.uniform(Stream.POSITION, canvas.tokens) + first.double()


_SCANS: dict[str, Callable[[Canvas, Clock, RandomSource], Tensor]] = {
    "sweep": _in_turn,
    "random": _at_random,
}


@dataclass(frozen=True)
class Glauber(SamplerBase[None]):
    """Draw one position from its law given all others.

    On masks the first round fills the canvas position by position, later rounds revise it; a last
    step that comes before all is filled fills the rest at once.  Under uniform noise the first
    canvas is noise: plan several rounds, `steps` = rounds x positions.  The last round is at t_end.
    Suppressed ids are no part of the noise that is drawn, and none is left by the last step.

    Fields:
        scan: "sweep" takes the positions left to right, round after round; "random" takes any.
        schedule: alpha(t); uniform noise only, as the following.
        t_start: level of the first round; t_end for Gibbs sampling at one level.
        t_end: level of the last round, near 0.

    NFE: steps.
    """

    scan: Scan = "sweep"
    schedule: Schedule = LOG_LINEAR
    t_start: float = 1.0
    t_end: float = 1e-5

    paper = "Varma et al. 2024, arXiv:2405.17035"
    nfe = "steps"
    runs_on = ("absorbing", "uniform")
    scored_on = ("absorbing", "uniform")

    def __post_init__(self) -> None:
        super().__post_init__()
        unit_interval("t_start", self.t_start, "1 begins with noise")
        unit_interval("t_end", self.t_end, "1e-5 ends with data")
        if self.t_end > self.t_start:
            raise ValueError(
                f"t_end={self.t_end}, t_start={self.t_start}: time falls, so t_end must be at "
                "most t_start; try 1e-5 and 1."
            )

    @property
    def revises(self) -> bool:
        """Return True: every position may be drawn again."""
        return True

    def time(self, canvas: Canvas, clock: Clock) -> Tensor:
        """Return the level of the step, one per round, from t_start to t_end; float64 [B]."""
        width = canvas.editable.sum(1).clamp_min(1)
        left = (clock.steps - 1 - clock.step).clamp_min(0) // width
        most = (clock.steps - 1).clamp_min(0) // width
        share = left.double() / most.clamp_min(1).double()
        first = self.t_start if clock.begin == 1.0 else clock.begin
        return self.t_end + (first - self.t_end) * share

    def chosen(self, canvas: Canvas, clock: Clock, rng: RandomSource) -> Tensor:
        """Return the position of this step, bool [B, L], one per row that has any."""
        score = _SCANS[self.scan](canvas, clock, rng).masked_fill(~canvas.editable, -1.0)
        best = torch.zeros_like(canvas.editable).scatter(1, score.argmax(1, keepdim=True), True)
        return best & canvas.editable

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor:
        """Return the law of the position: 0 in turn, uniform at random; see `_at_random`."""
        if self.scan == "sweep":
            return certain(canvas)
        places = canvas.editable.sum(1)
        if canvas.mask_token_id is not None:
            unwritten = canvas.left
            places = torch.where(unwritten > 0, unwritten, places)
        return -places.clamp_min(1).double().log()

    def conditional(self, process: Process, loo: Tensor, t: Tensor) -> Tensor:
        """Return the law of a position given the others, [..., V]: `process.forward`."""
        return process.forward(loo, self.schedule.alpha(t))

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Draw the chosen position of every row."""
        chosen, last = self.chosen(canvas, clock, rng), clock.last.unsqueeze(1)
        if canvas.mask_token_id is None:
            chosen = chosen | (last & canvas.editable & banned(canvas.tokens, predict))
            draw = self.heat_bath(canvas, chosen, self.time(canvas, clock), predict, rng)
            unknown = canvas.unknown & ~(last & canvas.editable)
            return None, reveal(canvas, chosen, draw)._replace(unknown=unknown)
        blank = canvas.tokens.masked_fill(chosen, canvas.mask_token_id)
        hidden = canvas._replace(tokens=blank, unknown=canvas.unknown | chosen)
        chosen = chosen | (last & canvas.eligible)
        t = self.schedule.time_of(1.0 - hidden.unknown_fraction)
        draw = predict(blank, t).draw(chosen, rng)
        return None, reveal(canvas, chosen, draw)

    def heat_bath(
        self, canvas: Canvas, where: Tensor, t: Tensor, predict: Predict, rng: RandomSource
    ) -> Draw:
        """Draw without a mask, from the leave-one-out law of the network at (x, t)."""
        process = predict.process
        never = allowed_ids(predict.vocab_size, predict.suppressed, t.device).suppressed.ids

        def rule(site: Site) -> Tensor:
            law = self.conditional(process, site.p, t[site.row])
            return law.index_fill(-1, never, 0.0)  # the part of the noise would write them

        prediction, alpha = predict(canvas.tokens, t), self.schedule.alpha(t)
        return prediction.draw_by(rule, where, rng, alpha=alpha, reads="leave_one_out")


def banned(tokens: Tensor, predict: Predict) -> Tensor:
    """Return whether each token is an id that is never written, as in the first noise; bool."""
    table = allowed_ids(predict.vocab_size, predict.suppressed, tokens.device).mask
    return table.flatten()[tokens]


register("glauber", Glauber)
