"""Describe what a text must satisfy, and compile it for a tokenizer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dlm_sampling.constraints.automaton import TokenAutomaton, joined, lift, with_ending
from dlm_sampling.constraints.dfa import Dfa, product, word_present, words_absent
from dlm_sampling.constraints.expressions import BYTES, expression_dfa
from dlm_sampling.constraints.grammar import grammar_dfa
from dlm_sampling.constraints.schema import schema_expression
from dlm_sampling.constraints.token_bytes import token_bytes
from dlm_sampling.errors import check_whole, named

Word = str | tuple[int, ...]

DEPTH = 4
# A constraint is read when it is made, which tells what is wrong with it, and again when it is
# compiled for a model.
_expression = lru_cache(maxsize=8)(expression_dfa)
_grammar = lru_cache(maxsize=8)(grammar_dfa)


@dataclass(frozen=True)
class Constraint:
    """Describe what every text of a call satisfies; of several parts, all hold.

    Args:
        regex: an expression that the whole text matches, in the syntax of Python without lookaround
            and back references.
        json_schema: a schema whose JSON the whole text is, as a mapping or as JSON; see
            `constraints.schema` for the part of the standard that is read.
        banned: words (strings, found inside other words too) and sequences of token ids that do not
            stand in the text.
        required: words and sequences of token ids that stand in it, each at least once.
        whitespace: expression of the space between the parts of the JSON; None for one space or
            none.
        grammar: a context-free grammar in the notation of lark, whose rule `start` derives the
            whole text; see `constraints.grammar`.
        grammar_depth: parts of the grammar that stand inside each other, such as brackets; texts
            that nest more deeply are not written.  A depth of n leaves out no text of up to n
            bytes; the automaton grows fast with it where there are several kinds of brackets.

    Raises:
        ImportError: outlines-core or lark is needed, and not installed.
        TypeError: a part is of another type.
        ValueError: nothing is asked for, a word is empty, or an expression, a schema or a grammar
            is malformed or too large; the message says where.
    """

    regex: str | None = None
    json_schema: Any = None
    banned: Sequence[str | Sequence[int]] = ()
    required: Sequence[str | Sequence[int]] = ()
    whitespace: str | None = None
    grammar: str | None = None
    grammar_depth: int = DEPTH

    def __post_init__(self) -> None:
        if self.regex is not None and not isinstance(self.regex, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"regex={self.regex!r}: must be a string, such as '[0-9]+'.")
        if self.whitespace is not None and not isinstance(self.whitespace, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"whitespace={self.whitespace!r}: must be a string, such as '[ ]?'.")
        for field in ("banned", "required"):
            object.__setattr__(self, field, _words(field, vars(self)[field]))
        if self.grammar is not None and not isinstance(self.grammar, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"grammar={self.grammar!r}: must be a string in the notation of lark, such as "
                """'start: "(" start ")" | "x"'."""
            )
        check_whole("grammar_depth", self.grammar_depth)
        if self.grammar_depth < 1:
            raise ValueError(
                f"grammar_depth={self.grammar_depth}: must be at least 1; try {DEPTH}."
            )
        texts = (self.regex, self.json_schema, self.grammar)
        if all(part is None for part in texts) and not self.banned and not self.required:
            raise ValueError(
                "constraint: asks for nothing; give regex, json_schema, grammar, banned or "
                "required."
            )
        if self.whitespace is not None and self.json_schema is None:
            raise ValueError(f"whitespace={self.whitespace!r}: goes with json_schema.")
        self.read()

    def compile(
        self,
        tokenizer: Any,
        vocab_size: int,
        *,
        ends: Collection[int] = (),
        behind: Collection[int] | None = None,
        never: Collection[int] = (),
    ) -> TokenAutomaton:
        """Return the automaton over the tokens of a vocabulary.

        Args:
            tokenizer: tells the bytes of each token; None where only ids are banned and required.
            vocab_size: V.
            ends: ids that end the text.
            behind: ids that may stand behind the end of the text, or None for all.
            never: ids that are never written.

        Raises:
            ValueError: a part needs a tokenizer, all parts together are too large, or no text
                satisfies them.
        """
        found = self._text_automaton(tokenizer, vocab_size, set(ends) | set(never))
        for words, absent in ((self.banned, True), (self.required, False)):
            for dfa, classes in _id_automata(words, vocab_size, absent):
                found = joined(*found, dfa, classes)
        dfa, classes = with_ending(*found, ends=ends, behind=behind, never=never)
        if dfa.empty:
            raise ValueError(
                f"constraint: no sequence of this model's tokens satisfies {self}; its parts may "
                "contradict each other, or need characters that no token writes."
            )
        return TokenAutomaton.of(dfa, classes, str(self))

    def __str__(self) -> str:
        """Return the parts that are asked for."""
        shown = {name: value for name, value in vars(self).items() if value}
        if self.grammar is None:
            del shown["grammar_depth"]
        parts = [f"{name}={value!r}" for name, value in shown.items()]
        return f"Constraint({', '.join(parts)})"

    def read(self) -> list[Dfa]:
        """Return the automata over bytes of the expression, the schema and the grammar.

        Raises:
            ImportError, ValueError: one cannot be read; see the class.
        """
        parts: list[Dfa] = []
        if self.regex is not None:
            parts.append(_expression(self.regex))
        if self.json_schema is not None:
            parts.append(_expression(schema_expression(self.json_schema, self.whitespace)))
        if self.grammar is not None:
            parts.append(_grammar(self.grammar, self.grammar_depth))
        return parts

    def bytes_dfa(self) -> Dfa | None:
        """Return the automaton over bytes of all parts that read the text, or None."""
        parts = self.read()
        banned = [word.encode() for word in self.banned if isinstance(word, str)]
        if banned:
            parts.append(words_absent(banned, BYTES))
        for word in self.required:
            if isinstance(word, str):
                parts.append(word_present(word.encode(), BYTES))
        whole: Dfa | None = None
        for part in parts:
            whole = part if whole is None else product(whole, part)
        return whole

    def _text_automaton(
        self, tokenizer: Any, vocab_size: int, silent: set[int]
    ) -> tuple[Dfa, NDArray[np.int64]]:
        """Return the automaton over classes of tokens of all parts that read the text."""
        whole = self.bytes_dfa()
        if whole is None:
            one = np.zeros((1, 2), dtype=np.int32)
            one[0, 1] = -1
            classes = np.zeros(vocab_size, dtype=np.int64)
            classes[list(silent)] = 1
            return Dfa(one, np.ones(1, dtype=bool)), classes
        if tokenizer is None:
            raise ValueError(
                "constraint: words and expressions are about the text, and the denoiser has no "
                "tokenizer. Pass tokenizer=, or ban and require sequences of token ids."
            )
        return lift(whole, token_bytes(tokenizer, vocab_size))


def as_constraint(value: object) -> Constraint | None:
    """Return the argument `constraint` of a call as a `Constraint`: a string is an expression.

    Raises:
        TypeError: it is something else.
    """
    if value is None or isinstance(value, Constraint):
        return value
    if isinstance(value, str):
        return Constraint(regex=value)
    raise TypeError(
        f"constraint is {named(value)}: must be a regular expression as a string, or a Constraint, "
        'such as Constraint(banned=["war"]) or, of a schema, Constraint(json_schema=...).'
    )


def _words(field: str, given: object) -> tuple[Word, ...]:
    """Return words as strings and tuples of ids.

    Raises:
        TypeError: one is neither.
        ValueError: one is empty.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"{field}={given!r}: must be a list of words, such as {field}=['war'].")
    found: list[Word] = []
    for word in cast("Sequence[object]", given):
        if isinstance(word, str):
            found.append(word)
        elif isinstance(word, Sequence):
            ids = tuple(cast("Sequence[object]", word))
            if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
                raise TypeError(f"{field}: {word!r} must be a string or a list of token ids.")
            found.append(cast("tuple[int, ...]", ids))
        else:
            raise TypeError(f"{field}: {word!r} must be a string or a list of token ids.")
        if not word:
            raise ValueError(f"{field}: an empty word stands in every text; leave it out.")
    return tuple(found)


def _id_automata(
    words: Sequence[str | Sequence[int]], vocab_size: int, absent: bool
) -> list[tuple[Dfa, NDArray[np.int64]]]:
    """Return the automata of banned (`absent`) or required sequences of ids, and their classes."""
    listed = [word for word in words if not isinstance(word, str)]
    wrong = [token for word in listed for token in word if not 0 <= token < vocab_size]
    if wrong:
        raise ValueError(f"constraint: {wrong[0]} is no token id; must be in [0, {vocab_size}).")
    found: list[tuple[Dfa, NDArray[np.int64]]] = []
    for group in [listed] if absent and listed else [] if absent else [[w] for w in listed]:
        used = sorted({token for word in group for token in word})
        classes = np.full(vocab_size, len(used), dtype=np.int64)
        classes[used] = np.arange(len(used))
        spelled = [[used.index(token) for token in word] for word in group]
        dfa = (
            words_absent(spelled, len(used) + 1)
            if absent
            else word_present(spelled[0], len(used) + 1)
        )
        found.append((dfa, classes))
    return found
