"""Build deterministic automata over numbered symbols, such as bytes: words, products, minima.

A state that cannot reach acceptance any more does not exist: its transitions are -1, so that a walk
that has not died can always be completed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int32]

MOST_STATES = 10_000
MOST_JOINED = 2000


@dataclass(frozen=True)
class Dfa:
    """Hold an automaton whose walk begins in state 0.

    Fields:
        delta: int32 [S, K], the state after each of K symbols, -1 for none.
        accept: bool [S], whether a text may end in the state.
    """

    delta: Table
    accept: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of states, S."""
        return len(self.delta)

    @property
    def symbols(self) -> int:
        """Return the number of symbols, K."""
        return self.delta.shape[1]

    @property
    def empty(self) -> bool:
        """Return whether nothing is accepted."""
        return not bool(self.accept.any())

    def accepts(self, word: Sequence[int]) -> bool:
        """Return whether a sequence of symbols is accepted."""
        state = 0
        for symbol in word:
            state = int(self.delta[state, symbol])
            if state < 0:
                return False
        return bool(self.accept[state])


def words_absent(words: Sequence[Sequence[int]], symbols: int) -> Dfa:
    """Accept the texts in which none of the words stands; Aho and Corasick 1975.

    Args:
        words: sequences of symbols, none empty.
        symbols: K.
    """
    children: list[dict[int, int]] = [{}]
    whole = [False]
    for word in words:
        node = 0
        for symbol in word:
            if symbol not in children[node]:
                children[node][symbol] = len(children)
                children.append({})
                whole.append(False)
            node = children[node][symbol]
        whole[node] = True
    delta = np.zeros((len(children), symbols), dtype=np.int32)
    fallback = [0] * len(children)
    waiting = deque([0])
    while waiting:
        node = waiting.popleft()
        if node:
            delta[node] = delta[fallback[node]]
            whole[node] = whole[node] or whole[fallback[node]]
        for symbol, child in children[node].items():
            fallback[child] = int(delta[node, symbol]) if node else 0
            delta[node, symbol] = child
            waiting.append(child)
    bad = np.array(whole)
    delta[bad[delta]] = -1
    return trimmed(Dfa(delta, ~bad))


def word_present(word: Sequence[int], symbols: int) -> Dfa:
    """Accept the texts in which the word stands; Knuth, Morris and Pratt 1977."""
    length = len(word)
    delta = np.zeros((length + 1, symbols), dtype=np.int32)
    fallback = 0
    for place, symbol in enumerate(word):
        delta[place] = delta[fallback] if place else 0
        delta[place, symbol] = place + 1
        fallback = int(delta[fallback, symbol]) if place else 0
    delta[length] = length
    accept = np.arange(length + 1) == length
    return Dfa(delta, accept)


def product(first: Dfa, second: Dfa) -> Dfa:
    """Accept the texts that both automata accept.

    Raises:
        ValueError: it has more than `MOST_STATES` states.
    """
    number: dict[tuple[int, int], int] = {(0, 0): 0}
    pairs = [(0, 0)]
    rows: list[Table] = []
    for a, b in pairs:  # grows while it is read
        left, right = first.delta[a], second.delta[b]
        both = np.where((left >= 0) & (right >= 0), left.astype(np.int64) * len(second) + right, -1)
        values, inverse = np.unique(both, return_inverse=True)
        found = np.full(len(values), -1, dtype=np.int32)
        for i, value in enumerate(cast("list[int]", values.tolist())):
            if value < 0:
                continue
            pair = divmod(value, len(second))
            if pair not in number:
                number[pair] = len(pairs)
                pairs.append(pair)
            found[i] = number[pair]
        rows.append(found[inverse])
        check_size(len(pairs))
    accept = np.array([first.accept[a] and second.accept[b] for a, b in pairs])
    return minimal(Dfa(np.stack(rows), accept))


def check_size(states: int) -> None:
    """Refuse an automaton with more than `MOST_STATES` states.

    Raises:
        ValueError: it has more.
    """
    if states > MOST_STATES:
        raise ValueError(
            f"constraint: its automaton has more than {MOST_STATES} states; bound repetitions of "
            "long groups, such as (...){0,20}, or ask for fewer words at once."
        )


def trimmed(dfa: Dfa) -> Dfa:
    """Drop the states that no walk reaches, and those from which nothing is accepted."""
    source, symbol = np.nonzero(dfa.delta >= 0)
    pairs = np.stack((source, dfa.delta[source, symbol])).astype(np.int64)
    edges = np.unique(pairs, axis=1)
    alive = _reached(edges[::-1], np.flatnonzero(dfa.accept).astype(np.int64), len(dfa))
    delta = np.where((dfa.delta >= 0) & alive[dfa.delta], dfa.delta, -1)
    kept = alive & _reached(edges[:, alive[edges].all(0)], np.zeros(1, np.int64), len(dfa))
    kept[0] = True  # a walk begins somewhere, even if nothing is accepted
    place = np.full(len(dfa) + 1, -1, dtype=np.int32)  # the last entry is that of state -1
    place[:-1][kept] = np.arange(int(kept.sum()), dtype=np.int32)
    return Dfa(place[delta[kept]], dfa.accept[kept])


def _reached(edges: NDArray[np.int64], first: NDArray[np.int64], states: int) -> NDArray[np.bool_]:
    """Return the states that edges [2, E] lead to from some states, and those, bool [S]."""
    order = np.argsort(edges[0], kind="stable")
    source, target = edges[0][order], edges[1][order]
    begin = np.searchsorted(source, np.arange(states + 1))
    found = np.zeros(states, dtype=bool)
    found[first] = True
    waiting = cast("list[int]", first.tolist())
    while waiting:
        state = waiting.pop()
        after = target[begin[state] : begin[state + 1]]
        new = after[~found[after]]
        found[new] = True
        waiting.extend(cast("list[int]", new.tolist()))
    return found


def minimal(dfa: Dfa) -> Dfa:
    """Join the states that no continuation tells apart; Moore 1956.

    An automaton of more than `MOST_JOINED` states keeps them: that is slower to use, not wrong.
    """
    dfa = trimmed(dfa)
    if len(dfa) > MOST_JOINED:
        return dfa
    columns = np.unique(dfa.delta, axis=1)  # equal symbols tell nothing more
    label = dfa.accept.astype(np.int64)
    count = len(np.unique(label))
    while True:
        seen = np.where(columns >= 0, label[columns], -1)
        signature = np.concatenate((label[:, None], seen), axis=1)
        _, first, after = np.unique(signature, axis=0, return_index=True, return_inverse=True)
        label = after.reshape(-1)
        if len(first) == count:
            break
        count = len(first)
    # State 0 stays first, and the others keep their order.
    order = np.argsort(first)
    rank = np.empty(len(first), dtype=np.int32)
    rank[order] = np.arange(len(first), dtype=np.int32)
    kept = first[order]
    delta = dfa.delta[kept]
    return Dfa(np.where(delta >= 0, rank[label[delta]], -1).astype(np.int32), dfa.accept[kept])
