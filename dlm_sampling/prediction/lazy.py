"""A prediction that is made when it is first read: draws, log-probabilities and tables of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.prediction.logits import Read, headed, on_demand
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.processes.tables import clean_table
from dlm_sampling.types import (
    Draw,
    PredictionKind,
    RandomSource,
    Site,
    Statistics,
    TokenLaw,
    TwoLogits,
)

if TYPE_CHECKING:
    from dlm_sampling.prediction.predictor import Predictor

_DRAW_FIELDS = len(Draw._fields)


class LazyPrediction:
    """The law of the clean tokens at every position of one canvas, evaluated on demand."""

    def __init__(
        self,
        predictor: Predictor,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> None:
        self._predictor, self._x, self._t = predictor, x, t
        self._temperature, self._dt = temperature, dt
        self._slot = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self._values: list[Tensor] = []  # conditional, then unconditional; [n, L, *]
        self._heads: list[Callable[[Tensor], Tensor] | None] = []

    @property
    def kind(self) -> PredictionKind:
        """What the denoiser predicts."""
        return self._predictor.denoiser.kind

    def evaluate(self, needed: Tensor) -> None:
        """Run the forward pass for the rows of `needed` (bool [A]) that have not had it."""
        missing = (needed & (self._slot < 0)).nonzero().squeeze(1)
        if len(missing):
            self._pass(missing)

    def _pass(self, missing: Tensor) -> None:
        """The forward pass of some rows, int64 [n]."""
        passes = self._predictor.forward(self._x, self._t, missing, self._temperature, self._dt)
        outputs = [out for out in passes if out is not None]
        offset = len(self._values[0]) if self._values else 0
        self._slot[missing] = torch.arange(offset, offset + len(missing), device=missing.device)
        self._heads = [out.head for out in outputs]
        new = [out.values for out in outputs]
        self._values = (
            [torch.cat(pair) for pair in zip(self._values, new, strict=True)]
            if self._values
            else new
        )

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
        """Draw a token at each position of `where`; see `types.Prediction.draw`."""
        law, sites = self._predictor.law, self._sites(where)
        if not len(sites):
            return _empty(sites)
        if exclude is not None:
            return self._draw(self._without(exclude, sites), sites, rng, law, statistics, sub)
        temperatures = self._temperatures(greedy, sites, law.temperature)
        return self._draw(self._read(sites), sites, rng, law, statistics, sub, temperatures)

    def _temperatures(
        self, greedy: Tensor | None, sites: Sites, temperature: float
    ) -> Tensor | None:
        """A temperature per position where some rows take the argmax, float64 [R]."""
        if greedy is None or temperature == 0.0:
            return None
        everywhere = torch.full_like(greedy, temperature, dtype=torch.float64)
        return everywhere.masked_fill(greedy, 0.0)[sites.row]

    @property
    def direct(self) -> bool:
        """See `types.Prediction.direct`."""
        law = self._predictor.law
        return self.kind != "log_score" and not law.filters and law.temperature > 0.0

    def _without(self, exclude: Tensor, sites: Sites) -> Read:
        """The logits of the asked positions, -inf at one token of each."""
        logits, out = self._logits(sites), sites.read(exclude).unsqueeze(1)

        def rest(i: Tensor) -> Tensor:
            return logits.fetch(i).scatter(1, out[i], -torch.inf)

        return Read(replace(logits, fetch=rest))

    def draw_from(
        self,
        logits: Tensor | TwoLogits,
        where: Tensor,
        rng: RandomSource,
        *,
        statistics: Statistics = "model",
        sub: int = 0,
    ) -> Draw:
        """Draw as `draw` does from other logits; see `types.Prediction.draw_from`."""
        law, sites = self._predictor.law, self._sites(where)
        source = logits if isinstance(logits, Tensor) else cast("ops.Pair", logits)
        return self._draw(Read(source), sites, rng, law, statistics, sub)

    def _draw(
        self,
        read: Read,
        sites: Sites,
        rng: RandomSource,
        law: TokenLaw,
        statistics: Statistics,
        sub: int,
        temperatures: Tensor | None = None,
    ) -> Draw:
        if not len(sites):
            return _empty(sites)
        keys, positions, steps = rng.at(sites.row, sites.column)
        found = ops.draw(
            read.source,
            keys=keys,
            positions=positions,
            steps=steps,
            law=law,
            statistics=statistics,
            sub=sub,
            rows=read.rows,
            temperatures=temperatures,
        )
        return Draw(*(sites.spread(value) for value in found))

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
        """Draw from what a rule makes of the prediction; see `types.Prediction.draw_by`."""
        sites = self._sites(where)
        if not len(sites):
            return _empty(sites)
        return self._draw_law(self._made(sites, alpha, reads, rule), sites, rng, greedy, sub)

    def draw_table(
        self,
        law: Tensor,
        where: Tensor,
        rng: RandomSource,
        *,
        greedy: Tensor | None = None,
        sub: int = 0,
    ) -> Draw:
        """Draw from given laws; see `types.Prediction.draw_table`."""
        return self._draw_law(law.log(), self._sites(where), rng, greedy, sub)

    def _draw_law(
        self,
        logits: ops.Source,
        sites: Sites,
        rng: RandomSource,
        greedy: Tensor | None,
        sub: int,
    ) -> Draw:
        """Draw from finished laws, without the run's temperature and filters."""
        temperatures = self._temperatures(greedy, sites, 1.0)
        return self._draw(Read(logits), sites, rng, TokenLaw(), "model", sub, temperatures)

    def table(self, where: Tensor, *, alpha: Tensor, reads: PredictionKind) -> Tensor:
        """The prediction in the kind asked for; see `types.Prediction.table`."""
        sites = self._sites(where)
        if not len(sites):
            return torch.zeros(0, self._vocab_size, dtype=torch.float64, device=where.device)
        rows = self._made(sites, alpha, reads, lambda site: site.p)
        every = torch.arange(rows.count, device=where.device)
        parts = [rows.fetch(part).exp() for part in torch.split(every, rows.block)]
        return torch.cat(parts)

    def _made(
        self,
        sites: Sites,
        alpha: Tensor,
        reads: PredictionKind,
        rule: Callable[[Site], Tensor],
    ) -> ops.LogitRows:
        """Logarithms of what a rule makes of the prediction, block by block."""
        logits, predictor = self._logits(sites), self._predictor
        row, column, x = sites.row, sites.column, sites.read(self._x)

        def fetch(i: Tensor) -> Tensor:
            p = clean_table(
                logits.fetch(i), x[i], alpha[row[i]],
                law=predictor.law, process=predictor.process, source=self.kind, target=reads,
            )  # fmt: skip
            return rule(Site(x[i], row[i], p, column[i])).log()

        return replace(logits, fetch=fetch, dtype=torch.float64)

    def log_probs(self, where: Tensor) -> Tensor:
        """Model's log-law at the positions of `where`, [R, V] in row-major order."""
        sites = self._sites(where)
        if not len(sites):
            return torch.zeros(0, self._vocab_size, device=where.device)
        read = self._read(sites)
        return ops.log_probs(read.source, law=self._own_law, rows=read.rows)

    def log_prob_of(self, tokens: Tensor, where: Tensor, *, tempered: bool = False) -> Tensor:
        """Log-probability of tokens; see `types.Prediction.log_prob_of`."""
        sites = self._sites(where)
        if not len(sites):
            return torch.zeros(where.shape, device=where.device)
        law, ids = self._predictor.law if tempered else self._own_law, sites.read(tokens)
        if torch.is_grad_enabled():
            return sites.spread(ops.graded_log_prob_of(self._logits(sites), ids, law=law))
        read = self._read(sites)
        return sites.spread(ops.log_prob_of(read.source, ids, law=law, rows=read.rows))

    @property
    def _vocab_size(self) -> int:
        return self._predictor.denoiser.vocab_size

    @property
    def _own_law(self) -> TokenLaw:
        return TokenLaw(suppressed=self._predictor.law.suppressed)

    def _sites(self, where: Tensor) -> Sites:
        """The positions of `where` as a list."""
        return Sites.of(where)

    def _read(self, sites: Sites) -> Read:
        """The logits of the asked positions, from where they lie if nothing changes them."""
        if self._temperature is not None:
            return Read(self._logits(sites))
        index = self._index(sites)
        return Read(self._whole(), sites.present(index))

    def _logits(self, sites: Sites) -> ops.LogitRows:
        """The logits of the asked positions, made block by block and in that order."""
        index, whole = self._index(sites), self._whole()
        all_rows = on_demand(whole)
        temperatures = (
            None if self._temperature is None else self._temperature[sites.row].unsqueeze(1)
        )

        def fetch(i: Tensor) -> Tensor:
            values = all_rows.fetch(index[i])
            if temperatures is None:
                return values
            exact = torch.promote_types(values.dtype, torch.float32)
            return values.to(exact) / temperatures[i].to(exact)

        return replace(all_rows, fetch=fetch, count=len(index))

    def _index(self, sites: Sites) -> Tensor:
        """Rows of the flattened values, int64 [R]; runs the forward pass where there was none."""
        needed = torch.zeros_like(self._slot, dtype=torch.bool)
        self.evaluate(needed.index_fill(0, sites.row, True))
        return self._slot[sites.row] * sites.shape[1] + sites.column

    def _whole(self) -> ops.Source | ops.Pair:
        """The logits of all positions that were passed over, [n L, V], two of them if guided."""
        parts = [
            headed(values.flatten(0, 1), head, self._vocab_size)
            for values, head in zip(self._values, self._heads, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        weight, (c, u) = self._predictor.guidance_scale, parts
        if isinstance(c, Tensor) and isinstance(u, Tensor):
            return ops.Guided(c, u, weight)
        first, second = on_demand(c), on_demand(u)

        def guided(i: Tensor) -> Tensor:
            return ops.Guided(first.fetch(i), second.fetch(i), weight).logits()

        return replace(first, fetch=guided)


def _empty(sites: Sites) -> Draw:
    zeros = torch.zeros(sites.shape, device=sites.row.device)
    return Draw(torch.zeros_like(zeros, dtype=torch.int64), *([zeros] * (_DRAW_FIELDS - 1)))
