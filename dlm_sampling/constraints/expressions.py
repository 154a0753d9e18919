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


def expression_dfa(pattern: str) -> Dfa:
    """Accept the texts, as UTF-8, that an expression matches from beginning to end.

    Args:
        pattern: in the syntax of Rust's regex crate, which is that of Python without lookaround and
            back references; `.` is any character but a line break.

    Raises:
        ImportError: outlines-core is not installed.
        ValueError: the expression is malformed, too large, or nothing matches it.
    """
    require_compiler()
    core: Any = import_module("outlines_core")
    words = {bytes([byte]): [byte] for byte in range(BYTES)}
    try:
        index = core.Index(rf"\x00(?:{pattern})$", core.Vocabulary(BYTES, words))
    except ValueError as error:
        raise ValueError(
            f"constraint: the regular expression {pattern!r} cannot be compiled ({error}); "
            "allowed is the syntax of Python without lookaround and back references. The whole "
            "text is matched, so leave out ^ and $."
        ) from None
    moves: dict[int, dict[int, int]] = index.get_transitions()
    final: set[int] = index.get_final_states()
    check_size(len(moves))
    first = moves.get(index.get_initial_state(), {}).get(_BEFORE)
    names = [*moves, *(final - moves.keys())]
    if first in names:
        names.remove(first)
        names.insert(0, first)
    number = {name: i for i, name in enumerate(names)}
    delta = np.full((len(names), BYTES), -1, dtype=np.int32)
    for name, row in moves.items():
        for byte, after in row.items():
            if byte < BYTES and after in number:
                delta[number[name], byte] = number[after]
    found = minimal(Dfa(delta, np.array([name in final for name in names])))
    if first not in number or found.empty:
        raise ValueError(
            f"constraint: no text matches the regular expression {pattern!r}; it is matched with "
            "the whole text, so leave out ^ and $."
        )
    return found
