"""Score the written positions by a planner and mask the worst again: P2, path planning.

    x0 ~ p(. | x)
    score_i = log p(x0_i) where masked,  eta log q_i where written, q the planner's probability
    step i of N leaves the floor(n (1 - kappa(i / N))) lowest-scored positions masked.

Peng et al. 2025, "Path Planning for Masked Diffusion Model Sampling", arXiv:2502.03540, and the
released `p2_sampling`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.errors import named
from dlm_sampling.ops import Stream
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.choices import log_subset
from dlm_sampling.samplers.parts.quotas import below_cutoff, floor_share, lowest_positions
from dlm_sampling.samplers.parts.remasking import reveal_and_remask
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import (
    Canvas,
    Choice,
    Clock,
    DenoiserOutput,
    Draw,
    Predict,
    Prediction,
    RandomSource,
    Step,
    TokenLaw,
)

KappaName = Literal["linear", "sine", "geometric", "log", "square", "sqrt"]
ScoreName = Literal["confidence", "margin", "random"]
ScoreToken = Literal["proposal", "current"]
PlannerInput = Literal["merged", "proposal"]
Ties = Literal["exact", "released"]


def _linear(t: Tensor) -> Tensor:
    return t


def _sine(t: Tensor) -> Tensor:
    return torch.sin(t * (math.pi / 2))


def _geometric(t: Tensor) -> Tensor:
    return 1.0 - (1.0 - t) ** 2


KAPPAS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _linear,
    "sine": _sine,
    "geometric": _geometric,
    "log": lambda t: torch.log2(1.0 + t),
    "square": torch.square,
    "sqrt": torch.sqrt,
}
"""Share of the block that is written at progress t, float64 [B]; kappa(0) = 0, kappa(1) = 1."""


def _confidence(draw: Draw) -> Tensor:
    return draw.log_confidence


def _margin(draw: Draw) -> Tensor:
    """Return log(1 - p2 / p1): ranks as log p1 - log p2 does, and is <= 0, as eta needs it."""
    return draw.margin.log() - draw.max_logprob


def _confidence_of(
    prediction: Prediction, tokens: Tensor, where: Tensor, rng: RandomSource
) -> Tensor:
    return prediction.log_prob_of(tokens, where)


def _margin_of(prediction: Prediction, tokens: Tensor, where: Tensor, rng: RandomSource) -> Tensor:
    return _margin(prediction.draw(where, rng, sub=1))


class _Score(NamedTuple):
    """Hold scores <= 0, larger is better: of a draw, and of given tokens under a law."""

    of_draw: Callable[[Draw], Tensor]
    of_tokens: Callable[[Prediction, Tensor, Tensor, RandomSource], Tensor]


_LAW_SCORES: dict[str, _Score] = {
    "confidence": _Score(_confidence, _confidence_of),
    "margin": _Score(_margin, _margin_of),
}
_RULES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "exact": lowest_positions,
    "released": below_cutoff,
}


@dataclass(frozen=True)
class P2(SamplerBase[None]):
    """Keep the best-scored positions of every step, mask the others, written ones included.

    The score is noise-free; the released code adds the Gumbel noise of its draw to it.  The last
    step writes all that is left, since kappa(1) = 1.

    Fields:
        kappa: share written at progress t: "linear" t, "sine" sin(pi t / 2), "geometric"
            1 - (1 - t)^2, "log" log2(1 + t), "square" t^2, "sqrt" t^(1/2).
        eta: factor on the scores (<= 0) of written positions: 0 never masks a token again, below 1
            protects them, above 1 masks more of them.
        score: "confidence" (log-probability), "margin" (of the two best tokens), "random" (log u).
        planner: a second `Denoiser` that scores the written positions; None plans with the model
            itself.
        score_token: whether a written position is scored by the fresh "proposal" x0, as released,
            or by the "current" token it holds.
        planner_input: the input of the planner: "merged", the canvas with its masks replaced by the
            proposal, or the raw "proposal", which also replaces prompt and written tokens, as
            released.
        ties: "exact" masks exactly the planned number; "released" fewer when scores tie at the
            cutoff.

    NFE: a forward of the model in each step that can change the canvas, and one of the planner in
    each of those that has written positions to score; both kinds count.
    """

    kappa: KappaName = "linear"
    eta: float = 1.0
    score: ScoreName = "confidence"
    planner: Callable[..., DenoiserOutput] | None = None
    score_token: ScoreToken = "proposal"
    planner_input: PlannerInput = "merged"
    ties: Ties = "exact"

    law = TokenLaw()
    paper = "Peng et al. 2025, arXiv:2502.03540"
    nfe = "steps; with a planner at most 2 steps - 1"
    clock_use = "times"

    def __post_init__(self) -> None:
        if self.planner is not None and not callable(self.planner):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"planner is {named(self.planner)}: must be a Denoiser; try wrap(...).")
        super().__post_init__()
        at_least("eta", self.eta, 0.0, "1 is the paper's, 0 never masks again")

    @property
    def revises(self) -> bool:
        """Return whether a written token can be masked again."""
        return self.eta > 0.0

    @property
    def exact(self) -> bool:
        """Return whether the score reads no drawn token: random scores, the model's own margins."""
        return self.score == "random" or (self.score == "margin" and self.planner is None)

    @property
    def looks_ahead(self) -> bool:
        """Return whether a planner sees the denoiser's draws at all positions, prompt included."""
        return self.planner is not None and self.planner_input == "proposal"

    def masked_after(self, canvas: Canvas, clock: Clock) -> Tensor:
        """Return the positions that this step leaves masked, floor(n (1 - kappa)), int64 [B]."""
        kappa = KAPPAS[self.kappa](clock.progress(1))
        return floor_share(canvas.editable.sum(1), 1.0 - kappa)

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Score, mask the lowest, write the rest."""
        keep = self.masked_after(canvas, clock)
        prediction = predict(canvas.tokens, canvas.unknown_fraction)
        if self.score == "random":
            score = rng.uniform(Stream.POSITION, canvas.tokens).log()
            low = self.lowest(score, score, canvas, keep)
            draw = prediction.draw(canvas.eligible & ~low, rng)
        else:
            draw, score, old = self.scores(prediction, predict, canvas, keep, rng)
            low = self.lowest(score, old, canvas, keep)
        write, remask = canvas.eligible & ~low, canvas.committed & low
        return None, reveal_and_remask(canvas, write, remask, draw)

    def lowest(self, score: Tensor, old: Tensor, canvas: Canvas, keep: Tensor) -> Tensor:
        """Return the positions to leave masked, bool [B, L], by `score` or by eta `old`."""
        written = old * self.eta if self.eta else torch.full_like(old, torch.inf)
        score = torch.where(canvas.committed, written, score)
        return _RULES[self.ties](score, canvas.editable, keep)

    def scores(
        self,
        prediction: Prediction,
        predict: Predict,
        canvas: Canvas,
        keep: Tensor,
        rng: RandomSource,
    ) -> tuple[Draw, Tensor, Tensor]:
        """Return the proposal, its scores, and the scores of the written positions, [B, L] each."""
        kind = _LAW_SCORES[self.score]
        changes = (canvas.left > keep) | ((keep > 0) & canvas.committed.any(1) & self.revises)
        rated = canvas.committed & (changes & (keep > 0) & self.revises).unsqueeze(1)
        raw = self.looks_ahead
        seen = rated | canvas.eligible
        if raw:  # the planner reads a proposal at every position that is not hidden
            seen = seen | (rated.any(1, keepdim=True) & _visible(canvas, predict))
        draw = prediction.draw(seen & changes.unsqueeze(1), rng)
        if self.planner is None and self.score_token == "proposal":
            return draw, kind.of_draw(draw), kind.of_draw(draw)
        tokens = draw.token if self.score_token == "proposal" else canvas.tokens
        if self.planner is not None:
            guess = draw.token if raw else torch.where(canvas.eligible, draw.token, canvas.tokens)
            guess = torch.where(seen, guess, canvas.tokens)
            prediction = predict.using(self.planner)(
                guess, torch.zeros_like(canvas.unknown_fraction)
            )
        return draw, kind.of_draw(draw), kind.of_tokens(prediction, tokens, rated, rng)

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return the law of a random subset for random scores, with eta 0 or 1."""
        if self.score != "random" or self.eta not in (0.0, 1.0):
            return None
        left = canvas.eligible & ~choice.written | choice.masked
        among = canvas.eligible if self.eta == 0.0 else canvas.editable
        return log_subset(left, among, self.masked_after(canvas, clock))


def _visible(canvas: Canvas, predict: Predict) -> Tensor:
    """Return the positions up to the last one to write if later ones are hidden, bool [B, L]."""
    everywhere = torch.ones_like(canvas.editable)
    if not predict.causal:
        return everywhere
    column = torch.arange(everywhere.shape[1], device=everywhere.device)
    stop = (canvas.editable * (column + 1)).amax(1, keepdim=True)
    return column < stop


def p2_ancestral(kappa: KappaName = "linear") -> P2:
    """Run P2 with random scores and eta 0: uniformly random positions, never masked again."""
    return P2(kappa, eta=0.0, score="random")


def p2_random(kappa: KappaName = "linear", eta: float = 1.0) -> P2:
    """Run P2 with random scores: written tokens are masked again at random, as in flow matching."""
    return P2(kappa, eta=eta, score="random")


register("p2", P2)
register("p2-ancestral", p2_ancestral)
register("p2-random", p2_random)
