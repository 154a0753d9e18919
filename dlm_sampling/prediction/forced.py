"""Take a sampler's step again with the tokens of a record in place of random ones, and score them.

    log p(x_s | x_t) = sum over drawn i of log q_i(x_s,i)

q_i is the law from which the step would draw: the run's law of the prediction, or the table that
the sampler makes of it.  So the log-probability has one definition, the sampler's own step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.prediction.logits import on_demand
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.types import (
    DenoiserOutput,
    Draw,
    DrawRecord,
    Forwarding,
    Planner,
    PredictionKind,
    RandomSource,
    Site,
    Statistics,
    TwoLogits,
)


@dataclass
class Record:
    """Hold the tokens that a step drew, and collect their log-probabilities.

    Fields:
        before: int64 [A, L], the canvas before the step.
        tokens: int64 [A, L], the canvas after it.
        known: bool [A, L], positions whose token of `tokens` was drawn in this step, if it was
            drawn at all.
        from_law: bool [A, L], those of them that came from the run's law of the model at `before`.
        logprob: [A, L], log-probability of each scored token, else 0; with a graph in grad mode.
        scored: bool [A, L], positions whose token has one.
    """

    before: Tensor
    tokens: Tensor
    known: Tensor
    from_law: Tensor
    logprob: Tensor
    scored: Tensor

    def note(self, where: Tensor, logprob: Tensor) -> None:
        """Note log-probabilities [A, L] at `where` (bool [A, L])."""
        dtype = torch.promote_types(self.logprob.dtype, logprob.dtype)
        self.logprob = torch.where(where, logprob.to(dtype), self.logprob.to(dtype))
        self.scored = self.scored | where


class ForcedPrediction:
    """Answer a draw with the recorded token and its log-probability.

    A position whose token the record does not tell, because the step did not write it, is drawn.

    Args:
        inner: the prediction.
        record: the tokens of the step.
    """

    def __init__(self, inner: LazyPrediction, record: Record) -> None:
        self._inner, self._record = inner, record

    @property
    def kind(self) -> PredictionKind:
        """Return the kind of prediction that the denoiser makes."""
        return self._inner.kind

    @property
    def direct(self) -> bool:
        """Return False, so that laws are made as tables, which can be scored."""
        return False

    def mixed(self, where: Tensor) -> Tensor | None:
        """Return `LazyPrediction.mixed`."""
        return self._inner.mixed(where)

    def _forced(self, draw: Draw, where: Tensor, logprob: Tensor) -> Draw:
        """Return a draw with the recorded tokens at `where`, and note their log-probabilities."""
        new = DrawRecord.of(draw)
        token = torch.where(where, self._record.tokens, new.token)
        return new._replace(token=token, logprob=torch.where(where, logprob, new.logprob))

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
        """Draw as `LazyPrediction.draw`, and take the recorded tokens where there are any."""
        with torch.no_grad():
            drawn = self._inner.draw(
                where, rng, statistics=statistics, greedy=greedy, exclude=exclude, sub=sub,
                aside=aside,
            )  # fmt: skip
        at = where & self._record.known
        if aside or exclude is not None or not bool(at.any()):
            return drawn
        logprob = self._inner.log_prob_of(self._record.tokens, at, tempered=True)
        if greedy is not None:
            logprob = logprob.masked_fill(greedy.unsqueeze(1), 0.0)
        self._record.note(at & ~self._record.from_law, logprob)
        return self._forced(drawn, at, logprob)

    def draw_from(
        self,
        logits: Tensor | TwoLogits,
        where: Tensor,
        rng: RandomSource,
        *,
        statistics: Statistics = "model",
        sub: int = 0,
    ) -> Draw:
        """Draw as `LazyPrediction.draw_from`, and take the recorded tokens."""
        source = logits if isinstance(logits, Tensor) else cast("ops.Pair", logits)
        with torch.no_grad():
            drawn = self._inner.draw_from(logits, where, rng, statistics=statistics, sub=sub)
        at, inside = where & self._record.known, self._record.known[where]
        if not bool(at.any()):
            return drawn
        rows, chosen = on_demand(source), inside.nonzero().squeeze(1)
        every = rows.fetch

        def fetch(i: Tensor) -> Tensor:
            return every(chosen[i])

        law = self._inner.law
        ids = self._record.tokens[at]
        adjust = self._inner.adjust(Sites.of(at), law)
        found = ops.differentiable_log_prob_of(
            replace(rows, fetch=fetch, count=len(chosen)), ids, law=law, check=False, adjust=adjust
        )
        return self._spread(drawn, at, found, None)

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
        """Draw as `LazyPrediction.draw_by`, and take the recorded tokens."""
        at = where & self._record.known
        with torch.no_grad():
            drawn = self._inner.draw_by(
                rule, where & ~at, rng, alpha=alpha, reads=reads, greedy=greedy, sub=sub,
                own_law=own_law,
            )  # fmt: skip
        if not bool(at.any()):
            return drawn
        found = self._inner.log_law_of(rule, self._record.tokens, at, alpha=alpha, reads=reads)
        return self._spread(drawn, at, found, greedy)

    def draw_table(
        self,
        law: Tensor,
        where: Tensor,
        rng: RandomSource,
        *,
        greedy: Tensor | None = None,
        sub: int = 0,
    ) -> Draw:
        """Draw as `LazyPrediction.draw_table`, and take the recorded tokens."""
        with torch.no_grad():
            drawn = self._inner.draw_table(law, where, rng, greedy=greedy, sub=sub)
        at = where & self._record.known
        if not bool(at.any()):
            return drawn
        inside = law[self._record.known[where]]
        chosen = inside.gather(1, self._record.tokens[at].unsqueeze(1)).squeeze(1)
        return self._spread(drawn, at, (chosen / inside.sum(1)).log(), greedy)

    def _spread(self, drawn: Draw, at: Tensor, found: Tensor, greedy: Tensor | None) -> Draw:
        """Note log-probabilities [R] of the positions of `at`, row-major."""
        logprob = found.new_zeros(at.shape).masked_scatter(at, found)
        if greedy is not None:
            logprob = logprob.masked_fill(greedy.unsqueeze(1), 0.0)
        self._record.note(at, logprob)
        return self._forced(drawn, at, logprob)

    def reveal_prob(self, prob: Tensor, where: Tensor) -> Tensor:
        """Return `LazyPrediction.reveal_prob`."""
        return self._inner.reveal_prob(prob, where)

    def table(self, where: Tensor, *, alpha: Tensor, reads: PredictionKind) -> Tensor:
        """Return the table that `draw_by` gives its rule, with a graph in grad mode."""
        return self._inner.table(where, alpha=alpha, reads=reads)

    def log_probs(self, where: Tensor) -> Tensor:
        """Return log-probabilities of all tokens at `where`, with a graph in grad mode."""
        return self._inner.differentiable_log_probs(where)

    def log_prob_of(self, tokens: Tensor, where: Tensor, *, tempered: bool = False) -> Tensor:
        """Return the log-probability of `tokens` at `where`, with a graph in grad mode."""
        return self._inner.log_prob_of(tokens, where, tempered=tempered)


@dataclass
class ForcedPredictor(Forwarding[Predictor]):
    """Show the model to a sampler whose step is taken again.

    Fields:
        record: the tokens of the step.
    """

    record: Record

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        *,
        dt: Tensor | None = None,
    ) -> ForcedPrediction:
        """Predict, and score the tokens that came from the run's law at the canvas of the step.

        They are scored whatever positions the sampler would write now, since confidence may rank
        the positions otherwise under another model.
        """
        prediction, record = self.inner(x, t, temperature, dt=dt), self.record
        at = record.from_law & ~record.scored & (x == record.before).all(1, keepdim=True)
        if temperature is None and bool(at.any()):
            record.note(at, prediction.log_prob_of(record.tokens, at, tempered=True))
        return ForcedPrediction(prediction, record)

    def plan(self, planner: Planner | str | Path, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """Ask a planner; its choice is no part of the log-probability of tokens."""
        with torch.no_grad():
            return self.inner.plan(planner, x, t, rows)

    def using(self, denoiser: Callable[..., DenoiserOutput] | Denoiser) -> Predictor:
        """Show the same rows to a second denoiser, whose draws are not forced."""
        return self.inner.using(denoiser)

    def repeated(self, n: int) -> Predictor:
        """Repeat each row n times; draws of the copies are not forced."""
        return self.inner.repeated(n)
