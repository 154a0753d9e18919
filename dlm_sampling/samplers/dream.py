"""Write as many tokens per step as a time grid says, at the positions that an order puts first.

    t_i on an equal grid from 1 to eps;  step i writes floor(n (1 - s / t)) of its n masked
    positions, the last step all.

Ye et al. 2025, "Dream 7B", arXiv:2508.15487, and the released `diffusion_generate` (alg origin,
maskgit_plus, topk_margin, entropy).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.ops import Stream, stochastic_positions, top_k_positions
from dlm_sampling.samplers.base import DelayingSampler, SamplerBase, reveal, unmask_probs
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.choices import log_independent
from dlm_sampling.samplers.parts.orders import LAW_ORDERS, OrderName, check_order
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import grid_time
from dlm_sampling.types import Canvas, Choice, Clock, Predict, RandomSource, Step, TokenLaw


def unmask_fraction(clock: Clock, eps: float) -> Tensor:
    """Return 1 - s / t on the grid from 1 to eps, and 1 in the last step; float64 [B]."""
    t, s = (clock.at(grid_time(clock.step + k, clock.steps, eps), eps) for k in (0, 1))
    return torch.where(clock.last, 1.0, 1.0 - s / t)


def _check_eps(eps: float) -> None:
    if not 0.0 < eps < 1.0:
        raise ValueError(f"eps={eps}: must be in (0, 1); the released value is 1e-3.")


@dataclass(frozen=True)
class DreamOrigin(SamplerBase[None]):
    """Reveal each masked position independently with probability 1 - s / t; the last step all.

    Fields:
        eps: end of the time grid.

    NFE: number of steps that reveal something, at most min(steps, tokens).
    """

    eps: float = 1e-3

    law = TokenLaw(temperature=0.0)
    paper = "Ye et al. 2025, arXiv:2508.15487"
    nfe = "steps that reveal something; at most min(steps, tokens)"
    clock_use = "times"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_eps(self.eps)

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Move every row from x_t to x_s."""
        u = rng.uniform(Stream.COMMIT, canvas.tokens)
        where = canvas.eligible & (u < unmask_fraction(clock, self.eps).unsqueeze(1))
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(where, rng, statistics="law")
        return None, reveal(canvas, where, draw)

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor:
        """Return the law of independent choices."""
        return log_independent(choice.written, canvas.eligible, unmask_fraction(clock, self.eps))

    def transition_probs(self, canvas: Canvas, log_p0: Tensor, clock: Clock) -> Tensor:
        """Return the exact law of the next canvas, [B, L, V]."""
        return unmask_probs(canvas, log_p0, unmask_fraction(clock, self.eps).unsqueeze(1))


@dataclass(frozen=True)
class Dream(DelayingSampler[None]):
    """Write floor(n (1 - s / t)) positions per step in the order of confidence, margin or entropy.

    Statistics are those of the filtered and tempered law, as released.  The quota is per row; the
    released code takes the batch mean.

    Fields:
        order: "confidence" (alg maskgit_plus), "margin" (topk_margin) or "entropy".
        alg_temp: temperature of a random choice of positions, softmax(score / alg_temp) without
            replacement; None or 0 takes the best.
        eps: end of the time grid.

    NFE: number of steps with a positive quota, at most min(steps, tokens).
    """

    order: OrderName = "confidence"
    alg_temp: float | None = None
    eps: float = 1e-3

    law = TokenLaw(temperature=0.0)
    paper = "Ye et al. 2025, arXiv:2508.15487"
    nfe = "steps with a positive quota; at most min(steps, tokens)"
    clock_use = "times"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order("order", self.order, tuple(LAW_ORDERS))
        _check_eps(self.eps)
        if self.alg_temp is not None:
            at_least("alg_temp", self.alg_temp, 0.0, "try 0.5, or None for the best positions")

    @property
    def exact(self) -> bool:
        """Return whether the order reads the law only, and no drawn token."""
        return self.order != "confidence" and not self.delayed_ids

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Write the quota of this step."""
        eligible = canvas.eligible
        quota = (canvas.left * unmask_fraction(clock, self.eps)).floor().long()
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(
            eligible & (quota > 0).unsqueeze(1), rng, statistics="law"
        )
        order = LAW_ORDERS[self.order]
        if self.alg_temp:
            weight = self.rank(order.natural(draw) / self.alg_temp, draw, eligible)
            where = stochastic_positions(weight, eligible, quota, rng)
        else:
            where = top_k_positions(self.rank(order.score(draw), draw, eligible), eligible, quota)
        return None, reveal(canvas, where, draw)

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return 0 as its base does, None for random positions that follow from the model."""
        return None if self.alg_temp else super().choice_logprob(canvas, clock, choice)


def dream_maskgit_plus(
    alg_temp: float | None = None, eps: float = 1e-3, delayed_ids: tuple[int, ...] = ()
) -> Dream:
    """Write the most confident drawn tokens first, Dream's alg="maskgit_plus"."""
    return Dream("confidence", alg_temp, eps, delayed_ids=delayed_ids)


def dream_topk_margin(
    alg_temp: float | None = None, eps: float = 1e-3, delayed_ids: tuple[int, ...] = ()
) -> Dream:
    """Write positions with the largest gap between the two best tokens first, alg="topk_margin"."""
    return Dream("margin", alg_temp, eps, delayed_ids=delayed_ids)


def dream_entropy(
    alg_temp: float | None = None, eps: float = 1e-3, delayed_ids: tuple[int, ...] = ()
) -> Dream:
    """Write the least uncertain positions first, Dream's alg="entropy"."""
    return Dream("entropy", alg_temp, eps, delayed_ids=delayed_ids)


register("dream-origin", DreamOrigin)
register("dream-maskgit-plus", dream_maskgit_plus)
register("dream-topk-margin", dream_topk_margin)
register("dream-entropy", dream_entropy)
