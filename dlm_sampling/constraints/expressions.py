"""Compile a regular expression into an automaton over bytes, with the library outlines-core.

outlines-core (Rust's regex-automata) makes the automaton; it is asked about a vocabulary of single
bytes.  Two things it does are undone here.  It stops where the first alternative matches, so that
`a|ab` would refuse "ab": the end of the text is part of the expression.  And it cannot begin with
an expression that matches nothing at all: a byte stands before the text, and is read at once.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from dlm_sampling.constraints.dfa import Dfa, check_size, minimal
from dlm_sampling.constraints.faults import ALLOWED, closes_first, described

BYTES = 256
_BEFORE = 0  # the byte before the text


def require_compiler() -> None:
    """Refuse to go on without outlines-core.

    Raises:
        ImportError: it is not installed.
    """
    if find_spec("outlines_core") is None:
        raise ImportError(
            "constraint: regular expressions and JSON schemas need the package outlines-core: "
            'pip install "dlm-sampling[constraint]". Banned and required words do without.'
        )


def expression_dfa(pattern: str, name: str = "regex") -> Dfa:
    """Accept the texts, as UTF-8, that an expression matches from beginning to end.

    Args:
        pattern: in the syntax of Rust's regex crate, which is that of Python without lookaround and
            back references; `.` is any character but a line break.
        name: the argument that it comes from, for messages.

    Raises:
        ImportError: outlines-core is not installed.
        ValueError: the expression is malformed, too large, or nothing matches it.
    """
    require_compiler()
    core: Any = import_module("outlines_core")
    words = {bytes([byte]): [byte] for byte in range(BYTES)}
    try:
        if closes_first(pattern):  # in `(?:a)|(b)$` the groups of `a)|(b` would be others
            core.Index(rf"\x00{pattern}$", core.Vocabulary(BYTES, words))
        index = core.Index(rf"\x00(?:{pattern})$", core.Vocabulary(BYTES, words))
    except (ValueError, OverflowError) as error:
        raise ValueError(described(name, pattern, str(error))) from None
    moves: dict[int, dict[int, int]] = index.get_transitions()
    final: set[int] = index.get_final_states()
    check_size(len(moves))
    first = moves.get(index.get_initial_state(), {}).get(_BEFORE)
    states = [*moves, *(final - moves.keys())]
    if first in states:
        states.remove(first)
        states.insert(0, first)
    number = {state: i for i, state in enumerate(states)}
    delta = np.full((len(states), BYTES), -1, dtype=np.int32)
    for state, row in moves.items():
        for byte, after in row.items():
            if byte < BYTES and after in number:
                delta[number[state], byte] = number[after]
    found = minimal(Dfa(delta, np.array([state in final for state in states])))
    if first not in number or found.empty:
        raise ValueError(f"constraint: {name}={pattern!r}: no text matches it. {ALLOWED}")
    return found
