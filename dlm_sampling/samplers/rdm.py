"""Redraw the whole sequence and keep its best-scored part: RDM, reparameterised routing.

    k = floor(n r),  r = 1 - i / N (linear) or cos(pi i / 2 N) (cosine) after step i of N;
    the k positions of lowest log p(x0) (+ r c Gumbel) are low:
    masked positions that are not low are written;
    written positions that are low become masked again: always (unconditional), or if x0 repeats
    the token with a lower score than it was written with (conditional).

Under uniform noise the same routing moves positions between "noise" and "written": what is low gets
a uniform token in place of a mask, afresh in every step.  It splits the plug-in reverse step, which
does the same by chance, into a schedule of how many and a ranking of which.

Zheng et al. 2023, "A Reparameterized Discrete Diffusion Model for Text Generation",
arXiv:2302.05737, section 4.3, and the released decoding `reparam-<condition>-<mode>-<schedule>`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops import Stream
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.quotas import below_cutoff, floor_share, lowest_positions
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step, TokenLaw

Cutoff = Literal["exact", "released"]
RateName = Literal["cosine", "linear"]


def _cosine(progress: Tensor) -> Tensor:
    return torch.cos(progress * (math.pi / 2))


def _linear(progress: Tensor) -> Tensor:
    return 1.0 - progress


_RATES: dict[str, Callable[[Tensor], Tensor]] = {"cosine": _cosine, "linear": _linear}
_CUTOFFS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "exact": lowest_positions,
    "released": partial(below_cutoff, slack=1e-10),
}


class RDMState(NamedTuple):
    """Hold the score of each position, and whether it is written."""

    score: Tensor  # float64 [B, L], log-probability of each token when it was written
    noise: Tensor  # bool [B, L], not written; on masks the same as `unknown`


@dataclass(frozen=True)
class RDM(SamplerBase[RDMState]):
    """Redraw every position, write the best masked ones, mask the worst written ones again.

    A written token that stays keeps its token and its score; it is never refreshed.  The score is
    the log-probability at temperature 1 of the drawn token, both of the network's own law: under
    uniform noise that is what the paper's networks give, trained on the replaced positions.  A
    time-conditioned network gets the share of positions that are noise as its time.

    Fields:
        conditional: mask a written token again only if the new draw repeats it with a lower score.
        noise_scale: c, scale of the Gumbel noise on the ranking, annealed by r; 0 is deterministic
            routing.
        mask_schedule: "cosine" or "linear" share r of positions that stay masked.
        cutoff: "exact" ranks exactly k positions as low; "released" compares with the score of rank
            k plus 1e-10, which selects one position too many where scores are near 0.

    NFE: steps in which something can change, at most steps.
    """

    conditional: bool = False
    noise_scale: float = 0.0
    mask_schedule: RateName = "cosine"
    cutoff: Cutoff = "exact"

    law = TokenLaw(temperature=0.0)
    unscored = "without a mask its record does not tell which positions hold noise"
    paper = "Zheng et al. 2023, arXiv:2302.05737"
    nfe = "at most steps"
    clock_use = "times"
    runs_on = ("absorbing", "uniform")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("noise_scale", self.noise_scale, 0.0, "try 0, 1 or 5")

    @property
    def revises(self) -> bool:
        """Return True: written tokens may be masked again."""
        return True

    @property
    def exact(self) -> bool:
        """Return False: the ranking reads the drawn tokens."""
        return False

    def init(self, canvas: Canvas) -> RDMState:
        """Return a state in which nothing has been written."""
        return RDMState(
            torch.zeros(canvas.tokens.shape, dtype=torch.float64, device=canvas.tokens.device),
            canvas.unknown,
        )

    def seen(self, state: RDMState, canvas: Canvas, clock: Clock) -> Canvas:
        """Return the canvas in which a position is unknown if and only if it holds noise."""
        if canvas.mask_token_id is not None:
            return canvas
        begins = (clock.step == 0).unsqueeze(1)
        return canvas._replace(unknown=torch.where(begins, canvas.editable, state.noise))

    def with_noise(
        self, canvas: Canvas, where: Tensor, predict: Predict, rng: RandomSource
    ) -> Tensor:
        """Return the tokens with noise at `where`, masks or fresh uniform tokens; int64 [B, L]."""
        tokens = canvas.tokens
        if canvas.mask_token_id is not None:
            return tokens.masked_fill(where, canvas.mask_token_id)
        size = predict.vocab_size
        u = rng.uniform(Stream.REMASK, tokens)
        return torch.where(where, (u * size).long().clamp_(max=size - 1), tokens)

    def step(
        self, state: RDMState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[RDMState, Step]:
        """Redraw, rank, write and mask again."""
        rate = _RATES[self.mask_schedule](clock.progress(1))
        seen, k = self.seen(state, canvas, clock), floor_share(canvas.editable.sum(1), rate)
        prediction = predict(canvas.tokens, seen.unknown_fraction)
        draw = prediction.draw(self.drawn(seen, k), rng)
        ranking = draw.log_confidence
        if self.noise_scale:
            ranking = ranking + (self.noise_scale * rate).unsqueeze(1) * rng.gumbel(
                Stream.POSITION, canvas.tokens
            )
        low = _CUTOFFS[self.cutoff](ranking, canvas.editable, k)
        masks = canvas.mask_token_id is not None
        last = clock.last.unsqueeze(1)
        if not masks:  # nothing shows later that a position was left over
            low = low & ~last
        write = seen.eligible & ~low
        again = seen.committed & low
        if self.conditional:
            repeated = draw.token == canvas.tokens
            again = again & repeated & (draw.log_confidence < state.score)
        noise = (seen.unknown & ~write) | again
        fresh = again if masks else noise & canvas.editable
        score = torch.where(write, draw.log_confidence, state.score)
        written = canvas._replace(tokens=torch.where(write, draw.token, canvas.tokens))
        return RDMState(score.masked_fill(again, -torch.inf), noise), Step(
            tokens=self.with_noise(written, fresh, predict, rng),
            unknown=noise if masks else canvas.unknown & ~(last & canvas.editable),
            logprob=torch.where(write, draw.logprob, 0.0),
            draw=draw,
        )

    def drawn(self, canvas: Canvas, k: Tensor) -> Tensor:
        """Return the positions to draw, bool [B, L]; in a last step only the masked ones."""
        if self.cutoff == "released":
            return canvas.editable
        written = canvas.committed
        some, all_masked = k > 0, (k >= canvas.editable.sum(1)) & ~written.any(1)
        return (canvas.eligible | (written & some.unsqueeze(1))) & ~all_masked.unsqueeze(1)


RDM_PRESETS: dict[str, RDM] = {
    "iwslt": RDM(conditional=True),
    "wmt14": RDM(),
    "wmt16": RDM(noise_scale=1.0),
    "qg": RDM(noise_scale=5.0),
    "qqp": RDM(noise_scale=5.0),
}
"""The authors' settings per task: argmax tokens, but temperature 0.3 for qg and qqp."""


def rdm_conditional(
    noise_scale: float = 0.0, mask_schedule: RateName = "cosine", cutoff: Cutoff = "exact"
) -> RDM:
    """Run RDM, but mask a token again only if the new draw repeats it with a lower score."""
    return RDM(True, noise_scale, mask_schedule, cutoff)


register("rdm", RDM)
register("rdm-conditional", rdm_conditional)
