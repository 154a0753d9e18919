"""Write as many positions at once as a bound on their dependence allows: EB-Sampler.

    order the unknown positions by an error proxy, the smallest first;  H_i: entropies in that order
    commit the largest k >= 1 with  sum_{i <= k} H_i - max_{i <= k} H_i <= gamma

The left side bounds the joint entropy that independent draws ignore.  Ben-Hamu et al. 2025,
"Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking", arXiv:2505.24857.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dlm_sampling.ops import budget_positions
from dlm_sampling.samplers.base import DelayingSampler, reveal
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Draw, Predict, RandomSource, Step, TokenLaw

ErrorProxy = Literal["entropy", "confidence", "margin"]

PROXIES: dict[str, Callable[[Draw], Tensor]] = {
    "entropy": lambda d: d.entropy,
    "confidence": lambda d: -d.max_logprob,
    "margin": lambda d: -d.margin,
}


@dataclass(frozen=True)
class EBSampler(DelayingSampler[None]):
    """Write the longest head of positions whose entropy, less its largest, is at most `gamma` nats.

    The number of steps is not used.  Entropy and proxy belong to the model's own law at temperature
    1, so that the positions do not depend on the drawn tokens.

    Fields:
        gamma: the entropy bound in nats; 0 is one token per step (and all positions of no entropy).
        proxy: the order of positions: "entropy", "confidence" (largest probability) or "margin".

    NFE: adaptive, 1 to the number of tokens.
    """

    gamma: float = 0.1
    proxy: ErrorProxy = "entropy"

    law = TokenLaw(temperature=0.0)
    paper = "Ben-Hamu et al. 2025, arXiv:2505.24857"
    nfe = "adaptive; 1 to tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("gamma", self.gamma, 0.0, "try 0.1; 0 is one token per step")

    @property
    def exact(self) -> bool:
        """Return whether no ids are delayed, which reads the drawn tokens."""
        return not self.delayed_ids

    def schedule_length(self, steps: int) -> None:
        """Return None: a block goes on until nothing in it is unknown."""

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Write the head within the bound."""
        eligible = canvas.eligible
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(eligible, rng)
        among = self.in_time(draw, eligible)
        error = PROXIES[self.proxy](draw)
        where = budget_positions(-error, draw.entropy, among, self.gamma)
        return None, reveal(canvas, where, draw)


register("eb-sampler", EBSampler)
