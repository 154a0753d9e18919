"""Take ancestral steps under uniform noise and end as Duo does.

    x_s ~ q(. | x_t),  q(v) ~ (r 1[v = x_t] + (1 - r) / S) (alpha_s loo(v) + (1 - alpha_s) / S)
    last:  ancestral  x ~ post,   greedy  x = argmax post,   released  x = argmax loo

post(v) ~ loo(v) (alpha 1[v = x_t] + (1 - alpha) / S) knows the token that is there.  The released
greedy tail takes the argmax of the network's output, the leave-one-out law, which does not: near
t = 0 it throws away what the chain has drawn wherever the network would guess otherwise.  Sahoo et
al. 2025, "The Diffusion Duality", arXiv:2506.10892, released code github.com/s-sahoo/duo.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from dlm_sampling.samplers.ancestral import Ancestral
from dlm_sampling.samplers.parts.checks import NoiseRemoval
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Draw, Prediction, Process, RandomSource

Tail = Literal["ancestral", "greedy", "released"]
_REMOVAL: dict[Tail, NoiseRemoval] = {
    "ancestral": "sample",
    "greedy": "argmax",
    "released": "argmax",
}


@dataclass(frozen=True)
class Duo(Ancestral):
    """Take ancestral steps under uniform noise, and the last step by one of Duo's three rules.

    Checkpoints distilled for few steps (discrete consistency distillation) take the same sampler
    with `steps` of 4 to 32; the greedy tail is what their authors report.

    Fields:
        schedule: see `GridSampler`; Duo's is log-linear.
        t_end: see `GridSampler`.
        tail: the last step: a draw from the posterior ("ancestral"), its argmax ("greedy"), or the
            argmax of the leave-one-out law, as released ("released").

    NFE: steps + 1.
    """

    noise_removal: NoiseRemoval = field(default="sample", init=False, repr=False)
    tail: Tail = "ancestral"

    runs_on = ("uniform", "matrix")
    paper = "Sahoo et al. 2025, arXiv:2506.10892"
    nfe = "steps + 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "noise_removal", _REMOVAL[self.tail])

    def remove_noise(
        self,
        process: Process,
        prediction: Prediction,
        where: Tensor,
        rng: RandomSource,
        alpha: Tensor,
    ) -> Draw:
        """Draw the last step, by `tail`."""
        if self.tail != "released":
            return super().remove_noise(process, prediction, where, rng, alpha)
        return prediction.draw_by(
            lambda site: site.p,
            where,
            rng,
            alpha=alpha,
            reads="leave_one_out",
            greedy=torch.ones_like(alpha, dtype=torch.bool),
        )


register("duo", Duo)
