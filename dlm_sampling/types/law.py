"""Define the law that a token is drawn from, and the record that one draw leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from dlm_sampling.errors import check_fields, named
from dlm_sampling.types.process import NoiseKind as NoiseKind

Statistics = Literal["model", "law"]


Crossing = Literal["include", "exclude"]

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""Takes the ids left of a position, int64 [r, n], and its logits [r, V], as those of transformers
do, and returns logits [r, V]."""

LARGEST_PENALTY = 1000.0
"""A float32 logit that a larger number is taken from keeps too few of its digits, or none."""


@dataclass(frozen=True)
class TokenLaw:
    """Describe how a token is drawn at a position once the position is to be written.

    law(v) is proportional to exp(logits[v] / temperature) over the tokens that pass, in this order:
    penalties and `logits_processor` change the logits; `suppressed` ids removed; `top_n_sigma`;
    divided by the temperature; `top_k` largest; `top_p` nucleus; `min_p` times the largest
    probability; `typical_p`; `eta_cutoff`.  temperature 0 is argmax (lowest id wins ties) of the
    tokens that pass at temperature 1.  The law never touches the probability that a position stays
    masked: tokens are left out and the rest is normalised before a step of noise is made of it.

    The penalties are defined on a canvas: a token v is present at a position if it stands at
    another position of the row, padding apart, that is no mask.  So each row is penalised for its
    own tokens, left and right, and no position for the token that it holds itself.

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
        typical_p: keep the tokens whose -ln p is nearest to the entropy, the fewest that reach this
            mass, in (0, 1], or None.  The most probable token may be left out.  Meister et al.
            2022, arXiv:2202.00666.
        eta_cutoff: e in (0, 1), or None: keep tokens with p > min(e, sqrt(e) exp(-entropy)), and
            always the largest.  Hewitt et al. 2022, arXiv:2210.15191.
        top_n_sigma: n >= 0, or None: keep tokens whose logit is within n standard deviations of the
            finite logits from the largest.  Tang et al. 2024, arXiv:2411.07641.
        repetition_penalty: r in [0.001, 1000]; the logit x of a token that is present, in the
            prompt too, becomes x / r where x > 0 and x r else, transformers' rule; 1 is none.  It
            depends on the offset of the logits, as theirs does.  Keskar et al. 2019,
            arXiv:1909.05858.
        presence_penalty: in [-1000, 1000]; subtracted from the logit of a token that is present at
            a position that the run writes; 0 is none.
        logits_processor: called as those of transformers are, with the ids left of a position,
            int64 [r, n] (masks where unknown, no padding), and its logits [r, V], for the positions
            that are drawn only; those at one place of their rows come together.  It must treat
            every row by itself.  None is none.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    crossing: Crossing = "include"
    suppressed: tuple[int, ...] = ()
    typical_p: float | None = None
    eta_cutoff: float | None = None
    top_n_sigma: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    logits_processor: LogitsProcessor | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.logits_processor is not None and not callable(self.logits_processor):
            raise TypeError(
                f"logits_processor is {named(self.logits_processor)}: must be a function of ids "
                "and logits, or None; try transformers' LogitsProcessorList([...])."
            )
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
        self._check_reshaping()
        self._become_plain()

    def _check_reshaping(self) -> None:
        """Check the filters that keep no head of the law, and what changes the logits."""
        typical, eta, sigma = self.typical_p, self.eta_cutoff, self.top_n_sigma
        if typical is not None and not 0.0 < typical <= 1.0:
            raise ValueError(f"typical_p={typical}: must be in (0, 1], or None; try 0.9.")
        if eta is not None and not 0.0 < eta < 1.0:
            raise ValueError(f"eta_cutoff={eta}: must be in (0, 1), or None; try 3e-4.")
        if sigma is not None and not 0.0 <= sigma < math.inf:
            raise ValueError(f"top_n_sigma={sigma}: must be finite and >= 0, or None; try 1.0.")
        if not 1 / LARGEST_PENALTY <= self.repetition_penalty <= LARGEST_PENALTY:
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty}: must be in [{1 / LARGEST_PENALTY}, "
                f"{LARGEST_PENALTY:g}]; 1 is none, try 1.1."
            )
        if not abs(self.presence_penalty) <= LARGEST_PENALTY:
            raise ValueError(
                f"presence_penalty={self.presence_penalty}: must be in [-{LARGEST_PENALTY:g}, "
                f"{LARGEST_PENALTY:g}]; 0 is none, try 0.5 (suppress_tokens= never draws an id)."
            )

    def _become_plain(self) -> None:
        """Turn numbers of numpy and torch into numbers of Python."""
        for name in _REALS:
            value = vars(self)[name]
            if value is not None:
                object.__setattr__(self, name, float(value))
        if self.top_k is not None:
            object.__setattr__(self, "top_k", int(self.top_k))

    @property
    def filters(self) -> bool:
        """Return whether any of top_k, top_p, min_p is set."""
        return self.top_k is not None or self.top_p is not None or self.min_p is not None

    @cached_property
    def reshapes(self) -> bool:
        """Return whether any of typical_p, eta_cutoff, top_n_sigma is set."""
        own = self.typical_p, self.eta_cutoff, self.top_n_sigma
        return own != (None, None, None)

    @cached_property
    def reads_canvas(self) -> bool:
        """Return whether a penalty or a processor changes the logits."""
        penalties = self.repetition_penalty != 1.0 or self.presence_penalty != 0.0
        return penalties or self.logits_processor is not None

    @property
    def plain(self) -> bool:
        """Return whether it is a temperature and suppressed ids, and nothing else."""
        return not (self.filters or self.reshapes or self.reads_canvas)


_REALS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "eta_cutoff",
    "top_n_sigma",
    "repetition_penalty",
    "presence_penalty",
)


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


@runtime_checkable
class HeardDraw(Protocol):
    """Hold the tables of a `Draw` that those who listen to the steps of a run read."""

    @property
    def log_confidence(self) -> Tensor:
        """Return the log-probability of the token under the law of the statistics."""
        ...

    @property
    def entropy(self) -> Tensor:
        """Return the entropy in nats."""
        ...


class Draw(HeardDraw, Protocol):
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
    def max_logprob(self) -> Tensor:
        """Return the largest log-probability."""
        ...

    @property
    def margin(self) -> Tensor:
        """Return the largest minus the second-largest probability."""
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
