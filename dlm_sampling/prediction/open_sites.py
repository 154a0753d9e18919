"""Read the laws of the unknown positions of a constrained canvas, a few positions at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.constraints.automaton import TokenAutomaton
from dlm_sampling.constraints.messages import Masses, class_masses
from dlm_sampling.prediction.logits import head_block
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.types import TokenLaw

Laws = Callable[[Tensor], Tensor]
"""Makes log-probabilities [r, V] of some of the positions, int64 [r]."""


@dataclass(frozen=True)
class OpenSites:
    """Hold the R positions that have a law, their logits, and the rest of the canvas.

    Fields:
        sites: the positions.
        logits: of the positions in their order, on demand.
        known: the masses of the canvas without any law.
        adjust: returns how a law changes the logits of the positions first, or None.
    """

    sites: Sites
    logits: ops.LogitRows
    known: Masses
    adjust: Callable[[TokenLaw], ops.Adjust | None]

    def law(self, law: TokenLaw) -> Laws:
        """Return log-probabilities under a token law, on demand."""
        adjust = self.adjust(law)

        def found(i: Tensor) -> Tensor:
            def adjusted(logits: Tensor, draws: Tensor) -> Tensor:
                return logits if adjust is None else adjust(logits, i[draws])

            return ops.log_probs(
                self.logits.fetch(i), law=law, adjust=None if adjust is None else adjusted
            )

        return found

    def parts(self) -> tuple[Tensor, ...]:
        """Return the positions, int64 [r] each, as many at a time as memory has room for."""
        every = torch.arange(len(self.sites), device=self.sites.row.device)
        return torch.split(every, head_block(every.device, self.logits.vocab_size))

    def masses(self, laws: Laws, automaton: TokenAutomaton, best: Tensor | None = None) -> Masses:
        """Return the masses of the canvas with a law; in rows of `best` that of the best token."""
        row = self.sites.row
        parts = [
            class_masses(laws(i), automaton, None if best is None else best[row[i]])
            for i in self.parts()
        ]
        return self.known.with_law(row, self.sites.column, torch.cat(parts))

    def log_prob_of(self, laws: Laws, tokens: Tensor) -> Tensor:
        """Return the entries of tables at tokens int64 [R], float64 [R]."""
        return torch.cat([laws(i).gather(1, tokens[i, None])[:, 0].double() for i in self.parts()])

    def statistics(self, laws: Laws, factors: Laws, tokens: Tensor) -> list[Tensor]:
        """Return the last five fields of `DrawRecord` for the laws times their factors, [R]."""
        parts = [_statistics(laws(i).double() + factors(i), tokens[i]) for i in self.parts()]
        return [torch.cat(field) for field in zip(*parts, strict=True)]


def _statistics(law: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    """Return confidence, maximum, margin, entropy and normaliser of log-laws [r, V]."""
    total = law.logsumexp(1)
    law = law - total.unsqueeze(1)
    top = law.topk(min(2, law.shape[1]), 1).values.exp()
    margin = top[:, 0] - top[:, 1] if top.shape[1] == 2 else top[:, 0]
    entropy = -(law.exp() * law.clamp(min=-1e9)).sum(1)  # 0 log 0 = 0
    return law.gather(1, tokens[:, None])[:, 0], law.amax(1), margin, entropy, total


@dataclass(frozen=True)
class Conditioned:
    """Hold a law of R positions that is conditioned on a constraint.

    Fields:
        sites: the positions.
        masses: of the canvas.
        beta: `masses.backward()`.
        laws: the law without the constraint, that is drawn from.
    """

    sites: Sites
    masses: Masses
    beta: Tensor
    laws: Laws

    @property
    def tables(self) -> tuple[Laws, Laws]:
        """Return the log factors of tokens, and the law that they are factors of."""
        by_class = self.sites.read(self.masses.class_factors(self.beta))
        classes = self.masses.automaton.classes

        def factors(i: Tensor) -> Tensor:
            return by_class[i][:, classes]

        return factors, self.laws
