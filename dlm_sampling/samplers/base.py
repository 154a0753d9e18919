"""Give samplers their defaults, and the functions that most of them use: quotas and `reveal`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields
from dlm_sampling.schedules import LINEAR
from dlm_sampling.types import (
    Canvas,
    Choice,
    Clock,
    Draw,
    NoiseKind,
    Pipeline,
    Predict,
    Process,
    RandomSource,
    Step,
    TokenLaw,
)

S = TypeVar("S")

_ZERO = torch.zeros(())  # a number would be made a tensor in each step


class SamplerBase(ABC, Generic[S]):
    """Give every member of `types.Sampler` but `step` its default.

    A subclass is a frozen dataclass: its fields are the parameters of the sampler.  It sets `law`,
    `runs_on`, `recorded_on`, `scored_on`, `unscored`, `clock_use`, `paper` and `nfe` as class
    attributes without annotation, declares `schedule` as a field if it has one, and overrides a
    property or method whose default does not hold.
    """

    law: TokenLaw = TokenLaw()
    runs_on: tuple[NoiseKind, ...] = ("absorbing",)
    recorded_on: tuple[NoiseKind, ...] = ("absorbing", "uniform")
    scored_on: tuple[NoiseKind, ...] = ()
    clock_use: Any = "none"  # a ClockUse
    unscored: str = ""
    schedule: Any = LINEAR  # a Schedule; Any, so that a subclass may make it a field
    paper: ClassVar[str] = ""  # authors, year and number, for the list of samplers
    nfe: ClassVar[str] = "at most steps"  # forward passes of a row in words, for the same list

    def __post_init__(self) -> None:
        """Refuse fields of another type than their annotation; a subclass then checks ranges."""
        check_fields(self)

    @property
    def looks_ahead(self) -> bool:
        """Return False: a step reads predictions inside of its block only."""
        return False

    @property
    def revises(self) -> bool:
        """Return False: a written token stays."""
        return False

    @property
    def exact(self) -> bool:
        """Return True: the choice of positions does not depend on the drawn tokens."""
        return True

    @property
    def constrainable(self) -> bool:
        """Return True: tokens are drawn where they are unknown, and never replaced."""
        return True

    @property
    def own_steps(self) -> int | None:
        """Return None: as many planned steps as positions, unless the caller says otherwise."""
        return None

    @property
    def pipeline(self) -> Pipeline | None:
        """Return None: one block after the other."""
        return None

    def canvas_process(self, process: Process) -> Process | None:
        """Return the noise process of the canvas that this sampler edits.

        Args:
            process: the noise that the model was trained on.

        Returns:
            `process`, or None if the combination is not supported.  A subclass returns another
            process only if a planner shows the model another canvas than the one being edited.
        """
        return process if process.name in self.runs_on else None

    def schedule_length(self, steps: int) -> int | None:
        """Return `steps`: one loop step per planned step."""
        return steps

    @property
    def passes_per_step(self) -> int:
        """Return 1: the most forward passes of a row in one loop step."""
        return 1

    def patience(self, length: int) -> int:
        """Return the loop steps after which an adaptive sampler counts as stuck, 4 length + 64."""
        return 4 * length + 64

    def finished(self, state: S, canvas: Canvas, clock: Clock) -> Tensor | None:
        """Return None: the loop ends a block by its schedule, or once nothing in it is unknown."""
        return None

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return None: the law of the positions that a step chooses is not known."""
        return None

    def init(self, canvas: Canvas) -> S:
        """Return None: no state is carried from step to step."""
        return None  # pyright: ignore[reportReturnType]

    @abstractmethod
    def step(
        self, state: S, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[S, Step]:
        """Move every row one step; see `types.Sampler.step`."""


class Solver(SamplerBase[S]):
    """Mark a sampler that follows the reverse process in time.

    With ever shorter steps its law tends to that of the model, so another sampler may build on it
    (Picard iterates one, a corrector follows one).  A decoder is a rule of its own, and no other
    sampler may import it; `tests/test_architecture.py` checks this.
    """


@dataclass(frozen=True)
class AdaptiveSampler(SamplerBase[S]):
    """Serve as the base of samplers that write as many positions as their confidence allows.

    They run at temperature 0 (every draw is the argmax) unless the caller sets a temperature, and
    go on until nothing is unknown.
    """

    law = TokenLaw(temperature=0.0)
    nfe = "adaptive; 1 to tokens"

    @property
    def exact(self) -> bool:
        """Return False: confidence is read at the drawn token."""
        return False

    def schedule_length(self, steps: int) -> None:
        """Return None: a block goes on until nothing in it is unknown."""


@dataclass(frozen=True)
class DelayingSampler(SamplerBase[S]):
    """Serve as the base of samplers that choose positions by what was drawn, and can delay tokens.

        late    the unknown positions of the block whose drawn token is in delayed_ids, as long as
                another unknown position of the block has another token; none after that
        a step writes a late position only if it writes all that are not late

    A rule of quotas ranks late positions last, the leftmost first; a rule without leaves them out.
    Once all the unknown positions have delayed tokens, the rule is the usual one.

    Fields:
        delayed_ids: token ids that are written last, for example the ends of the text, which a
            network is sure of long before it is sure of the text.
    """

    delayed_ids: tuple[int, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        """Refuse delayed ids below 0; see also `SamplerBase`."""
        super().__post_init__()
        if any(token_id < 0 for token_id in self.delayed_ids):
            raise ValueError(f"delayed_ids={self.delayed_ids!r}: a token id is at least 0.")

    def choice_logprob(self, canvas: Canvas, clock: Clock, choice: Choice) -> Tensor | None:
        """Return 0 where the choice reads laws only, or tokens that are an argmax."""
        known = self.exact or choice.greedy
        return torch.zeros_like(canvas.start, dtype=torch.float64) if known else None

    def late(self, draw: Draw, eligible: Tensor) -> Tensor | None:
        """Return the late positions, bool [B, L]; None: there are never any."""
        if not self.delayed_ids:
            return None
        delayed = torch.zeros_like(eligible)
        for token_id in self.delayed_ids:
            delayed = delayed | (draw.token == token_id)
        return eligible & delayed & (eligible & ~delayed).any(1, keepdim=True)

    def in_time(self, draw: Draw, eligible: Tensor) -> Tensor:
        """Return the eligible positions that are not late, bool [B, L]."""
        late = self.late(draw, eligible)
        return eligible if late is None else eligible & ~late

    def rank(self, score: Tensor, draw: Draw, eligible: Tensor) -> Tensor:
        """Return a score [B, L] in which late positions come last."""
        late = self.late(draw, eligible)
        return score if late is None else score.masked_fill(late, -torch.inf)


@dataclass(frozen=True)
class ConfidenceSampler(DelayingSampler[None], AdaptiveSampler[None]):
    """Serve as the base of adaptive samplers that differ only in the positions that a step writes.

    The rule reads the confidence: the drawn token's probability under the model's own law.
    """

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """Draw a token at every unknown position, and write the tokens at `positions`."""
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(canvas.eligible, rng)
        eligible = self.in_time(draw, canvas.eligible)
        return None, reveal(canvas, self.positions(draw.log_confidence, eligible), draw)

    @abstractmethod
    def positions(self, log_confidence: Tensor, eligible: Tensor) -> Tensor:
        """Return the positions to write, bool [B, L], a subset of `eligible` (bool [B, L])."""


class BlockTotal(NamedTuple):
    """Remember how many positions there were to write when the block began."""

    total: Tensor  # int64 [B], unknown positions when the block began


def block_total(before: Tensor, canvas: Canvas, clock: Clock) -> Tensor:
    """Return the number of unknown positions at the beginning of each row's block, int64 [B].

    Rows that enter a block are counted now; the others keep the number `before`, int64 [B].
    """
    return torch.where(clock.step == 0, canvas.left, before)


def even_quota(total: Tensor, clock: Clock) -> Tensor:
    """Split `total` positions over the steps of a block, the first n mod S steps one more.

    Args: total int64 [B], positions to write when the block began.  Returns int64 [B].  LLaDA's
        rule (`get_num_transfer_tokens`), arXiv:2502.09992.
    """
    share = torch.floor_divide(total, clock.steps)  # // is a function of Python around it
    return share + (clock.step < total % clock.steps)


def reveal(canvas: Canvas, where: Tensor, draw: Draw) -> Step:
    """Write the drawn tokens at `where` (bool [B, L], a subset of the editable positions).

    Raises:
        TypeError: `where` is not a bool tensor.
    """
    if where.dtype is not torch.bool:
        raise TypeError(
            f"reveal: where is {where.dtype}: must be a bool tensor [B, L], True at the positions "
            "to write; try where.bool()."
        )
    return Step(
        tokens=torch.where(where, draw.token, canvas.tokens),
        unknown=canvas.unknown > where,  # of two bool tensors, a > b is a without b
        logprob=torch.where(where, draw.logprob, _ZERO),
        draw=draw,
    )


def unmask_probs(canvas: Canvas, log_p0: Tensor, reveal_prob: Tensor) -> Tensor:
    """Return the law of the next canvas when each eligible position is revealed independently.

        q(v | masked) = reveal_prob * p0(v) for tokens,  1 - reveal_prob at the mask;  other
        positions stay.

    Args: log_p0 [B, L, V] with -inf at the mask column.  reveal_prob broadcast to [B, L].
    Returns: [B, L, V], rows sum to 1.
    """
    stay = torch.nn.functional.one_hot(canvas.tokens, log_p0.shape[-1]).to(log_p0.dtype)
    p = reveal_prob.to(log_p0.dtype).expand(canvas.tokens.shape).unsqueeze(-1)
    return torch.where(canvas.eligible.unsqueeze(-1), p * log_p0.exp() + (1.0 - p) * stay, stay)
