"""The nouns of the library: what a denoiser returns, what a sampler sees, what a step gives back.

Shapes: B rows, L canvas positions, V vocabulary columns, R flat positions.  Time runs from 1
    (noise) to 0 (data).  Nothing here computes; the arithmetic lives in `ops`, the loop in `loop`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from torch import Tensor

from dlm_sampling.noise_types import NoiseKind as NoiseKind
from dlm_sampling.noise_types import PredictionKind, Process, RandomSource

S = TypeVar("S")

Statistics = Literal["model", "law"]
Crossing = Literal["include", "exclude"]


@dataclass(frozen=True)
class TokenLaw:
    """How a token is drawn at a position once the position is to be written.

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
        crossing: whether the token that crosses `top_p` is kept ("include", the usual rule) or
            dropped ("exclude", ReMDM's released rule; the first token always stays).
        suppressed: ids that are never drawn (the mask id is added by the loop).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    crossing: Crossing = "include"
    suppressed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
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

    @property
    def filters(self) -> bool:
        """Whether any of top_k, top_p, min_p is set."""
        return self.top_k is not None or self.top_p is not None or self.min_p is not None


class Draw(NamedTuple):
    """What one pass over the logits leaves behind: everything that later decisions may read.

    All fields have the shape of the positions asked for ([R] from `ops.draw`, [B, L] from a
    `Prediction`).  `logprob` belongs to the law that was sampled (temperature and filters; 0 at
    temperature 0).  The other statistics belong to the model's own law (temperature 1, only
    suppressed ids removed) with statistics="model", or to the filtered and tempered law with
    statistics="law" (there temperature 0 counts as 1).
    """

    token: Tensor  # int64, the drawn token
    logprob: Tensor  # log-probability of the token under the sampled law
    log_confidence: Tensor  # log-probability of the token under the law of the statistics
    max_logprob: Tensor  # largest log-probability
    margin: Tensor  # largest minus second-largest probability
    entropy: Tensor  # nats
    log_normalizer: Tensor  # logsumexp of the logits that the statistics are taken over


class DenoiserOutput(NamedTuple):
    """What a forward pass returns: logits, or hidden states and the head that makes logits of them.

    values: [B, L, V] logits if `head` is None, else [B, L, d] hidden states aligned with the
    positions they predict.  head: maps [R, d] to [R, V].  carry: latent state for the next forward,
    or None.
    """

    values: Tensor
    head: Callable[[Tensor], Tensor] | None = None
    carry: Any = None


class Canvas(NamedTuple):
    """The tokens being denoised, and which positions the sampler may write in the current block.

    Without a mask, what is not yet written holds noise, and nothing marks it: every position of the
    block is unknown until the last step of its schedule.
    """

    tokens: Tensor  # int64 [B, L]
    unknown: Tensor  # bool [B, L], still to be written; never inferred from the mask id
    editable: Tensor  # bool [B, L], in the current block and not prompt, padding or infill context
    start: Tensor  # int64 [B], first position of the current block
    mask_token_id: int | None  # None under noise without a mask

    @property
    def mask(self) -> int:
        """The mask id, for rules that exist on masks only.

        Raises:
            ValueError: there is none.
        """
        if self.mask_token_id is None:
            raise ValueError("mask_token_id is None: this rule needs a model with a mask token.")
        return self.mask_token_id

    @property
    def eligible(self) -> Tensor:
        """Positions that this step may reveal: unknown and inside the block, bool [B, L]."""
        return self.unknown & self.editable

    @property
    def unknown_fraction(self) -> Tensor:
        """Unknown share of the block, float64 [B]: the time of masked models without a clock."""
        width = self.editable.sum(1).clamp_min(1)
        return self.eligible.sum(1).double() / width.double()

    @property
    def committed(self) -> Tensor:
        """Positions of the block that hold a token, bool [B, L]."""
        return ~self.unknown & self.editable


class Clock(NamedTuple):
    """Where each row stands in its current block; rows need not be in step with each other."""

    step: Tensor  # int64 [B], steps already taken in this block
    steps: Tensor  # int64 [B], steps planned for this block

    @property
    def last(self) -> Tensor:
        """Whether this is the last planned step of the block, bool [B]."""
        return self.step >= self.steps - 1


class Step(NamedTuple):
    """The outcome of one step; positions that are not editable are restored by the loop."""

    tokens: Tensor  # int64 [B, L]
    unknown: Tensor  # bool [B, L]
    logprob: Tensor  # [B, L], log-probability of the tokens written in this step, else 0
    log_confidence: Tensor | None = None  # [B, L], for viewers; 0 where not evaluated
    entropy: Tensor | None = None  # [B, L], nats, for viewers; 0 where not evaluated


class Site(NamedTuple):
    """What a rule over tables sees of r positions."""

    x: Tensor  # int64 [r], current tokens
    row: Tensor  # int64 [r], index of each position's row among the active rows
    p: Tensor  # float64 [r, V], prediction in the kind that was asked for
    column: Tensor  # int64 [r], index of each position in its row


class TwoLogits(Protocol):
    """Two tensors of logits that are read as one; `ops.Pair` implements it."""

    @property
    def first(self) -> Tensor:
        """Logits [R, V]."""
        ...

    @property
    def second(self) -> Tensor:
        """Logits [R, V]."""
        ...


class Prediction(Protocol):
    """A lazy prediction of the clean tokens given one canvas: the forward runs when first asked."""

    @property
    def kind(self) -> PredictionKind:
        """What the denoiser predicts."""
        ...

    def draw(
        self,
        where: Tensor,
        rng: RandomSource,
        *,
        statistics: Statistics = "model",
        greedy: Tensor | None = None,
        exclude: Tensor | None = None,
        sub: int = 0,
    ) -> Draw:
        """Draw a token at each position of `where` (bool [B, L]); fields are [B, L], else zero.

        Rows of `greedy` (bool [B]) take the argmax whatever the temperature; `exclude` int64 [B, L]
        leaves one token of each position out, and needs a `direct` prediction; `sub` numbers the
        draws of one step.
        """
        ...

    @property
    def direct(self) -> bool:
        """Whether the run's law is the network's at some temperature: a law, without filters."""
        ...

    def draw_from(
        self,
        logits: Tensor | TwoLogits,
        where: Tensor,
        rng: RandomSource,
        *,
        statistics: Statistics = "model",
        sub: int = 0,
    ) -> Draw:
        """Draw as `draw` does, with the run's temperature and filters, but from `logits`.

        logits [R, V] belong to the positions of `where` in row-major order; no forward pass.  For
        rules that combine the laws of several forward passes, which they read with `log_probs`, as
        one table or as an `ops.Pair`, whose table is never made.
        """
        ...

    def draw_by(
        self,
        rule: Callable[[Site], Tensor],
        where: Tensor,
        rng: RandomSource,
        *,
        alpha: Tensor,
        reads: PredictionKind,
        greedy: Tensor | None = None,
        sub: int = 0,
    ) -> Draw:
        """Draw x_s at each position of `where` from the law that `rule` makes of the prediction.

        The prediction, with the run's temperature and filters, comes as a table of kind `reads` at
        the level alpha float64 [B]; the rule returns laws [r, V] of the next token, which are drawn
        from as they are.  It is called with a block of positions at a time.  Rows of `greedy` take
        the argmax of that law.
        """
        ...

    def draw_table(
        self,
        law: Tensor,
        where: Tensor,
        rng: RandomSource,
        *,
        greedy: Tensor | None = None,
        sub: int = 0,
    ) -> Draw:
        """Draw from given laws [R, V] of the positions of `where`, row-major; no filters."""
        ...

    def table(self, where: Tensor, *, alpha: Tensor, reads: PredictionKind) -> Tensor:
        """What `draw_by` gives its rule, for all positions of `where` at once: float64 [R, V]."""
        ...

    def log_probs(self, where: Tensor) -> Tensor:
        """Log-law of the tokens at the positions of `where`, [R, V] in row-major order."""
        ...

    def log_prob_of(self, tokens: Tensor, where: Tensor, *, tempered: bool = False) -> Tensor:
        """Log-probability of `tokens` at `where`, [B, L], 0 elsewhere.

        Under the model's own law, or under the run's law with its temperature and filters.  In
        grad mode it leaves a graph.
        """
        ...


class Predict(Protocol):
    """The model as a sampler sees it: a canvas in, a lazy prediction out."""

    @property
    def process(self) -> Process:
        """The noise that the model was trained on."""
        ...

    @property
    def vocab_size(self) -> int:
        """Columns V of its predictions."""
        ...

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        *,
        dt: Tensor | None = None,
    ) -> Prediction:
        """x_t int64 [B, L], t float64 [B] -> Prediction; at most one forward pass per row.

        The logits of each row are divided by temperature, float64 [B] > 0, before anything reads
        them, the state that the model carries included.  dt float64 [B] is the length of the step
        that follows; only step-conditioned models are told.
        """
        ...

    def plan(self, planner: Any, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """What a planner (a `Denoiser` of one column) says of x, float64 [B, L], 0 in other rows.

        A forward pass of each of the rows (bool [B]), which counts.
        """
        ...

    def using(self, denoiser: Any) -> Predict:
        """The same rows under a second `Denoiser`, without guidance; its forwards count too."""
        ...

    def repeated(self, n: int) -> Predict:
        """Each row n times over, for n canvases of a row in one pass, which counts n times."""
        ...


class Sampler(Protocol[S]):
    """The rule that moves a canvas one step.  Implementations are frozen dataclasses.

    The state is a NamedTuple (or None) of tensors whose leading dimension is B, so that the loop
    can drop finished rows.  A row enters a new block with `clock.step == 0`; state that belongs to
    a block is reset there by the sampler, row by row.
    """

    @property
    def revises(self) -> bool:
        """Whether committed tokens may change: a block is then over when its schedule is."""
        ...

    @property
    def exact(self) -> bool:
        """Whether the sum of `Step.logprob` is exact: log p(tokens given the positions)."""
        ...

    def schedule_length(self, steps: int) -> int | None:
        """Loop steps of a block planned with `steps`; None: until nothing is unknown."""
        ...

    def patience(self, length: int) -> int:
        """Loop steps after which an adaptive block of a canvas of `length` counts as stuck."""
        ...

    def finished(self, state: S, canvas: Canvas, clock: Clock) -> Tensor | None:
        """Rows whose block is over after the step just taken, bool [B]; None leaves it to the loop.

        state and canvas are those after the step, clock is that of the step.  A block also ends
        with its schedule, and an unmask-only one once nothing is unknown; what is unknown at its
        end is filled.
        """
        ...

    def init(self, canvas: Canvas) -> S:
        """State before the first step."""
        ...

    def step(
        self, state: S, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[S, Step]:
        """Move every row from its step to the next."""
        ...
