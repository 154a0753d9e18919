"""Write a quota per step, by confidence or from the left, as SDAR does within its blocks.

    q   = even split of the block's width over its steps
    c_i = probability of the drawn token under the sampled law
    static: the q most confident;  sequential: the q leftmost;
    dynamic: all with c_i > tau if they are at least q, else the q most confident.

Cheng et al. 2025, "SDAR: A Synergistic Diffusion-AutoRegression Paradigm for Scalable Sequence
Generation", arXiv:2510.06303, and the released `block_diffusion_generate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dlm_sampling.ops import top_k_positions
from dlm_sampling.samplers.base import DelayingSampler, reveal
from dlm_sampling.samplers.parts.checks import probability_threshold
from dlm_sampling.samplers.parts.orders import left_to_right_score, nothing_to_delay
from dlm_sampling.samplers.parts.quotas import block_quota, confident_or_quota
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step

Strategy = Literal["dynamic", "static", "sequential"]


def _static(confidence: Tensor, eligible: Tensor, quota: Tensor, threshold: float) -> Tensor:
    return top_k_positions(confidence, eligible, quota)


_BY_CONFIDENCE: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "dynamic": confident_or_quota,
    "static": _static,
}


@dataclass(frozen=True)
class SDAR(DelayingSampler[None]):
    """Write the quota of this step, or more if the model is confident of more.

    Meant for block-causal models: `align_blocks` and `causal_blocks` of the loop, 4 to 64 columns
    per block.  The quota is that of the whole block, prompt tail included, and is clamped to the
    masks that are left, where the released code would overwrite prompt tokens.

    Fields:
        strategy: "dynamic" (low_confidence_dynamic), "static" (low_confidence_static) or
            "sequential".
        threshold: tau of "dynamic", compared strictly; above 1 it is "static".

    NFE: static and sequential at most steps per block, dynamic between 1 and that.  The released
    code spends one more forward per block to fill its cache.
    """

    strategy: Strategy = "dynamic"
    threshold: float = 0.85

    paper = "Cheng et al. 2025, arXiv:2510.06303"
    nfe = "at most steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        probability_threshold("threshold", self.threshold, "the released value is 0.85")
        if self.delayed_ids and self.strategy == "sequential":
            raise nothing_to_delay("strategy", self.strategy)

    @property
    def exact(self) -> bool:
        """Return whether the strategy is sequential; the others read the drawn tokens."""
        return self.strategy == "sequential"

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Write the positions that the strategy chooses."""
        eligible, quota = canvas.eligible, block_quota(canvas, clock)
        prediction = predict(canvas.tokens, canvas.unknown_fraction)
        if self.strategy == "sequential":
            where = top_k_positions(left_to_right_score(canvas, rng), eligible, quota)
            return None, reveal(canvas, where, prediction.draw(where, rng))
        draw = prediction.draw(eligible, rng, statistics="law")
        confidence = self.rank(draw.log_confidence.exp(), draw, eligible)
        where = _BY_CONFIDENCE[self.strategy](confidence, eligible, quota, self.threshold)
        return None, reveal(canvas, where, draw)


def sdar_static(delayed_ids: tuple[int, ...] = ()) -> SDAR:
    """Write the quota's most confident positions, SDAR's low_confidence_static."""
    return SDAR("static", delayed_ids=delayed_ids)


def sdar_sequential() -> SDAR:
    """Write the quota's leftmost positions, SDAR's sequential strategy."""
    return SDAR("sequential")


register("sdar", SDAR)
register("sdar-static", sdar_static)
register("sdar-sequential", sdar_sequential)
