"""Unroll a context-free grammar into an automaton over bytes, to a depth of recursion.

The grammar is read by the library lark, in its notation.  A text is accepted by its letters alone,
as by lark's parser "earley" with its lexer "dynamic_complete": a terminal is an expression, not the
longest match, and ignored terminals may stand before every other and at the end.

The text is read by a pushdown automaton: nodes between the symbols of a rule, and a stack of nodes
to go on from.  Of every recursion one rule stays, the others stand where they are called.  A call
in the last place leaves nothing on the stack, and a rule that begins with itself is a loop (A: A x
| y is y x*), so lists of any length nest in nothing.  At most `depth` nodes wait on the stack.
That makes the automaton finite and its subsets deterministic, so that a law is conditioned exactly
for ambiguous grammars too.  Everything it accepts is of the grammar; what nests more deeply, it
does not accept.  With k kinds of brackets it has about k^depth states.

Loops for recursion in the first and last place: Nederhof 2000, "Practical Experiments with Regular
Approximation of Context-Free Languages".
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlm_sampling.constraints.dfa import MOST_STATES, Dfa, minimal
from dlm_sampling.constraints.expressions import BYTES, expression_dfa
from dlm_sampling.constraints.faults import grammar_fault

Stack = tuple[int, ...]
Reading = tuple[str, int, int, Stack]  # terminal, its state, the node after it, nodes to go on from

Symbol = tuple[str, bool]  # the name, and whether it is a terminal
Case = tuple[Symbol, ...]
Cases = dict[str, list[Case]]

_ACCEPT: Reading = ("", 0, 0, ())


def grammar_dfa(grammar: str, depth: int) -> Dfa:
    """Accept the texts, as UTF-8, that a grammar derives from `start` within a depth.

    Args:
        grammar: in the notation of lark.
        depth: parts that stand inside each other, such as brackets; at least 1.

    Raises:
        ImportError: lark is not installed, or outlines-core for a terminal that is an expression.
        ValueError: the grammar is malformed or too large at this depth, or derives no text.
    """
    if find_spec("lark") is None:
        raise ImportError(
            'constraint: grammars need the package lark: pip install "dlm-sampling[constraint]".'
        )
    lark: Any = import_module("lark")
    try:
        # This parser takes every context-free grammar, and prefers no reading of a text.
        read = lark.Lark(grammar, parser="earley", lexer="dynamic_complete")
    except Exception as error:  # an expression has the error of the package regex, or of re
        wrong = grammar_fault(error, grammar)
        if wrong is None:
            raise
        raise ValueError(f"constraint: {wrong}") from None
    if not read.terminals:
        raise ValueError("constraint: the grammar has no terminal, so every text is empty.")
    terminals = {terminal.name: _terminal_dfa(terminal) for terminal in read.terminals}
    cases: dict[str, list[Case]] = {}
    for rule in read.rules:
        case = tuple((symbol.name, symbol.is_term) for symbol in rule.expansion)
        cases.setdefault(rule.origin.name, []).append(case)
    found = minimal(_Unrolling(_Network(cases), terminals, tuple(read.ignore_tokens), depth).dfa())
    if found.empty:
        raise ValueError(
            f"constraint: the grammar derives no text with grammar_depth={depth}; a rule may have "
            "no case that ends, or need a larger depth."
        )
    return found


def _terminal_dfa(terminal: Any) -> Dfa:
    """Return the automaton of a terminal of lark.

    Raises:
        ValueError: its expression cannot be compiled.
    """
    pattern = terminal.pattern
    if pattern.type == "str" and not pattern.flags:
        text: bytes = pattern.value.encode()
        delta = np.full((len(text) + 1, BYTES), -1, dtype=np.int32)
        delta[np.arange(len(text)), list(text)] = np.arange(1, len(text) + 1)
        return Dfa(delta, np.arange(len(text) + 1) == len(text))
    known = "expression" if terminal.name.startswith("__") else f"terminal {terminal.name}"
    return expression_dfa(pattern.to_regexp(), f"grammar, {known}")


def _kept(cases: Cases) -> set[str]:
    """Return rules of which every recursion has one; those that it leads back to from `start`."""
    kept, done = set[str](), set[str]()

    def visit(name: str, above: tuple[str, ...]) -> None:
        for symbols in cases[name]:
            for place, (called, is_terminal) in enumerate(symbols):
                if is_terminal or (place == 0 and called == name):
                    continue
                if called == name or called in above:
                    kept.add(called)
                elif called not in done:
                    visit(called, (*above, name))
        done.add(name)

    visit("start", ())
    return kept


class _Cases:
    """Join the symbols of a rule's cases by nodes; a rule that is not kept stands in its callers.

    Args:
        cases: the symbols of each case of each rule.
        kept: the rules that are called.
        name: the rule.
    """

    def __init__(self, cases: Cases, kept: set[str], name: str) -> None:
        self._cases, self._kept = cases, kept
        self._edges: list[list[tuple[Symbol, int]]] = []
        self._jumps: list[list[int]] = []  # nodes that a node may stand for
        self._begin, self._end = self._node(), self._node()
        self._fill(name, self._begin, self._end)

    def _node(self) -> int:
        """Add a node, and return its number."""
        self._edges.append([])
        self._jumps.append([])
        return len(self._edges) - 1

    def _fill(self, name: str, before: int, after: int) -> None:
        """Add the cases of a rule between two nodes."""
        own = [case for case in self._cases[name] if case[:1] == ((name, False),)]
        end = self._node() if own else after
        for case in self._cases[name]:
            if case not in own:
                self._path(before, case, end)
        for case in own:  # A: A x goes on from the end of an A
            self._path(end, case[1:], end)
        if own:
            self._jumps[end].append(after)

    def _path(self, before: int, case: Case, after: int) -> None:
        """Add symbols between two nodes."""
        for symbol in case:
            target = self._node()
            if symbol[1] or symbol[0] in self._kept:
                self._edges[before].append((symbol, target))
            else:
                self._fill(symbol[0], before, target)
            before = target
        self._jumps[before].append(after)

    def dfa(self, symbols: list[Symbol]) -> Dfa:
        """Return the automaton over symbols that accepts the rule's cases."""
        number = {self._closed({self._begin}): 0, frozenset[int](): -1}
        states, rows = [*number][:1], list[list[int]]()
        for state in states:  # grows while it is read
            row: list[int] = []
            for symbol in symbols:
                new = self._closed(
                    {to for node in state for name, to in self._edges[node] if name == symbol}
                )
                if new not in number:
                    number[new] = len(states)
                    states.append(new)
                row.append(number[new])
            rows.append(row)
        accept = np.array([self._end in state for state in states])
        return minimal(Dfa(np.array(rows, dtype=np.int32), accept))

    def _closed(self, nodes: set[int]) -> frozenset[int]:
        """Return the nodes, and those that they may stand for."""
        waiting = list(nodes)
        for node in waiting:  # grows while it is read
            new = set(self._jumps[node]) - nodes
            nodes |= new
            waiting.extend(new)
        return frozenset(nodes)


class _Network:
    """Number the nodes of all kept rules; node 0 is behind the whole text.

    Fields:
        reads: terminals that may follow each node, and the node after them.
        calls: kept rules that may follow it, and the node after them.
        ends: whether its rule may end there.
        first: the first node of each kept rule.
    """

    def __init__(self, cases: Cases) -> None:
        kept = _kept(cases)
        symbols = sorted({symbol for rule in cases.values() for case in rule for symbol in case})
        self.reads: list[list[tuple[str, int]]] = [[]]
        self.calls: list[list[tuple[str, int]]] = [[]]
        self.ends = [False]
        self.first: dict[str, int] = {}
        for rule in sorted(kept | {"start"}):
            dfa = _Cases(cases, kept, rule).dfa(symbols)
            self.first[rule] = base = len(self.ends)
            self.ends += dfa.accept.tolist()
            for row in dfa.delta.tolist():
                edges = [(*symbols[k], base + to) for k, to in enumerate(row) if to >= 0]
                self.reads.append([(name, to) for name, is_terminal, to in edges if is_terminal])
                self.calls.append(
                    [(name, to) for name, is_terminal, to in edges if not is_terminal]
                )

    def over(self, node: int) -> bool:
        """Return whether a node ends its rule, and nothing may follow it there."""
        return self.ends[node] and not self.reads[node] and not self.calls[node]


class _Unrolling:
    """Determine the automaton of a network whose stacks are bounded.

    Args:
        net: the network.
        terminals: their automata over bytes.
        ignored: terminals that may stand before every other, and at the end.
        depth: nodes that wait on a stack.
    """

    def __init__(
        self, net: _Network, terminals: dict[str, Dfa], ignored: tuple[str, ...], depth: int
    ) -> None:
        self.net, self.ignored, self.depth = net, ignored, depth
        columns = np.concatenate([dfa.delta for dfa in terminals.values()])
        self.symbols, inverse = np.unique(columns, axis=1, return_inverse=True)
        self.symbol_of: NDArray[np.int64] = inverse.reshape(-1)
        # Bytes that no terminal tells apart are one symbol.
        representative = [int((self.symbol_of == k).argmax()) for k in range(len(self.symbols.T))]
        self.moves = {
            name: dfa.delta[:, representative].tolist() for name, dfa in terminals.items()
        }
        self.done = {name: dfa.accept.tolist() for name, dfa in terminals.items()}
        self.known: dict[tuple[int, Stack], frozenset[Reading]] = {}

    def ahead(self, node: int, stack: Stack) -> frozenset[Reading]:
        """Return what may be read next at a node, and `_ACCEPT` where the text may end."""
        if (node, stack) in self.known:
            return self.known[node, stack]
        net, found = self.net, set[Reading]()
        seen, waiting = {(node, stack)}, [(node, stack)]
        while waiting:
            at, below = waiting.pop()
            if at == 0:
                found.add(_ACCEPT)
            reads = net.reads[at]
            if reads or at == 0:
                reads = [*reads, *((name, at) for name in self.ignored)]
            found.update((name, 0, target, below) for name, target in reads)
            after = [(below[-1], below[:-1])] if net.ends[at] else []
            for rule, target in net.calls[at]:
                kept = below if net.over(target) else (*below, target)
                if len(kept) <= self.depth + 1:
                    after.append((net.first[rule], kept))
            new = set(after) - seen
            seen |= new
            waiting.extend(new)
        self.known[node, stack] = frozenset(found)
        return self.known[node, stack]

    def after(self, state: frozenset[Reading], symbol: int) -> frozenset[Reading]:
        """Return the state after a symbol; empty if nothing can read it."""
        found = set[Reading]()
        for name, at, target, stack in state:
            if not name:  # the text ends
                continue
            new = self.moves[name][at][symbol]
            if new < 0:
                continue
            if max(self.moves[name][new]) >= 0:
                found.add((name, new, target, stack))
            if self.done[name][new]:
                found |= self.ahead(target, stack)
        return frozenset(found)

    def dfa(self) -> Dfa:
        """Return the automaton over bytes.

        Raises:
            ValueError: it is too large.
        """
        first = self.ahead(self.net.first["start"], (0,))
        number = {first: 0, frozenset[Reading](): -1}
        states = [first]
        rows: list[list[int]] = []
        for state in states:  # grows while it is read
            row: list[int] = []
            for symbol in range(len(self.symbols.T)):
                new = self.after(state, symbol)
                if new not in number:
                    number[new] = len(states)
                    states.append(new)
                row.append(number[new])
            rows.append(row)
            if len(states) > MOST_STATES:
                raise ValueError(
                    f"constraint: the automaton of the grammar with grammar_depth={self.depth} has "
                    f"more than {MOST_STATES} states; lower the depth, or give recursive rules "
                    "fewer kinds of brackets."
                )
        delta = np.array(rows, dtype=np.int32)[:, self.symbol_of]
        return Dfa(delta, np.array([_ACCEPT in state for state in states]))
