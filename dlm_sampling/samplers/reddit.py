"""Take ancestral steps with masks drawn anew from a set of ids before every pass: ReDDiT.

    x_t,i = a uniform choice of the mask ids, independently at each pass, where i is masked
    q(token v | masked) = (alpha_s - alpha_t) / (1 - alpha_t) p0(v),   tokens stay

Rehashing changes what the network sees, not the process: for a network that treats all mask ids
alike this is ancestral sampling.  Ma et al. 2025, "ReDDiT: Rehashing Noise for Discrete Visual
Generation", arXiv:2505.19656.  The released batch script leaves the rehashing out and has a single
mask id, which makes it plain ancestral sampling; so does an empty `mask_ids` here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.samplers.base import SamplerBase, reveal
from dlm_sampling.samplers.parts.checks import check_t_end
from dlm_sampling.samplers.parts.choices import log_independent
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import LOG_LINEAR, Schedule, grid_time
from dlm_sampling.types import Canvas, Choice, Clock, Draw, Predict, Prediction, RandomSource, Step


@dataclass(frozen=True)
class ReDDiT(SamplerBase[None]):
    """Reveal as ancestral sampling does, and give every mask a new random id before each pass.

    The canvas that callbacks see keeps the one mask of the loop; the ids exist for the network
    alone.  They are never drawn as tokens.

    Fields:
        mask_ids: the set of mask ids, distinct; empty: the mask of the denoiser alone.
        schedule: alpha(t), the probability that a position is clean at time t.
        t_end: the grid runs from 1 to t_end in `steps` equal steps; what is still masked there is
            drawn in a last step.

    NFE: number of steps that reveal something, at most min(steps + 1, tokens).
    """

    mask_ids: Sequence[int] = ()
    schedule: Schedule = LOG_LINEAR
    t_end: float = 1e-5

    paper = "Ma et al. 2025, arXiv:2505.19656"
    nfe = "steps that reveal something, at most min(steps + 1, tokens)"
    clock_use = "times"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_t_end(self.t_end)
        ids = tuple(self.mask_ids)
        if len(set(ids)) < len(ids) or min(ids, default=0) < 0:
            raise ValueError(
                f"mask_ids={list(ids)}: must be distinct and >= 0; leave them out for one mask."
            )
        object.__setattr__(self, "mask_ids", ids)

    def schedule_length(self, steps: int) -> int:
        """Return the grid's steps and the noise removal."""
        return steps + 1

    def rehashed(self, canvas: Canvas, rng: RandomSource) -> Tensor:
        """Return the canvas with a random mask id wherever it is unknown, int64 [B, L]."""
        if not self.mask_ids:
            return canvas.tokens
        ids = torch.tensor(self.mask_ids, device=canvas.tokens.device)
        choice = (rng.uniform(Stream.REMASK, canvas.tokens) * len(ids)).long()
        return torch.where(canvas.unknown, ids[choice.clamp(max=len(ids) - 1)], canvas.tokens)

    def times_at(self, clock: Clock) -> tuple[Tensor, Tensor]:
        """Return t and s of the step, float64 [B] each."""
        t, s = (
            clock.at(grid_time(clock.step + k, clock.steps, self.t_end), self.t_end) for k in (0, 1)
        )
        return t, s

    def reveal_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return the probability that a mask is revealed between t and s < t, float64 like t."""
        now, later = self.schedule.alpha(t), self.schedule.alpha(s)
        return (later - now) / (1.0 - now)

    def draw(self, prediction: Prediction, where: Tensor, rng: RandomSource) -> Draw:
        """Draw tokens other than mask ids at the positions of `where`."""
        if not self.mask_ids:
            return prediction.draw(where, rng)
        logits = prediction.log_probs(where)
        logits[:, list(self.mask_ids)] = -torch.inf
        return prediction.draw_from(logits, where, rng)

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Move every row from x_t to x_s."""
        if max(self.mask_ids, default=0) >= predict.vocab_size:
            raise ValueError(
                f"mask_ids={list(self.mask_ids)}: the denoiser has {predict.vocab_size} columns, "
                "so ids must be below that."
            )
        t, s = self.times_at(clock)
        revealed = rng.uniform(Stream.COMMIT, canvas.tokens) < self.reveal_prob(t, s).unsqueeze(1)
        where = canvas.eligible & (revealed | (clock.step >= clock.steps).unsqueeze(1))
        prediction = predict(self.rehashed(canvas, rng), t)
        return None, reveal(canvas, where, self.draw(prediction, where, rng))

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor:
        """Return the law of independent choices."""
        last = clock.step >= clock.steps
        prob = self.reveal_prob(*self.times_at(clock)).masked_fill(last, 1.0)
        return log_independent(choice.written, canvas.eligible, prob)


register("reddit", ReDDiT)
