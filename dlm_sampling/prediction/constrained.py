"""Draw tokens under a constraint: a whole canvas that satisfies it, of which a step keeps a part.

The law of a step is that of independent positions, each with the run's temperature and filters,
conditioned on the automaton, at all unknown positions of the block at once.  One path of classes is
drawn through the automaton, then a token of its class at each position.  Whatever part of the
drawn canvas a step keeps, the rest of it shows that the canvas can be completed: there is no dead
end.  Positions of later blocks, whose law is not asked for yet, count as free.

At temperature 0 it is the most probable canvas.  Where no text that passes the filters satisfies
the constraint, the row is drawn without filters in that step.  Probabilities below exp(-1e5) count
as that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.constraints.automaton import TokenAutomaton
from dlm_sampling.constraints.messages import Masses
from dlm_sampling.ops.philox import Stream
from dlm_sampling.prediction.lazy import LazyPrediction, Passes
from dlm_sampling.prediction.open_sites import Conditioned, OpenSites
from dlm_sampling.types import (
    Canvas,
    Draw,
    DrawRecord,
    PredictionKind,
    RandomSource,
    Site,
    Statistics,
    Step,
    TokenLaw,
    TwoLogits,
)

LEAST = -1e5  # a log-probability below counts as this, so that a law always exists


@dataclass(frozen=True)
class Witness:
    """Hold the latest draw of a step.

    Fields:
        masses: laws and known tokens of the canvas.
        beta: its messages, `masses.backward()`.
        tokens: int64 [A, L], the canvas that was drawn.
        logp: float64 [A, L], log-probability of each drawn token by the law of its position alone.
        where: bool [A, L], positions that were drawn for the sampler.
        best: bool [A], rows that took the most probable canvas.
    """

    masses: Masses
    beta: Tensor
    tokens: Tensor
    logp: Tensor
    where: Tensor
    best: Tensor


@dataclass
class Constrained:
    """Hold the constraint of the A active rows during a step.

    Fields:
        automaton: on the device of the canvas.
        text: bool [A, L], positions that belong to the constrained text.
        tokens: int64 [A, L], the canvas.
        unknown: bool [A, L], its unknown positions.
        block: bool [A, L], positions that may be written in this block.
        mask: the mask id.
        sampler: name of the sampler, for messages.
        draws: the draws of the step so far.
    """

    automaton: TokenAutomaton
    text: Tensor
    tokens: Tensor
    unknown: Tensor
    block: Tensor
    mask: int
    sampler: str
    draws: tuple[Witness, ...] = ()

    def unknown_of(self, x: Tensor) -> Tensor:
        """Return the unknown positions of canvases that a sampler made of that of the step."""
        same = x == self.tokens
        return torch.where(same, self.unknown, x == self.mask)

    def refusal(self, what: str) -> ValueError:
        """Return the error for a sampler whose draws cannot be constrained."""
        return ValueError(
            f"constraint: {self.sampler} {what}, so its tokens cannot be constrained. Use a "
            "sampler that draws unknown tokens from the model's law, such as llada, ancestral or "
            "fast-dllm."
        )

    def settled(self, step: Step, canvas: Canvas) -> Step:
        """Return the step with exact log-probabilities, and check that it can be completed.

        Raises:
            ValueError: the sampler put tokens together that no completion satisfies.
        """
        tokens = torch.where(canvas.editable, step.tokens, canvas.tokens)
        unknown = torch.where(canvas.editable, step.unknown, canvas.unknown)
        left = (tokens != canvas.tokens) | canvas.unknown
        left = left & ~unknown
        logprob, proven = step.logprob.double(), False
        for draw in reversed(self.draws):
            written = left & draw.where & (tokens == draw.tokens)
            left = left & ~written
            # Parts of one draw can be completed by the rest of it; anything else may not.
            proven = proven or not bool(left.any())
            written = written & ~draw.best.unsqueeze(1)
            if bool(written.any()):
                chain = draw.masses.chain(draw.beta, written, draw.logp, tokens)
                logprob = torch.where(written, chain, logprob)
        if not proven or len(self.draws) > 1:
            beta = Masses.known(self.automaton, tokens, self.text, unknown).backward()
            if bool((beta[:, 0, 0] == -math.inf).any()):
                raise self.refusal("joins tokens of several draws, or changes written ones")
        return step._replace(logprob=logprob.to(step.logprob.dtype))

    def after(self, tokens: Tensor, unknown: Tensor) -> Constrained:
        """Return the constraint of the canvas that a step left, before its next draw."""
        return replace(self, tokens=tokens, unknown=unknown, draws=())


class ConstrainedPrediction(LazyPrediction):
    """Predict lazily, and draw under a constraint.

    Args:
        passes: runs the denoiser.
        constraint: of the step; it remembers the latest draw.
        x: int64 [A, L], the canvases.
        t: float64 [A], the sampler's times.
        temperature: see `LazyPrediction`.
        dt: see `LazyPrediction`.
    """

    def __init__(
        self,
        passes: Passes,
        constraint: Constrained,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> None:
        super().__init__(passes, x, t, temperature, dt)
        self.constraint = constraint

    @property
    def direct(self) -> bool:
        """Return False, so that samplers read laws as tables."""
        return False

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
        """Draw at `where`; see `types.Prediction.draw`.

        At positions that hold a token the draw is that without a constraint: for rules that compare
        it with the token, and keep that or mask it again.

        Raises:
            ValueError: `exclude` is given.
        """
        if exclude is not None:
            raise self.constraint.refusal("leaves a token out of each draw")
        held = where & ~self._open(where)
        if not bool(held.any()):
            return self._constrained(where, rng, statistics, greedy, sub, aside, None)
        drawn = super().draw(held, rng, statistics=statistics, greedy=greedy, sub=sub, aside=aside)
        rest = self._constrained(where & ~held, rng, statistics, greedy, sub, aside, None)
        pairs = zip(DrawRecord.of(drawn), DrawRecord.of(rest), strict=True)
        return DrawRecord(*(torch.where(held, one, other) for one, other in pairs))

    def draw_from(
        self,
        logits: Tensor | TwoLogits,
        where: Tensor,
        rng: RandomSource,
        *,
        statistics: Statistics = "model",
        sub: int = 0,
    ) -> Draw:
        """Draw from given logits; unknown positions elsewhere have the model's law."""
        table = logits if isinstance(logits, Tensor) else cast("ops.Pair", logits).logits()
        return self._constrained(where, rng, statistics, None, sub, False, table)

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
        """Draw as `draw` does if the rule gives the prediction back; see `types.Prediction`.

        Raises:
            ValueError: the rule makes another law.
        """
        if not own_law:
            raise self.constraint.refusal("draws from laws of its own")
        return self.draw(where, rng, greedy=greedy, sub=sub)

    def draw_table(
        self,
        law: Tensor,
        where: Tensor,
        rng: RandomSource,
        *,
        greedy: Tensor | None = None,
        sub: int = 0,
    ) -> Draw:
        """Refuse: the table says nothing of the other positions.

        Raises:
            ValueError: always.
        """
        raise self.constraint.refusal("draws from laws of its own")

    def log_probs(self, where: Tensor) -> Tensor:
        """Return the log-probabilities of the constrained law of each position alone, [R, V]."""
        if bool((where & ~self._open(where)).any()) or not bool(where.any()):
            return super().log_probs(where)
        table = self._sites_of(where, None)
        factors, laws = self._condition(table, self._own_law).tables
        chosen = where[table.sites.row, table.sites.column].nonzero().squeeze(1)
        law = laws(chosen) + factors(chosen)
        return law - law.logsumexp(1, keepdim=True)

    def _open(self, where: Tensor) -> Tensor:
        """Return the unknown positions of the block, in rows with a position in `where`."""
        found = self.constraint.unknown_of(self._x) & self.constraint.block
        return found & where.any(1, keepdim=True)

    def _constrained(
        self,
        where: Tensor,
        rng: RandomSource,
        statistics: Statistics,
        greedy: Tensor | None,
        sub: int,
        aside: bool,
        given: Tensor | None,
    ) -> Draw:
        """Draw at `where` under the constraint; `given` logits [R, V] replace the model's."""
        if bool((where & ~self._open(where)).any()):
            raise self.constraint.refusal("draws anew where tokens are written")
        if not bool(where.any()):
            return super().draw(where, rng)
        if self._passes.ledger is not None and not aside:
            self._passes.ledger.note(self._x, where, greedy, own_law=False)
        best = torch.full_like(where[:, 0], self._law.temperature == 0.0)
        best = best if greedy is None else best | greedy
        table = self._sites_of(where, given)
        found = self._condition(table, _warm(self._law))
        factors, laws = found.tables
        token = self._path(table, found, best, rng, sub)
        alone, row = table.log_prob_of(laws, token), table.sites.row
        if not aside:
            drawn = table.sites.spread(token), table.sites.spread(alone)
            witness = Witness(found.masses, found.beta, *drawn, where, best)
            self.constraint.draws = (*self.constraint.draws, witness)
        logprob = (alone + table.log_prob_of(factors, token)).clamp(max=0.0)
        logprob = logprob.masked_fill(best[row], 0.0)
        shown = _warm(self._law) if statistics == "law" else self._own_law
        if shown != _warm(self._law):
            factors, laws = self._condition(table, shown).tables
        record = DrawRecord(token, logprob, *table.statistics(laws, factors, token))
        return DrawRecord(*(table.sites.spread(part) * where for part in record))

    def _path(
        self,
        table: OpenSites,
        found: Conditioned,
        best: Tensor,
        rng: RandomSource,
        sub: int,
    ) -> Tensor:
        """Draw a canvas that satisfies the constraint, and return its tokens, int64 [R].

        Rows of `best` (bool [A]) take the most probable one.
        """
        automaton, sites = self.constraint.automaton, table.sites
        masses, beta, laws = found.masses, found.beta, found.laws
        if bool(best.any()):
            masses = table.masses(laws, automaton, best)
            beta = masses.backward(best=best)
        classes = masses.classes(beta, rng.uniform(Stream.PATH, self._x, sub), best)
        wanted = sites.read(classes).unsqueeze(1)

        def inside(i: Tensor) -> Tensor:
            return laws(i).masked_fill(automaton.classes != wanted[i], -math.inf)

        keys, positions, steps = rng.at(sites.row, sites.column)
        rows = replace(table.logits, fetch=inside)
        degrees = (~best).double()[sites.row]
        return ops.draw(
            rows, keys=keys, positions=positions, steps=steps, sub=sub, temperatures=degrees
        ).token

    def _sites_of(self, where: Tensor, given: Tensor | None) -> OpenSites:
        """Return the logits of the unknown positions of the block, in the rows of `where`."""
        open_, unknown = self._open(where), self.constraint.unknown_of(self._x)
        constraint, sites = self.constraint, self._passes.shapes.sites(open_)
        logits = self._on_demand(self.evaluate(open_), sites)
        if given is not None:
            # Position i of the open ones is row place[i] of the given logits, if it has one.
            inside = sites.read(where)
            place, every = inside.long().cumsum(0) - 1, logits.fetch

            def fetch(i: Tensor) -> Tensor:
                return torch.where(inside[i].unsqueeze(1), given[place[i].clamp(min=0)], every(i))

            logits = replace(logits, fetch=fetch, dtype=None)
        known = Masses.known(constraint.automaton, self._x, constraint.text, unknown)
        return OpenSites(sites, logits, known, partial(self.adjust, sites))

    def _condition(self, table: OpenSites, law: TokenLaw) -> Conditioned:
        """Condition a law on the constraint.

        Rows in which no filtered text satisfies the constraint have the law without filters.
        """
        automaton, row = self.constraint.automaton, table.sites.row
        laws = table.law(law)
        masses = table.masses(laws, automaton)
        beta = masses.backward()
        lawless = beta[:, 0, 0] == -math.inf
        if bool(lawless.any()):
            filtered, plain = laws, table.law(replace(law, **_NO_FILTER))
            allowed = automaton.classes < automaton.count

            def unfiltered(i: Tensor) -> Tensor:
                whole = plain(i).clamp(min=LEAST).masked_fill(~allowed, -math.inf)
                return torch.where(lawless[row[i]].unsqueeze(1), whole, filtered(i))

            laws = unfiltered
            masses = table.masses(laws, automaton)
            beta = masses.backward()
        return Conditioned(table.sites, masses, beta, laws)


_NO_FILTER: Mapping[str, None] = dict.fromkeys(
    ("top_k", "top_p", "min_p", "typical_p", "eta_cutoff", "top_n_sigma")
)


def _warm(law: TokenLaw) -> TokenLaw:
    """Return the law whose most probable canvas is taken at temperature 0: that at 1."""
    return law if law.temperature else replace(law, temperature=1.0)
