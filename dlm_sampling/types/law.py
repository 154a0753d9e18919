"""Define the law that a token is drawn from, and the record that one draw leaves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from dlm_sampling.errors import check_fields
from dlm_sampling.types.process import NoiseKind as NoiseKind

Statistics = Literal["model", "law"]


Crossing = Literal["include", "exclude"]


@dataclass(frozen=True)
class TokenLaw:
    """Describe how a token is drawn at a position once the position is to be written.

    law(v) is proportional to exp(logits[v] / temperature) over the tokens that pass, in this order:
    `suppressed` ids removed; divided by the temperature; `top_k` largest; `top_p` nucleus; `min_p`
    times the largest probability.  temperature 0 is argmax (lowest id wins ties).  The law never
    touches the probability that a position stays masked.

    Args:
        temperature: >= 0; 1 is the model's own law.
        top_k: keep this many tokens, or None for all.
        top_p: keep the smallest head of the sorted law that reaches this mass, in (0, 1], or None.
        min_p: keep tokens with at least this fraction of the largest probability, in [0, 1), or
            None.
        crossing: whether the token that crosses `top_p` is kept ("include": the smallest head that
            reaches the mass, transformers' rule) or dropped ("exclude": the largest head that does
            not exceed it, ReMDM's released rule; the first token always stays).  The two agree
            where a head holds exactly the mass.
        suppressed: ids that are never drawn (the mask id is added by the loop).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    crossing: Crossing = "include"
    suppressed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(
                f"temperature={self.temperature}: must be finite and >= 0; 0 is argmax, 1 "
                "the model's law."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: must be at least 1, or None for no limit.")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p={self.top_p}: must be in (0, 1], or None; try 0.9.")
        if self.min_p is not None and not 0.0 <= self.min_p < 1.0:
            raise ValueError(f"min_p={self.min_p}: must be in [0, 1), or None; try 0.05.")
        self._become_plain()

    def _become_plain(self) -> None:
        """Turn numbers of numpy and torch into numbers of Python."""
        object.__setattr__(self, "temperature", float(self.temperature))
        if self.top_k is not None:
            object.__setattr__(self, "top_k", int(self.top_k))
        if self.top_p is not None:
            object.__setattr__(self, "top_p", float(self.top_p))
        if self.min_p is not None:
            object.__setattr__(self, "min_p", float(self.min_p))

    @property
    def filters(self) -> bool:
        """Return whether any of top_k, top_p, min_p is set."""
        return self.top_k is not None or self.top_p is not None or self.min_p is not None


class Drawn(IntEnum):
    """Say how the token of a position came about in a step."""

    NOT = 0
    """It was not drawn in this step."""
    FROM_LAW = 1
    """From the run's law (temperature and filters) of the model at the canvas before the step."""
    ARGMAX = 2
    """As the most probable token, whatever the temperature: its log-probability is 0."""
    OTHERWISE = 3
    """From another law, such as a mean of several predictions or the law of a step of noise."""


class Draw(Protocol):
    """Hold the record of one pass over the logits: everything that later decisions may read.

    All tables have the shape of the positions asked for ([R] from `ops.draw`, [B, L] from a
    `Prediction`).  `logprob` belongs to the law that was sampled (temperature and filters; 0 at
    temperature 0).  The other statistics belong to the model's own law (temperature 1, only
    suppressed ids removed) with statistics="model", or to the filtered and tempered law with
    statistics="law" (there temperature 0 counts as 1).
    """

    @property
    def token(self) -> Tensor:
        """Return the drawn tokens, int64."""
        ...

    @property
    def logprob(self) -> Tensor:
        """Return the log-probability of the token under the sampled law."""
        ...

    @property
    def log_confidence(self) -> Tensor:
        """Return the log-probability of the token under the law of the statistics."""
        ...

    @property
    def max_logprob(self) -> Tensor:
        """Return the largest log-probability."""
        ...

    @property
    def margin(self) -> Tensor:
        """Return the largest minus the second-largest probability."""
        ...

    @property
    def entropy(self) -> Tensor:
        """Return the entropy in nats."""
        ...

    @property
    def log_normalizer(self) -> Tensor:
        """Return the logsumexp of the logits that the statistics are taken over."""
        ...


class DrawRecord(NamedTuple):
    """Hold the tables of a `Draw`; see there."""

    token: Tensor  # int64
    logprob: Tensor
    log_confidence: Tensor
    max_logprob: Tensor
    margin: Tensor
    entropy: Tensor  # nats
    log_normalizer: Tensor

    @classmethod
    def of(cls, draw: Draw) -> DrawRecord:
        """Collect all tables of a draw, and make the missing ones."""
        return cls(
            draw.token, draw.logprob, draw.log_confidence, draw.max_logprob, draw.margin,
            draw.entropy, draw.log_normalizer,
        )  # fmt: skip
