"""Predict lazily: run the forward pass when a draw, log-probability or table is first read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.prediction.adjusting import adjust_of
from dlm_sampling.prediction.guided import guided_logits, guided_rows, mixed_rows, moved_rate
from dlm_sampling.prediction.law_rows import PLAIN, SiteLaws, log_probs_in
from dlm_sampling.prediction.logits import PassLogits, on_demand
from dlm_sampling.prediction.passes import Passes
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.prediction.spread import SpreadDraw, empty_draw
from dlm_sampling.processes.guidance import tilted_logits
from dlm_sampling.types import (
    Draw,
    PredictionKind,
    RandomSource,
    Site,
    Statistics,
    TokenLaw,
    TwoLogits,
)
from dlm_sampling.types.values import every

_CHANGING = "reads tables whose size changes per step"


class LazyPrediction:
    """Predict the law of the clean token at every position of the canvases, on demand.

    Args:
        passes: runs the denoiser.
        x: int64 [A, L], the canvases.
        t: float64 [A], the sampler's times.
        temperature: float64 [A], divides the logits of each row before the token law; None is 1.
        dt: float64 [A], length of the step for step-conditioned denoisers, or None.
    """

    def __init__(
        self,
        passes: Passes,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> None:
        self._passes, self._x, self._t = passes, x, t
        self._temperature, self._dt = temperature, dt
        self._law = passes.model.law
        self._done: Tensor | None = None  # bool [A], rows whose pass has run; None: all rows
        self._logits: PassLogits | None = None
        self._tilt: Tensor | None = None  # float64 [A, L, V], of a guidance

    @property
    def canvases(self) -> Tensor:
        """Return the canvases that are predicted, int64 [A, L]."""
        return self._x

    @property
    def kind(self) -> PredictionKind:
        """Return the kind of table that the denoiser predicts."""
        return self._passes.model.denoiser.kind

    def evaluate(self, where: Tensor) -> PassLogits:
        """Run the missing passes of rows with a position in `where` (bool [A, L])."""
        found, done = self._logits, self._done
        if found is not None and done is None:
            return found
        missing = self._passes.shapes.missing(where, done)
        if missing is None or len(missing):
            passes, x, t, model = self._passes, self._x, self._t, self._passes.model
            if model.guidance is None:
                outputs = passes.run(x, t, missing, self._temperature, self._dt)
                found = PassLogits.of(outputs, missing, x, model, found)
            else:
                found, self._tilt = guided_logits(
                    passes, x, t, missing, self._temperature, self._dt, found, self._tilt
                )
            self._done = None
            if missing is not None:
                done = torch.zeros_like(where[:, 0]) if done is None else done
                self._done = done.index_fill(0, missing, True)
        assert found is not None
        self._logits = found
        return found

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
        """Draw a token at each position of `where`; see `types.Prediction.draw`."""
        sites = self._passes.shapes.sites(where)
        if not len(sites):
            return empty_draw(sites)
        if self._passes.ledger is not None and not aside:
            own_law = exclude is None and self._temperature is None
            self._passes.ledger.note(self._x, where, greedy, own_law=own_law)
        logits = self.evaluate(where)
        if exclude is not None:
            rows, out = self._on_demand(logits, sites), sites.read(exclude).unsqueeze(1)

            def rest(i: Tensor) -> Tensor:
                return rows.fetch(i).scatter(1, out[i], -torch.inf)

            return self._drawn(replace(rows, fetch=rest), None, sites, rng, statistics, sub)
        law, temperatures = self._law, None
        if greedy is not None and ops.sync_allowed() and every(greedy):
            law = self._passes.model.argmax_law  # no token needs noise
        elif greedy is not None:
            temperatures = self._temperatures(greedy, sites, law.temperature)
        source, index = self._read(logits, sites)
        return self._drawn(source, index, sites, rng, statistics, sub, temperatures, law)

    def reveal_prob(self, prob: Tensor, where: Tensor) -> Tensor:
        """Return the probability that a mask is written; see `types.Prediction.reveal_prob`."""
        guidance = self._passes.model.guidance
        if guidance is None or not guidance.moves_rates:
            return prob.unsqueeze(1)
        sites = self._passes.shapes.sites(where)
        out = prob.unsqueeze(1).expand(where.shape)
        if not len(sites):
            return out
        found = self.evaluate(where)
        assert self._tilt is not None
        index, source = found.index(sites), on_demand(found.source())
        plain = ops.log_probs(replace(source, count=len(index)), law=self._own_law, rows=index)
        return out.masked_scatter(where, moved_rate(plain, self._tilt[where], out[where]))

    @property
    def law(self) -> TokenLaw:
        """Return the law that tokens are drawn with."""
        return self._law

    def adjust(self, sites: Sites, law: TokenLaw) -> ops.Adjust | None:
        """Return how penalties and a processor change the logits of the positions, or None."""
        return adjust_of(law, self._x, self._passes.rows, sites)

    def _temperatures(self, greedy: Tensor, sites: Sites, temperature: float) -> Tensor | None:
        """Return a temperature per position, float64 [R], 0 in rows of `greedy`; None: no such."""
        if temperature == 0.0 or not ops.any_or_assume(greedy):
            return None
        everywhere = torch.full_like(greedy, temperature, dtype=torch.float64)
        return everywhere.masked_fill(greedy, 0.0)[sites.row]

    @property
    def direct(self) -> bool:
        """Return whether draws follow the logits directly; see `types.Prediction.direct`."""
        law = self._law
        return self.kind != "log_score" and law.plain and law.temperature > 0.0

    def mixed(self, where: Tensor) -> Tensor | None:
        """Return the rows with a law of several passes; see `types.Prediction.mixed`."""
        guided = self._passes.model.guidance is not None and bool(where.any())
        return mixed_rows(self.evaluate(where), len(where)) if guided else None

    def draw_from(
        self,
        logits: Tensor | TwoLogits,
        where: Tensor,
        rng: RandomSource,
        *,
        statistics: Statistics = "model",
        sub: int = 0,
    ) -> Draw:
        """Draw as `draw` does, but from given logits; see `types.Prediction.draw_from`."""
        self._passes.shapes.check_free(_CHANGING)
        sites = self._passes.shapes.sites(where)
        if not len(sites):
            return empty_draw(sites)
        if self._passes.ledger is not None:
            self._passes.ledger.note(self._x, where, None, own_law=False)
        source = logits if isinstance(logits, Tensor) else cast("ops.Pair", logits)
        return self._drawn(source, None, sites, rng, statistics, sub)

    def _drawn(
        self,
        source: ops.Source | ops.Pair,
        index: Tensor | None,
        sites: Sites,
        rng: RandomSource,
        statistics: Statistics,
        sub: int,
        temperatures: Tensor | None = None,
        law: TokenLaw | None = None,
    ) -> Draw:
        law, model = self._law if law is None else law, self._passes.model
        beside = law.temperature == 0.0 < self._law.temperature
        record = ops.draw_lazily(
            source,
            lambda: rng.at(sites.row, sites.column),
            law=law,
            statistics=statistics,
            sub=sub,
            rows=index,
            temperatures=temperatures,
            adjust=self.adjust(sites, law) if law.reads_canvas else None,
            reads=model.argmax_reads if beside else model.reads,
        )
        self._passes.shapes.note(record, sites)
        return SpreadDraw(record, sites)

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
        """Draw from a rule's law of the prediction; see `types.Prediction.draw_by`."""
        sites = self._passes.shapes.sites(where)
        if not len(sites):
            return empty_draw(sites)
        if self._passes.ledger is not None:
            self._passes.ledger.note(self._x, where, greedy, own_law=own_law)
        log_law = self._log_law(where, sites, alpha, reads, rule)
        return self._draw_law(log_law, sites, rng, greedy, sub)

    def draw_table(
        self,
        law: Tensor,
        where: Tensor,
        rng: RandomSource,
        *,
        greedy: Tensor | None = None,
        sub: int = 0,
    ) -> Draw:
        """Draw from given tables of probabilities; see `types.Prediction.draw_table`."""
        self._passes.shapes.check_free(_CHANGING)
        sites = self._passes.shapes.sites(where)
        if not len(sites):
            return empty_draw(sites)
        if self._passes.ledger is not None:
            self._passes.ledger.note(self._x, where, greedy, own_law=False)
        return self._draw_law(law.log(), sites, rng, greedy, sub)

    def _draw_law(
        self,
        logits: ops.Source,
        sites: Sites,
        rng: RandomSource,
        greedy: Tensor | None,
        sub: int,
    ) -> Draw:
        """Draw from given logits, without the run's temperature and filters."""
        temperatures = None if greedy is None else self._temperatures(greedy, sites, 1.0)
        return self._drawn(logits, None, sites, rng, "model", sub, temperatures, PLAIN)

    def table(self, where: Tensor, *, alpha: Tensor, reads: PredictionKind) -> Tensor:
        """Return the prediction as a table of kind `reads`; see `types.Prediction.table`."""
        self._passes.shapes.check_free(_CHANGING)
        sites = self._passes.shapes.sites(where)
        if not len(sites):
            return torch.zeros(0, self._vocab_size, dtype=torch.float64, device=where.device)
        rows = self._log_law(where, sites, alpha, reads, lambda site: site.p)
        every = torch.arange(rows.count, device=where.device)
        return torch.cat([rows.fetch(part).exp() for part in torch.split(every, rows.block)])

    def _log_law(
        self,
        where: Tensor,
        sites: Sites,
        alpha: Tensor,
        reads: PredictionKind,
        rule: Callable[[Site], Tensor],
    ) -> ops.LogitRows:
        """Return log-probabilities of the rule's law at the positions, on demand."""
        rows = self._law_rows(where, sites, alpha, reads, rule)

        def fetch(i: Tensor) -> Tensor:
            return rows.fetch(i).log()

        return replace(rows, fetch=fetch)

    def _law_rows(
        self,
        where: Tensor,
        sites: Sites,
        alpha: Tensor,
        reads: PredictionKind,
        rule: Callable[[Site], Tensor],
    ) -> ops.LogitRows:
        """Return the rule's law at the positions, on demand."""
        found, model = self.evaluate(where), self._passes.model
        made = SiteLaws(model, sites, self._x, alpha, reads, self.adjust(sites, self._law))
        if model.guidance is None or model.denoiser.mask_token_id is not None:
            return made.rows(self._on_demand(found, sites), rule)
        return guided_rows(found, made, self._tilt, rule)

    def log_law_of(
        self,
        rule: Callable[[Site], Tensor],
        tokens: Tensor,
        where: Tensor,
        *,
        alpha: Tensor,
        reads: PredictionKind,
    ) -> Tensor:
        """Return the log-probability of tokens [A, L] under a rule's law, float64 [R].

        R positions of `where` in row-major order; rule, alpha and reads as in `draw_by`.  In grad
        mode it leaves a graph, and a block of tables exists at a time.
        """
        sites = self._passes.shapes.sites(where)
        return log_probs_in(self._law_rows(where, sites, alpha, reads, rule), sites.read(tokens))

    def differentiable_log_probs(self, where: Tensor) -> Tensor:
        """Return `log_probs`, with a graph in grad mode."""
        if not torch.is_grad_enabled():
            return self.log_probs(where)
        sites = self._passes.shapes.sites(where)
        if not len(sites):
            return torch.zeros(0, self._vocab_size, dtype=torch.float32, device=where.device)
        rows = self._on_demand(self.evaluate(where), sites)
        logits = rows.fetch(torch.arange(rows.count, device=where.device))
        return ops.filtered_log_law(logits, self._own_law)

    def log_probs(self, where: Tensor) -> Tensor:
        """Return the model's log-probabilities at the positions of `where`, [R, V], row-major."""
        self._passes.shapes.check_free(_CHANGING)
        sites = self._passes.shapes.sites(where)
        if not len(sites):
            return torch.zeros(0, self._vocab_size, dtype=torch.float32, device=where.device)
        source, index = self._read(self.evaluate(where), sites)
        return ops.log_probs(source, law=self._own_law, rows=index)

    def log_prob_of(self, tokens: Tensor, where: Tensor, *, tempered: bool = False) -> Tensor:
        """Return the log-probability of given tokens; see `types.Prediction.log_prob_of`."""
        sites = self._passes.shapes.sites(where)
        if not len(sites):
            return torch.zeros(where.shape, dtype=torch.float32, device=where.device)
        law, ids = self._law if tempered else self._own_law, sites.read(tokens)
        logits, adjust = self.evaluate(where), self.adjust(sites, law)
        if torch.is_grad_enabled():
            rows = self._on_demand(logits, sites)
            found = ops.differentiable_log_prob_of(rows, ids, law=law, adjust=adjust)
            return sites.spread(found)
        source, index = self._read(logits, sites)
        return sites.spread(ops.log_prob_of(source, ids, law=law, rows=index, adjust=adjust))

    def entropy_of(self, where: Tensor, *, tempered: bool = False) -> Tensor:
        """Return the entropy of the model's law, or of the run's, at `where`, [A, L], else 0."""
        sites = self._passes.shapes.sites(where)
        if not len(sites):
            return torch.zeros(where.shape, dtype=torch.float32, device=where.device)
        law = self._law if tempered else self._own_law
        rows, adjust = self._on_demand(self.evaluate(where), sites), self.adjust(sites, law)
        return sites.spread(ops.differentiable_entropy(rows, law=law, adjust=adjust))

    @property
    def _vocab_size(self) -> int:
        return self._passes.model.denoiser.vocab_size

    @property
    def _own_law(self) -> TokenLaw:
        return self._passes.model.own_law

    def _read(
        self, logits: PassLogits, sites: Sites
    ) -> tuple[ops.Source | ops.Pair, Tensor | None]:
        """Return the logits of the positions, and their row index; without a copy if possible."""
        if self._temperature is not None or self._tilt is not None:
            return self._on_demand(logits, sites), None
        return logits.source(), sites.present(logits.index(sites))

    def _on_demand(self, logits: PassLogits, sites: Sites) -> ops.LogitRows:
        """Return the logits of the positions, in their order, computed a few rows at a time."""
        every = on_demand(logits.source())
        index, tilt = logits.index(sites), self._tilt
        each = None if self._temperature is None else self._temperature[sites.row].unsqueeze(1)

        def fetch(i: Tensor) -> Tensor:
            values = every.fetch(index[i])
            if tilt is not None:
                values = tilted_logits(values, tilt[sites.row[i], sites.column[i]])
            if each is None:
                return values
            exact = torch.promote_types(values.dtype, torch.float32)
            return values.to(exact) / each[i].to(exact)

        return replace(every, fetch=fetch, count=len(index))
