"""Write positions whose law is confident and no longer changes, else LLaDA's quota: KLASS.

    KL_i = sum_v p_i(v) ln((p_i(v) + 1e-12) / (q_i(v) + 1e-12)),   q the law of the step before
    ready_i = (the last H values of KL_i are all < epsilon) and p_i(x_i) > tau

Kim et al. 2025, "KLASS: KL-Guided Fast Inference in Masked Diffusion Models", arXiv:2511.05664, and
the released decoders for LLaDA and Dream.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.errors import unknown_choice
from dlm_sampling.ops import Stream, divergence, top_k_positions
from dlm_sampling.samplers.base import DelayingSampler, block_total, even_quota, reveal
from dlm_sampling.samplers.parts.checks import at_least, log_threshold, probability_threshold
from dlm_sampling.samplers.parts.kept_laws import LawWindow, empty_window, recall, remember
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import (
    Canvas,
    Choice,
    Clock,
    Predict,
    Prediction,
    RandomSource,
    Step,
    TokenLaw,
)
from dlm_sampling.types.values import some

Strategy = Literal["all", "max_conf", "min_kl", "random"]
Form = Literal["llada", "dream"]


class Ready(NamedTuple):
    """Hold the scores that a strategy chooses by; all [B, L]."""

    where: Tensor  # bool, ready positions
    log_confidence: Tensor
    kl: Tensor


def _one(ready: Ready, score: Tensor) -> Tensor:
    return top_k_positions(score, ready.where, torch.ones_like(ready.where[:, 0]).long())


STRATEGIES: dict[str, Callable[[Ready, RandomSource], Tensor]] = {
    "all": lambda ready, rng: ready.where,
    "max_conf": lambda ready, rng: _one(ready, ready.log_confidence),
    "min_kl": lambda ready, rng: _one(ready, -ready.kl),
    "random": lambda ready, rng: _one(ready, rng.uniform(Stream.POSITION, ready.where)),
}


class KLASSState(NamedTuple):
    """Hold the laws of the step before, and the last changes of each law."""

    total: Tensor  # int64 [B], unknown positions when the block began
    previous: LawWindow  # logarithms of the laws of the step before
    history: Tensor  # [B, L, H], the last KL values, the newest last


@dataclass(frozen=True)
class KLASS(DelayingSampler[KLASSState]):
    """Write the stable and confident positions; if there are too few, the quota's most confident.

    Confidence is the drawn token's probability under the model's own law.  The memory is one law
    per position of the block.  Readiness needs `history` earlier comparisons inside the block.

    Fields:
        conf_threshold: tau, the least confidence of a position that is written early.
        kl_threshold: epsilon in nats, the largest change of a law that counts as stable.
        history: H, how many KL values must be small.
        strategy: which of the ready positions are written: "all", or one of them, "max_conf",
            "min_kl" or "random".
        inclusive: whether a confidence equal to tau counts (the Dream decoder) or not (the LLaDA
            decoder).
        released: leave a ready set that is smaller than the quota as it is.  With fewer steps than
            tokens the authors' code then ends with masks in its output; here they are filled at the
            end of the schedule.

    NFE: adaptive, at most min(steps, tokens).
    """

    conf_threshold: float = 0.9
    kl_threshold: float = 0.01
    history: int = 2
    strategy: Strategy = "all"
    inclusive: bool = False
    released: bool = False

    law = TokenLaw(temperature=0.0)
    paper = "Kim et al. 2025, arXiv:2511.05664"
    recorded_on = ()
    nfe = "adaptive; at most min(steps, tokens)"

    def __post_init__(self) -> None:
        super().__post_init__()
        probability_threshold("conf_threshold", self.conf_threshold, "the authors use 0.6 to 0.9")
        at_least("kl_threshold", self.kl_threshold, 0.0, "the authors use 0.001 to 0.015")
        at_least("history", self.history, 1, "the authors use 2")

    @property
    def looks_ahead(self) -> bool:
        """Return True: a step that fills its block keeps the laws of the next one."""
        return True

    @property
    def exact(self) -> bool:
        """Return False: confidence is read at the drawn token."""
        return False

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return 0 as its base does, None where one of the ready positions is drawn."""
        drawn = self.strategy == "random"
        return None if drawn else super().choice_logprob(canvas, clock, choice)

    def init(self, canvas: Canvas) -> KLASSState:
        """Return a state without laws."""
        shape = (*canvas.tokens.shape, self.history)
        history = torch.zeros(shape, dtype=torch.float32, device=canvas.tokens.device)
        return KLASSState(torch.zeros_like(canvas.start), empty_window(canvas), history)

    def step(
        self,
        state: KLASSState,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[KLASSState, Step]:
        """Write the ready positions, or the quota."""
        eligible = canvas.eligible
        total = block_total(state.total, canvas, clock)
        prediction = predict(canvas.tokens, canvas.unknown_fraction)
        draw = prediction.draw(eligible, rng)
        log_p = prediction.log_probs(eligible)
        log_q = recall(state.previous, eligible, canvas.start, log_p, -math.inf)
        normal = log_p.new_zeros(len(log_p))
        change = divergence(log_p, log_q, normal, normal, tiny=1e-12)
        kl = log_p.new_zeros(eligible.shape).masked_scatter_(eligible, change)
        history = torch.cat([state.history[..., 1:], kl.unsqueeze(2)], 2)
        ready = self.ready(draw.log_confidence, history, clock)
        ready &= self.in_time(draw, eligible)
        where = STRATEGIES[self.strategy](Ready(ready, draw.log_confidence, kl), rng)
        missing = even_quota(total, clock) - where.sum(1)
        if self.released:
            missing = missing.masked_fill(ready.any(1), 0)
        score = self.rank(draw.log_confidence, draw, eligible)
        where = where | top_k_positions(score, eligible & ~where, missing)
        previous = hand_on(canvas, where, prediction, log_p, hidden=predict.causal)
        return KLASSState(total, previous, history), reveal(canvas, where, draw)

    def ready(self, log_confidence: Tensor, history: Tensor, clock: Clock) -> Tensor:
        """Return the positions that are stable and confident, bool [B, L]."""
        seen_enough = (clock.step >= self.history - 1).unsqueeze(1)
        stable = (history < self.kl_threshold).all(2) & seen_enough
        bound = log_threshold(self.conf_threshold)
        confident = log_confidence >= bound if self.inclusive else log_confidence > bound
        return stable & confident


def hand_on(
    canvas: Canvas, where: Tensor, prediction: Prediction, log_p: Tensor, *, hidden: bool
) -> LawWindow:
    """Keep the laws for the next step: of this block, or of the next one if this is full.

    Args:
        canvas: before this step.
        where: bool [B, L], the positions that this step writes.
        prediction: of this step; asked for the next block's laws once a block is full.
        log_p: [R, V], logarithms of the laws at the eligible positions.
        hidden: whether the denoiser does not see the next block, so that there is no law of it.
    """
    eligible = canvas.eligible
    left = eligible & ~where
    full = ~left.any(1)
    if not some(full):  # nobody asks for the laws of what is written
        return remember(canvas.start, [(eligible, log_p)], -math.inf)
    column = torch.arange(left.shape[1], device=left.device)
    stop = (canvas.editable * (column + 1)).amax(1)
    following = (column >= stop.unsqueeze(1)) & (column < (2 * stop - canvas.start).unsqueeze(1))
    following &= canvas.unknown & full.unsqueeze(1)
    pieces = [(left, log_p[left[eligible]])]
    if not hidden and bool(following.any()):
        pieces.append((following, prediction.log_probs(following)))
    return remember(torch.where(full, stop, canvas.start), pieces, -math.inf)


PRESETS: dict[str, dict[str, tuple[float, float]]] = {
    "llada": {
        "gsm8k": (0.6, 0.015),
        "math": (0.6, 0.01),
        "humaneval": (0.9, 0.01),
        "mbpp": (0.7, 0.01),
    },
    "dream": {
        "gsm8k": (0.9, 0.001),
        "math": (0.9, 0.005),
        "humaneval": (0.8, 0.001),
        "mbpp": (0.9, 0.001),
    },
}
"""(conf_threshold, kl_threshold) of the authors' scripts; all have history 2 and strategy "all".

LLaDA: 256 new tokens, 256 steps, block_length 64.  Dream: 256 new tokens, 256 steps, one block.
"""


def klass_preset(form: Form, task: str) -> KLASS:
    """Return the authors' setting for a task.

    Args:
        form: "llada" or "dream".
        task: "gsm8k", "math", "humaneval" or "mbpp".

    Raises:
        ValueError: no such form or task.
    """
    if form not in PRESETS:
        raise unknown_choice("form", form, PRESETS)
    if task not in PRESETS[form]:
        raise unknown_choice("task", task, PRESETS[form])
    conf_threshold, kl_threshold = PRESETS[form][task]
    return KLASS(conf_threshold, kl_threshold, inclusive=form == "dream")


def klass_dream(
    conf_threshold: float = 0.9,
    kl_threshold: float = 0.001,
    history: int = 2,
    strategy: Strategy = "all",
    released: bool = False,
    delayed_ids: tuple[int, ...] = (),
) -> KLASS:
    """Run KLASS as released for Dream: a confidence equal to the threshold counts."""
    return KLASS(
        *(conf_threshold, kl_threshold, history, strategy, True, released), delayed_ids=delayed_ids
    )


register("klass", KLASS)
register("klass-dream", klass_dream)
