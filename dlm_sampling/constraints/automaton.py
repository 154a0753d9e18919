"""Lift an automaton over bytes to one over tokens, and hold it as tensors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_sampling.constraints.dfa import Dfa, check_size, minimal, product

_CHUNK = 8192  # tokens whose walks are looked at together


@dataclass(frozen=True)
class TokenAutomaton:
    """Hold an automaton over the tokens of a vocabulary, whose walk begins in state 0.

    Tokens that lead from each state to the same next state form a class; class C has no edge at
    all: its tokens are never written.

    Fields:
        classes: int64 [V], class of each token, in [0, C].
        source: int64 [E], state before each edge, in rising order.
        label: int64 [E], class of the tokens of each edge, in [0, C).
        target: int64 [E], state after it.
        leaving: int64 [S, D], the edges out of each state; E where there are fewer.
        after: int64 [S + 1, C + 1], state after a token of each class, S for none.
        accept: bool [S], whether the text may end in the state.
        name: the constraint in words.
    """

    classes: Tensor
    source: Tensor
    label: Tensor
    target: Tensor
    leaving: Tensor
    after: Tensor
    accept: Tensor
    name: str = "a constraint"

    @classmethod
    def of(cls, dfa: Dfa, classes: NDArray[np.int64], name: str = "a constraint") -> TokenAutomaton:
        """Make the tensors of an automaton over classes of tokens.

        Args:
            dfa: over C symbols.
            classes: int64 [V], the symbol of each token, or -1 for those never written.
            name: the constraint in words.
        """
        states, count = len(dfa), dfa.symbols
        used, symbol = np.unique(dfa.delta, axis=1, return_inverse=True)
        dead = (used < 0).all(0)
        number = np.full(used.shape[1] + 1, int((~dead).sum()), dtype=np.int64)
        number[:-1][~dead] = np.arange(int((~dead).sum()))
        # Symbol -1 is the last entry; symbols with the same moves share a class.
        symbol = np.append(symbol.reshape(-1)[:count], used.shape[1])
        found = number[symbol[classes]]
        delta = torch.from_numpy(used[:, ~dead].astype(np.int64))
        source, label = (delta >= 0).nonzero(as_tuple=True)
        degree = torch.bincount(source, minlength=states)
        widest = int(degree.max()) if states else 0
        place = torch.arange(len(source)) - (degree.cumsum(0) - degree)[source]
        leaving = torch.full((states, max(1, widest)), len(source))
        leaving[source, place] = torch.arange(len(source))
        after = torch.full((states + 1, delta.shape[1] + 1), states)
        after[:-1, :-1] = torch.where(delta >= 0, delta, states)
        return cls(
            torch.from_numpy(found),
            source,
            label,
            delta[source, label],
            leaving,
            after,
            torch.from_numpy(dfa.accept.copy()),
            name,
        )

    @property
    def states(self) -> int:
        """Return S."""
        return len(self.accept)

    @property
    def count(self) -> int:
        """Return C, the number of classes with an edge."""
        return self.after.shape[1] - 1

    @property
    def trivial(self) -> bool:
        """Return whether it forbids nothing but the tokens that are never written anyway."""
        return self.states == 1 and self.count == 1 and bool(self.accept.all())

    def to(self, device: torch.device) -> TokenAutomaton:
        """Return the automaton on a device."""
        moved = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def accepts(self, ids: Sequence[int]) -> bool:
        """Return whether it accepts a sequence of tokens."""
        state = 0
        for token in ids:
            state = int(self.after[state, self.classes[token]])
        return state < self.states and bool(self.accept[state])


def lift(dfa: Dfa, texts: Sequence[bytes | None]) -> tuple[Dfa, NDArray[np.int64]]:
    """Return an automaton over classes of tokens, and the class of each token, int64 [V].

    Args:
        dfa: over bytes.
        texts: the bytes of each token; None where it adds no text, whose class has no edge.
    """
    size = np.array([0 if text is None else len(text) for text in texts])
    classes = np.empty(len(texts), dtype=np.int64)
    columns: dict[bytes, int] = {}
    kept: list[NDArray[np.int32]] = []
    for first in range(0, len(texts), _CHUNK):
        part = texts[first : first + _CHUNK]
        here = size[first : first + _CHUNK]
        spelled = np.zeros((len(part), max(1, int(here.max()))), dtype=np.uint8)
        for row, text in zip(spelled, part, strict=True):
            if text is not None:
                row[: len(text)] = np.frombuffer(text, dtype=np.uint8)
        state = np.repeat(np.arange(len(dfa), dtype=np.int32)[:, None], len(part), axis=1)
        for place in range(spelled.shape[1]):
            moved = np.where(state >= 0, dfa.delta[state, spelled[:, place]], -1)
            state = np.where(place < here, moved, state).astype(np.int32)
        state[:, [text is None for text in part]] = -1
        found, inverse = np.unique(state, axis=1, return_inverse=True)
        number = np.empty(found.shape[1], dtype=np.int64)
        for i, column in enumerate(found.T):
            key = column.tobytes()
            if key not in columns:
                columns[key] = len(kept)
                kept.append(np.ascontiguousarray(column))
            number[i] = columns[key]
        classes[first : first + len(part)] = number[inverse.reshape(-1)]
    check_size(len(dfa))
    return Dfa(np.stack(kept, axis=1), dfa.accept), classes


def joined(
    first: Dfa, first_class: NDArray[np.int64], second: Dfa, second_class: NDArray[np.int64]
) -> tuple[Dfa, NDArray[np.int64]]:
    """Return the product of two automata over different classes of the same tokens."""
    pairs = first_class * second.symbols + second_class
    values, classes = np.unique(pairs, return_inverse=True)
    a = Dfa(first.delta[:, values // second.symbols], first.accept)
    b = Dfa(second.delta[:, values % second.symbols], second.accept)
    return product(a, b), classes.reshape(-1)


def with_ending(
    dfa: Dfa,
    classes: NDArray[np.int64],
    *,
    ends: Collection[int],
    behind: Collection[int] | None,
    never: Collection[int],
) -> tuple[Dfa, NDArray[np.int64]]:
    """Let the text end at an end-of-text token, and take out the tokens that are never written.

    Args:
        dfa: over classes of tokens; it accepts whole texts.
        classes: int64 [V], class of each token.
        ends: ids that end the text.
        behind: ids that may stand behind the end, or None for all.
        never: ids that are never written.

    Returns:
        The automaton with one more state, and its classes; -1 for `never`.
    """
    states, count = len(dfa), dfa.symbols
    kind = np.full(len(classes), 0 if behind is None else 1)  # 0: may stand behind the end
    kind[list(behind or ())] = 0
    kind[list(ends)] = 2
    values, symbol = np.unique(classes * 3 + kind, return_inverse=True)
    symbol = symbol.reshape(-1)
    if not set(ends) - set(never):
        kept = np.concatenate((dfa.delta, np.full((states, 1), -1, np.int32)), axis=1)
        out = np.where(np.isin(np.arange(len(classes)), [*never, *ends]), count, classes)
        return minimal(Dfa(kept, dfa.accept)), out
    delta = np.full((states + 1, len(values) + 1), -1, dtype=np.int32)
    ending = values % 3 == 2
    delta[:-1, :-1] = np.where(
        ending, np.where(dfa.accept, states, -1)[:, None], dfa.delta[:, values // 3]
    )
    delta[states, :-1] = np.where(values % 3 == 1, -1, states)
    symbol[list(never)] = len(values)  # the last column, which leads nowhere
    return minimal(Dfa(delta, np.append(dfa.accept, True))), symbol
