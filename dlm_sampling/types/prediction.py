"""Define the input and output of a denoiser, and the interface through which a sampler asks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from dlm_sampling.types.cache import ColumnCache
from dlm_sampling.types.law import Draw, Statistics
from dlm_sampling.types.process import NoiseKind as NoiseKind
from dlm_sampling.types.process import PredictionKind, Process, RandomSource
from dlm_sampling.types.rows import map_rows


class Pass(NamedTuple):
    """Hold the input of one forward pass: n canvases, and the columns whose values are wanted.

    A denoiser may return more columns than were asked for, and says which; so one that can only do
    whole canvases ignores `columns`.  `rows` says which batch rows the canvases are.
    """

    tokens: Tensor  # int64 [n, L]
    t: Tensor | None = None  # float64 [n], noise level, 1 is pure noise
    attention: Tensor | None = None  # bool [n, L], False at padding; None: no padding
    dt: Tensor | None = None  # float64 [n], length of the step, for step-conditioned networks
    carry: Any = None  # state that the previous pass over these rows returned
    rows: Tensor | None = None  # int64 [n], batch rows; None: 0 to n - 1
    columns: Tensor | None = None  # int64 [n, W], columns wanted; None: all
    cache: ColumnCache | None = None  # keys and values of earlier passes; None: all columns run

    def to(self, device: torch.device) -> Pass:
        """Move the tensors to `device`; carry and cache stay where the network left them."""

        def moved(part: Tensor) -> Tensor:
            return part.to(device)

        own = map_rows(moved, self._replace(carry=None, cache=None))
        return own._replace(carry=self.carry, cache=self.cache)


class DenoiserOutput(NamedTuple):
    """Hold the output of a forward pass: logits, or hidden states and their map to logits.

    values: [n, W, V] logits if `head` is None, else [n, W, d] hidden states aligned with the
    positions they predict.  head: maps [R, d] to [R, V].  carry: latent state for the next forward,
    or None.  columns: int64 [n, W], the column of each value, L for a value that is none; None:
    values of all L columns.
    """

    values: Tensor
    head: Callable[[Tensor], Tensor] | None = None
    carry: Any = None
    columns: Tensor | None = None


Planner = Callable[..., Tensor | DenoiserOutput]
"""Takes token ids [B, L] and returns the logit that each is noise, [B, L]: a function, a module, or
a `denoisers.PlannerNetwork` of one, which states its facts."""


class Site(NamedTuple):
    """Hold the part of a prediction that a rule over tables reads, at r positions."""

    x: Tensor  # int64 [r], current tokens
    row: Tensor  # int64 [r], index of each position's row among the active rows
    p: Tensor  # float64 [r, V], prediction in the kind that was asked for
    column: Tensor  # int64 [r], index of each position in its row


class TwoLogits(Protocol):
    """Define two tensors of logits that are read as one; `ops.Pair` implements it."""

    @property
    def first(self) -> Tensor:
        """Return logits [R, V]."""
        ...

    @property
    def second(self) -> Tensor:
        """Return logits [R, V]."""
        ...


class Prediction(Protocol):
    """Predict the clean tokens of one canvas lazily: the forward pass runs when first read."""

    @property
    def kind(self) -> PredictionKind:
        """Return the kind of prediction that the denoiser makes."""
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
        aside: bool = False,
    ) -> Draw:
        """Draw a token at each position of `where` (bool [B, L]); fields are [B, L], else zero.

        Rows of `greedy` (bool [B]) take the argmax whatever the temperature; `exclude` int64 [B, L]
        leaves one token of each position out, and needs a `direct` prediction; `sub` numbers the
        draws of one step; `aside` says that the tokens are only looked at, never written.
        """
        ...

    @property
    def direct(self) -> bool:
        """Return whether the run's law is the network's at some temperature, without filters."""
        ...

    def mixed(self, where: Tensor) -> Tensor | None:
        """Return the rows whose law of a step is no function of one law of the clean token.

        A guidance makes it of several passes, or tilts it, under noise without a mask; bool [B], or
        None if there is no guidance.  Runs the pass at `where` (bool [B, L]).
        """
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
        own_law: bool = False,
    ) -> Draw:
        """Draw x_s at each position of `where` from the law that `rule` makes of the prediction.

        The prediction, with the run's temperature and filters, comes as a table of kind `reads` at
        the level alpha float64 [B]; the rule returns laws [r, V] of the next token, which are drawn
        from as they are.  It is called with a block of positions at a time.  Rows of `greedy` take
        the argmax of that law.  `own_law` says that at every one of these positions the rule gives
        the prediction back as it is, as for a jump from a mask: such draws can be replayed.
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

    def reveal_prob(self, prob: Tensor, where: Tensor) -> Tensor:
        """Return the probability that each mask at `where` (bool [B, L]) is written in a step.

        prob float64 [B] is that of the noise, which comes back as [B, 1]; only a guidance that
        changes rates runs the pass, and tells positions apart, [B, L].
        """
        ...

    def table(self, where: Tensor, *, alpha: Tensor, reads: PredictionKind) -> Tensor:
        """Return the table that `draw_by` gives its rule, for all of `where`: float64 [R, V]."""
        ...

    def log_probs(self, where: Tensor) -> Tensor:
        """Return log-probabilities of all tokens at `where`, [R, V] in row-major order."""
        ...

    def log_prob_of(self, tokens: Tensor, where: Tensor, *, tempered: bool = False) -> Tensor:
        """Return the log-probability of `tokens` at `where`, [B, L], 0 elsewhere.

        Under the model's own law, or under the run's law with its temperature and filters.  In
        grad mode it leaves a graph.
        """
        ...


class Predict(Protocol):
    """Show the model to a sampler: take a canvas, and return a lazy prediction."""

    @property
    def process(self) -> Process:
        """Return the noise that the model was trained on."""
        ...

    @property
    def causal(self) -> bool:
        """Return whether the columns right of the current block are hidden from the denoiser."""
        ...

    @property
    def vocab_size(self) -> int:
        """Return V, the columns of its predictions."""
        ...

    @property
    def suppressed(self) -> tuple[int, ...]:
        """Return ids that are never written, for laws that a sampler makes itself."""
        ...

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        *,
        dt: Tensor | None = None,
    ) -> Prediction:
        """Predict at x_t, int64 [B, L], and t, float64 [B]; at most one forward pass per row.

        The logits of each row are divided by temperature, float64 [B] > 0, before anything reads
        them, the state that the model carries included.  dt float64 [B] is the length of the step
        that follows; only step-conditioned models are told.
        """
        ...

    def plan(self, planner: Planner | str | Path, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """Ask a planner for the logit that each token of x is noise, float64 [B, L].

        x int64 [B, L]; t float64 [B].  A forward pass of each of the rows (bool [B]), which counts;
        0 in the other rows.  A planner may be named by the folder or hub name of its checkpoint.
        """
        ...

    def using(self, denoiser: Callable[..., DenoiserOutput]) -> Predict:
        """Show the same rows to a second `Denoiser`, without guidance; its passes count too.

        Raises:
            TypeError: it is no `Denoiser`.
        """
        ...

    def repeated(self, n: int) -> Predict:
        """Repeat each row n times, for n canvases of a row in one pass, which counts n times."""
        ...


P = TypeVar("P", bound=Predict)


@dataclass
class Forwarding(Generic[P]):
    """Forward what a sampler asks to another predictor, but for what a subclass answers itself.

    Fields:
        inner: the other predictor.
    """

    inner: P

    @property
    def process(self) -> Process:
        """Return the noise that the model was trained on."""
        return self.inner.process

    @property
    def causal(self) -> bool:
        """Return whether the columns right of the current block are hidden from the denoiser."""
        return self.inner.causal

    @property
    def vocab_size(self) -> int:
        """Return V, the columns of its predictions."""
        return self.inner.vocab_size

    @property
    def suppressed(self) -> tuple[int, ...]:
        """Return ids that are never written."""
        return self.inner.suppressed

    def plan(self, planner: Planner | str | Path, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """Ask a planner; see `Predict.plan`."""
        return self.inner.plan(planner, x, t, rows)

    def using(self, denoiser: Callable[..., DenoiserOutput]) -> Predict:
        """Show the same rows to a second denoiser; see `Predict.using`."""
        return self.inner.using(denoiser)

    def repeated(self, n: int) -> Predict:
        """Repeat each row n times; see `Predict.repeated`."""
        return self.inner.repeated(n)
