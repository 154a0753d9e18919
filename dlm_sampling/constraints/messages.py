"""Condition a law of independent positions on an automaton: exact messages along the canvas.

    w_i(c)      mass of class c at position i: of the law at an unknown position, 1 at the class of
                a known token
    beta_i(s) = sum_c w_i(c) beta_{i+1}(s . c),     beta_L(s) = 1[s accepts]
    f_{i+1}(t) = sum_{s . c = t} f_i(s) w_i(c),     f_0(s) = 1[s = 0]
    P(class at i is c) = sum_s f_i(s) w_i(c) beta_{i+1}(s . c) / beta_0(0)

All in logarithms and float64.  A position that is unknown and has no law yet, as in a later block,
is *free*: its message is whether the rest can be completed, 1 or 0.  Positions that are no part of
the text leave the state as it is.

The forward-backward recursion of hidden Markov models, Rabiner 1989; for masked diffusion with an
automaton, DINGO (Suresh et al. 2025, arXiv:2505.23061) takes the most probable path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.constraints.automaton import TokenAutomaton


@dataclass(frozen=True)
class Masses:
    """Hold what the messages read of A canvases.

    Fields:
        automaton: on the same device.
        log: float64 [A, L, C + 1], log mass of each class.
        text: bool [A, L], positions that belong to the text.
        free: bool [A, L], unknown positions without a law.
    """

    automaton: TokenAutomaton
    log: Tensor
    text: Tensor
    free: Tensor

    @classmethod
    def known(
        cls, automaton: TokenAutomaton, tokens: Tensor, text: Tensor, unknown: Tensor
    ) -> Masses:
        """Return the masses of canvases in which every unknown position is free.

        Args:
            automaton: the automaton.
            tokens: int64 [A, L].
            text: bool [A, L].
            unknown: bool [A, L].
        """
        classes = automaton.classes[tokens]
        log = torch.full(
            (*tokens.shape, automaton.count + 1), -math.inf, dtype=torch.float64,
            device=tokens.device,
        )  # fmt: skip
        log.scatter_(2, classes.unsqueeze(2), 0.0)
        free = unknown & text
        log[free] = 0.0
        log[..., -1] = -math.inf
        return cls(automaton, log, text, free)

    def with_law(self, rows: Tensor, columns: Tensor, mass: Tensor) -> Masses:
        """Return the masses with laws at R positions: int64 [R] twice, float64 [R, C + 1]."""
        log, free = self.log.clone(), self.free.clone()
        log[rows, columns], free[rows, columns] = mass, False
        log[..., -1] = -math.inf
        return Masses(self.automaton, log, self.text, free)

    def backward(self, *, best: Tensor | None = None) -> Tensor:
        """Return beta, float64 [A, L + 1, S].

        Args:
            best: bool [A], rows whose messages are of the best completion, not of the sum; None
                for no row.
        """
        a, (rows, length) = self.automaton, self.text.shape
        beta = self.log.new_full((rows, length + 1, a.states), -math.inf)
        beta[:, length, a.accept] = 0.0
        largest = self.free if best is None else self.free | best.unsqueeze(1)
        for i in reversed(range(length)):
            terms = self.log[:, i, a.label] + beta[:, i + 1, a.target]
            beta[:, i] = torch.where(
                self.text[:, i, None],
                gathered(terms, a.source, a.states, largest[:, i]),
                beta[:, i + 1],
            )
        return beta

    def forward(self) -> Tensor:
        """Return f, float64 [A, L + 1, S]; free positions count each completion's classes once."""
        a, (rows, length) = self.automaton, self.text.shape
        f = self.log.new_full((rows, length + 1, a.states), -math.inf)
        f[:, 0, 0] = 0.0
        for i in range(length):
            terms = f[:, i, a.source] + self.log[:, i, a.label]
            f[:, i + 1] = torch.where(
                self.text[:, i, None],
                gathered(terms, a.target, a.states, self.free[:, i]),
                f[:, i],
            )
        return f

    def class_factors(self, beta: Tensor) -> Tensor:
        """Return log P(class c at i) / w_i(c), float64 [A, L, C + 1]; -inf where no edge leads.

        A token's law at a position is that of the model times the factor of its class.
        """
        a, (rows, length) = self.automaton, self.text.shape
        f, total = self.forward(), beta[:, 0, :1]
        out = self.log.new_full((rows, length, a.count + 1), -math.inf)
        for i in range(length):
            terms = f[:, i, a.source] + beta[:, i + 1, a.target] - total
            out[:, i, :-1] = gathered(terms, a.label, a.count, self.free[:, i])
        return out

    def classes(self, beta: Tensor, uniform: Tensor, best: Tensor) -> Tensor:
        """Draw a path, and return the class of each position, int64 [A, L]; C outside of the text.

        Args:
            beta: of `backward(best=best)`.
            uniform: float64 [A, L], in (0, 1).
            best: bool [A], rows that take the best path; the lowest class wins ties.
        """
        a, (rows, length) = self.automaton, self.text.shape
        state = torch.zeros(rows, dtype=torch.int64, device=uniform.device)
        row = torch.arange(rows, device=uniform.device)
        found = torch.full((rows, length), a.count, device=uniform.device)
        edges = len(a.label)
        label = torch.cat((a.label, a.label.new_tensor([a.count])))
        target = torch.cat((a.target, a.target.new_zeros(1)))
        for i in range(length):
            out = a.leaving[state]
            weight = self.log[row[:, None], i, label[out]] + beta[row[:, None], i + 1, target[out]]
            weight = weight.masked_fill(out == edges, -math.inf)
            weight = (weight - weight.amax(1, keepdim=True)).exp()
            share = weight.cumsum(1)
            drawn = (share <= uniform[:, i, None] * share[:, -1:]).sum(1)
            place = torch.where(best | self.free[:, i], weight.argmax(1), drawn)
            edge = out.gather(1, place.clamp(max=out.shape[1] - 1)[:, None])[:, 0]
            inside = self.text[:, i]
            found[:, i] = torch.where(inside, label[edge], a.count)
            state = torch.where(inside, target[edge], state)
        return found

    def chain(self, beta: Tensor, chosen: Tensor, logp: Tensor, tokens: Tensor) -> Tensor:
        """Return the log-probability of each chosen token given the chosen ones before it, [A, L].

        Their sum is the log-probability of all chosen tokens of a row under the constrained law, in
        which the other unknown positions are summed over.

        Args:
            beta: of `backward()`.
            chosen: bool [A, L], positions with a law.
            logp: float64 [A, L], log-probability of the chosen tokens under the law of their
                position alone.
            tokens: int64 [A, L], the chosen tokens.
        """
        a, (rows, length) = self.automaton, self.text.shape
        f = self.log.new_full((rows, a.states), -math.inf)
        f[:, 0] = 0.0
        total = beta[:, 0, 0]
        out = self.log.new_zeros(rows, length)
        classes = a.classes[tokens]
        for i in range(length):
            here = chosen[:, i, None] & (a.label != classes[:, i, None])
            mass = torch.where(chosen[:, i, None], logp[:, i, None], self.log[:, i, a.label])
            terms = (f[:, a.source] + mass).masked_fill(here, -math.inf)
            after = gathered(terms, a.target, a.states, self.free[:, i])
            f = torch.where(self.text[:, i, None], after, f)
            so_far = (f + beta[:, i + 1]).logsumexp(1)
            out[:, i] = torch.where(chosen[:, i], so_far - total, 0.0)
            total = so_far
        return out


def gathered(terms: Tensor, index: Tensor, size: int, largest: Tensor) -> Tensor:
    """Return the logsumexp of the terms of each index, or their maximum in some rows.

    Args:
        terms: float64 [A, E].
        index: int64 [E], in [0, size).
        size: n.
        largest: bool [A], rows that take the maximum.

    Returns:
        float64 [A, n]; -inf where an index has no term.
    """
    every = index.expand_as(terms)
    peak = terms.new_full((len(terms), size), -math.inf)
    peak = peak.scatter_reduce(1, every, terms, "amax")
    if bool(largest.all()):
        return peak
    level = peak.masked_fill(peak == -math.inf, 0.0)
    weight = (terms - level.gather(1, every)).exp()
    total = torch.zeros_like(peak).index_add(1, index, weight)
    return torch.where(largest[:, None], peak, total.log() + level)


def class_masses(law: Tensor, automaton: TokenAutomaton, best: Tensor | None = None) -> Tensor:
    """Return the log mass of each class, float64 [R, C + 1], of log-probabilities [R, V].

    In rows of `best` (bool [R]), the largest log-probability of its tokens.
    """
    largest = torch.zeros_like(law[:, 0], dtype=torch.bool) if best is None else best
    return gathered(law.double(), automaton.classes, automaton.count + 1, largest)
