"""A prediction that is made when it is first read: draws, log-probabilities and tables of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.processes.tables import clean_table
from dlm_sampling.types import Draw, PredictionKind, RandomSource, Site, Statistics, TokenLaw

if TYPE_CHECKING:
    from dlm_sampling.predictor import Predictor

_DRAW_FIELDS = len(Draw._fields)
_BLOCK_ELEMENTS = 2**22  # logits that exist at a time when they are computed on demand


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
        if len(missing) == 0:
            return
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
        law = self._predictor.law
        if exclude is not None:
            return self._draw(where, rng, law, statistics, sub, self._without(exclude, where))
        if greedy is None or law.temperature == 0.0:
            return self._draw(where, rng, law, statistics, sub)
        sampled = self._draw(where & ~greedy.unsqueeze(1), rng, law, statistics, sub)
        taken = where & greedy.unsqueeze(1)
        best = self._draw(taken, rng, replace(law, temperature=0.0), statistics, sub)
        return Draw(*(torch.where(taken, b, s) for b, s in zip(best, sampled, strict=True)))

    @property
    def direct(self) -> bool:
        """See `types.Prediction.direct`."""
        law = self._predictor.law
        return self.kind != "log_score" and not law.filters and law.temperature > 0.0

    def _without(self, exclude: Tensor, where: Tensor) -> ops.LogitRows:
        """The logits of the asked positions, -inf at one token of each."""
        if not bool(where.any()):
            return self._logits(where)
        logits, out = self._logits(where), exclude[where].unsqueeze(1)

        def rest(i: Tensor) -> Tensor:
            return logits.fetch(i).scatter(1, out[i], -torch.inf)

        return replace(logits, fetch=rest)

    def draw_from(
        self,
        logits: Tensor,
        where: Tensor,
        rng: RandomSource,
        *,
        statistics: Statistics = "model",
        sub: int = 0,
    ) -> Draw:
        """Draw as `draw` does from other logits; see `types.Prediction.draw_from`."""
        return self._draw(where, rng, self._predictor.law, statistics, sub, logits)

    def _draw(
        self,
        where: Tensor,
        rng: RandomSource,
        law: TokenLaw,
        statistics: Statistics,
        sub: int,
        logits: ops.Source | None = None,
    ) -> Draw:
        if not bool(where.any()):
            return _empty(where)
        keys, positions, steps = rng.at(where)
        flat = ops.draw(
            self._logits(where) if logits is None else logits,
            keys=keys,
            positions=positions,
            steps=steps,
            law=law,
            statistics=statistics,
            sub=sub,
        )
        return Draw(*(value.new_zeros(where.shape).masked_scatter_(where, value) for value in flat))

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
        return self._draw_laws(
            lambda chosen: self._site_rows(chosen, alpha, reads, rule), where, rng, greedy, sub
        )

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
        logits = law.log()
        return self._draw_laws(lambda chosen: logits[chosen[where]], where, rng, greedy, sub)

    def _draw_laws(
        self,
        source: Callable[[Tensor], ops.Source],
        where: Tensor,
        rng: RandomSource,
        greedy: Tensor | None,
        sub: int,
    ) -> Draw:
        """Draw from logits of finished laws; `source` gives those of some of the positions."""
        taken = torch.zeros_like(where) if greedy is None else where & greedy.unsqueeze(1)
        parts = [
            self._draw(chosen, rng, TokenLaw(temperature=heat), "model", sub, source(chosen))
            for chosen, heat in ((where & ~taken, 1.0), (taken, 0.0))
            if bool(chosen.any())
        ]
        if len(parts) == 2:
            return Draw(*(torch.where(taken, b, s) for s, b in zip(*parts, strict=True)))
        return parts[0] if parts else _empty(where)

    def table(self, where: Tensor, *, alpha: Tensor, reads: PredictionKind) -> Tensor:
        """The prediction in the kind asked for; see `types.Prediction.table`."""
        if not bool(where.any()):
            return torch.zeros(0, self._vocab_size, dtype=torch.float64, device=where.device)
        rows = self._site_rows(where, alpha, reads, lambda site: site.p)
        every = torch.arange(rows.count, device=where.device)
        parts = [rows.fetch(part).exp() for part in torch.split(every, rows.block)]
        return torch.cat(parts)

    def _site_rows(
        self,
        where: Tensor,
        alpha: Tensor,
        reads: PredictionKind,
        rule: Callable[[Site], Tensor],
    ) -> ops.LogitRows:
        """Logarithms of what a rule makes of the prediction, block by block."""
        logits, predictor = self._logits(where), self._predictor
        (row, column), x = where.nonzero(as_tuple=True), self._x[where]

        def fetch(i: Tensor) -> Tensor:
            p = clean_table(
                logits.fetch(i), x[i], alpha[row[i]],
                law=predictor.law, process=predictor.process, source=self.kind, target=reads,
            )  # fmt: skip
            return rule(Site(x[i], row[i], p, column[i])).log()

        return replace(logits, fetch=fetch)

    def log_probs(self, where: Tensor) -> Tensor:
        """Model's log-law at the positions of `where`, [R, V] in row-major order."""
        return ops.log_probs(self._logits(where), law=self._own_law)

    def log_prob_of(self, tokens: Tensor, where: Tensor, *, tempered: bool = False) -> Tensor:
        """Log-probability of tokens; see `types.Prediction.log_prob_of`."""
        if not bool(where.any()):
            return torch.zeros(where.shape, device=where.device)
        law = self._predictor.law if tempered else self._own_law
        value = ops.log_prob_of(self._logits(where), tokens[where], law=law)
        return value.new_zeros(where.shape).masked_scatter(where, value)

    @property
    def _vocab_size(self) -> int:
        return self._predictor.denoiser.vocab_size

    @property
    def _own_law(self) -> TokenLaw:
        return TokenLaw(suppressed=self._predictor.law.suppressed)

    def _logits(self, where: Tensor) -> ops.LogitRows:
        """The logits of the asked positions as a source that is read block by block."""
        logits, temperature = self._untempered(where), self._temperature
        if temperature is None:
            return logits
        heat = temperature[where.nonzero(as_tuple=True)[0]].unsqueeze(1)

        def divided(i: Tensor) -> Tensor:
            values = logits.fetch(i)
            exact = torch.promote_types(values.dtype, torch.float32)
            return values.to(exact) / heat[i].to(exact)

        return replace(logits, fetch=divided)

    def _untempered(self, where: Tensor) -> ops.LogitRows:
        self.evaluate(where.any(1))
        row, column = where.nonzero(as_tuple=True)
        index = self._slot[row] * where.shape[1] + column
        vocab_size = self._vocab_size
        block = max(64, min(8192, _BLOCK_ELEMENTS // vocab_size))
        if len(self._values) == 1:
            return ops.LogitRows(
                lambda i: self._fetch(0, index[i]), len(index), vocab_size, index.device, block
            )
        scale = self._predictor.guidance_scale

        def guided(i: Tensor) -> Tensor:
            c, u = self._fetch(0, index[i]), self._fetch(1, index[i])
            return u + (scale + 1.0) * (c - u)

        return ops.LogitRows(guided, len(index), vocab_size, index.device, block)

    def _fetch(self, part: int, index: Tensor) -> Tensor:
        """Logits [r, V] of flat positions, through the head if there is one."""
        values, head = self._values[part], self._heads[part]
        rows = values.reshape(-1, values.shape[-1])[index]
        return rows if head is None else head(rows)


def _empty(where: Tensor) -> Draw:
    zeros = torch.zeros(where.shape, device=where.device)
    return Draw(torch.zeros_like(where, dtype=torch.int64), *([zeros] * (_DRAW_FIELDS - 1)))
