"""Say what is wrong with an expression or a grammar, and where.

The compiler of expressions tells neither.  Once it has refused one, the first construct that cannot
be read or kept is named with its position, counted from 0 as Python does, and with what to write
instead.
"""

from __future__ import annotations

import re
import warnings
from typing import Protocol, runtime_checkable

ALLOWED = (
    "Allowed is the syntax of Python without lookaround, back references and word boundaries; the "
    "whole text is matched, so leave out ^ and $."
)
SHOWN = 60  # characters of a long expression that a message shows

_VAGUE = "error building NFA"  # what the compiler says of everything that is malformed

Fault = tuple[int, str]  # position, and what is wrong in words

_GROUP = re.compile(r"\((?!\?)|\(\?(?::|P?<\w+>|[imsxUuR-]+:)")
_FLAGS = re.compile(r"\(\?[imsxUuR-]+(?=\))")
_REFUSED = {  # what a group may not begin with, and why
    "(?=": "looks around, which cannot be kept; write what the text is",
    "(?!": "looks around, which cannot be kept; write what the text is",
    "(?<=": "looks around, which cannot be kept; write what the text is",
    "(?<!": "looks around, which cannot be kept; write what the text is",
    "(?>": "is atomic, which cannot be kept; write (?:...)",
    "(?P=": "refers back, which cannot be kept; write out what may stand there",
    "(?(": "is a condition, which cannot be kept; write two alternatives",
    "(?#": "begins a comment; leave it out",
    "(?": "begins no group that is known; write (...), (?:...) or (?P<name>...)",
}
_WORD = re.compile(r"\\.?|\(\?(?:P=|<=|<!|.)?|.", re.DOTALL)
_REPETITION = re.compile(r"\{(\d+)(,(\d*))?\}")
_PLAIN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)  # escapes and classes
_CLASS, _NAMED = re.compile(r"\[\^?\]?"), re.compile(r"\[:\^?\w+:\]")
_ESCAPE = re.compile(  # a letter needs a meaning; anything else stands for itself
    r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[xuU]\{[0-9A-Fa-f]+\}"
    r"|[pP](?:\{[^}]*\}|\w)|[aftnrvdDsSwW]|[^\w])",
    re.DOTALL,
)


def described(name: str, pattern: str, cause: str) -> str:
    """Return the message about an expression that the compiler has refused.

    Args:
        name: of the argument, such as "regex".
        pattern: the expression.
        cause: reason of the compiler, for expressions in which nothing is found.
    """
    place, what = fault(pattern) or (
        0,
        f"cannot be compiled{'' if _VAGUE in cause else f' ({cause})'}",
    )
    first = max(0, min(place - SHOWN // 2, len(pattern) - SHOWN))
    part = pattern[first : first + SHOWN]
    shown = f"{'...' * (first > 0)}{part}{'...' * (first + SHOWN < len(pattern))}"
    return f"constraint: {name}={shown!r}: {what}. {ALLOWED}"


def closes_first(pattern: str) -> bool:
    """Return whether a `)` may close a group that nothing opened; classes are read roughly."""
    depth = 0
    for word in _PLAIN.sub("", pattern):
        depth += (word == "(") - (word == ")")
        if depth < 0:
            return True
    return False


def fault(pattern: str) -> Fault | None:
    """Return the first thing in an expression that cannot be read or kept; None if none is found.

    Args:
        pattern: the expression.

    Returns:
        Its position, and a sentence about it that names the position, without its full stop.
    """
    opened: list[int] = []
    at, begins = 0, True  # whether nothing stands before, in this group and alternative
    while at < len(pattern):
        letter, size, what = pattern[at], 1, ""
        if letter == "\\":
            size, what = _escape(pattern, at)
        elif letter == "[":
            size, wrong = _class(pattern, at)
            if wrong:
                return wrong
        elif letter == "(":
            size, what = _group(pattern, at)
            opened.append(at)
        elif letter == ")" and not opened:
            what = r"closes nothing; leave it out, or write \) for the character"
        elif letter == ")":
            opened.pop()
        elif letter in "^$":
            what = rf"is not needed and cannot be kept; write \{letter} for the character"
        elif letter == "{":
            size, what = _repetition(pattern, at)
        if letter in "*+?{" and begins and not what:
            what = rf"repeats nothing; write \{letter} for the character"
        if what:
            return _told(pattern, at, what)
        at, begins = at + size, letter in "(|"
    if opened:
        what = r"is not closed; end it with ), or write \( for the character"
        return _told(pattern, opened[-1], what)
    return _by_python(pattern)


def _told(pattern: str, at: int, what: str) -> Fault:
    """Return what is wrong with the letter, or the beginning of an escape or group, at a place."""
    found = _WORD.match(pattern, at)
    return at, f"'{found[0] if found else ''}' at position {at} {what}"


def _class(pattern: str, at: int) -> tuple[int, Fault | None]:
    """Return the length of the class of characters at a position, and what is wrong with it."""
    first = _CLASS.match(pattern, at)
    here = first.end() if first else at
    while here < len(pattern) and pattern[here] != "]":
        named, size, what = _NAMED.match(pattern, here), 1, ""
        if named:
            size = len(named[0])
        elif pattern[here] == "[":
            what = r"stands in a class; write \[ for the character"
        elif pattern[here] == "\\":
            size, what = _escape(pattern, here)
        if what:
            return 1, _told(pattern, here, what)
        here += size
    if here < len(pattern):
        return here + 1 - at, None
    return 1, _told(pattern, at, r"is not closed; end it with ], or write \[ for the character")


def _group(pattern: str, at: int) -> tuple[int, str]:
    """Return the length of the beginning of the group at a position, and what is wrong, or ""."""
    found = _GROUP.match(pattern, at) or _FLAGS.match(pattern, at)
    if found:
        return len(found[0]), ""
    return 1, next(why for begin, why in _REFUSED.items() if pattern.startswith(begin, at))


def _escape(pattern: str, at: int) -> tuple[int, str]:
    """Return the length of the escape at a position, and what is wrong with it, or ""."""
    found, letter = _ESCAPE.match(pattern, at), pattern[at + 1 : at + 2]
    if found:
        return len(found[0]), ""
    if not letter:
        return 1, r"escapes nothing; write \\ for the character"
    if letter in "bB":
        return 2, "is a word boundary, which cannot be kept; write the characters around it"
    if letter in "AZz":
        return 2, "is not needed and cannot be kept; leave it out"
    if letter.isdigit():
        return 2, "refers back, which cannot be kept; write out what may stand there"
    if letter in "xuU":
        return 2, rf"needs the number of a character, such as \x41 or \{letter}{{41}}"
    return 2, f"is no escape that is known; write {letter} for the character"


def _repetition(pattern: str, at: int) -> tuple[int, str]:
    """Return the length of the repetition at a position, and what is wrong with it, or ""."""
    found = _REPETITION.match(pattern, at)
    if not found:
        return 1, r"begins no repetition, such as {3} or {0,3}; write \{ for the character"
    if found[3] and int(found[3]) < int(found[1]):
        return len(found[0]), f"begins {found[0]}, whose second number is the smaller one"
    return len(found[0]), ""


def _by_python(pattern: str) -> Fault | None:
    """Return what Python's own parser finds, which reads escapes differently: they are left out."""
    try:
        with warnings.catch_warnings():  # of sets that may get another meaning
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except re.error as error:
        if error.pos is not None and not error.msg.startswith("bad escape"):
            return error.pos, f"{error.msg} at position {error.pos}"
    except OverflowError as error:
        return 0, str(error)
    return None


_NOTATION = """Write it in the notation of lark, such as 'start: "(" start ")" | "x"'."""
_PLACE = re.compile(r"(?: in|,)? at line (\d+),? column (\d+).*")
_INNER = re.compile(r"\b(?:Non)?Terminal\((?=')|(?<=')\)|[{}]")
_EMPTY = re.compile(r"zero-width.*TerminalDef\('\w+', (.*)\)\)")
_LETTERS = {
    '"': "'\"' begins a text that does not end",
    "'": '"\'" begins nothing; texts stand in double quotes',
    "/": "'/' begins an expression that does not end",
}


@runtime_checkable
class _Unexpected(Protocol):
    """Define what is read of lark's error about a piece that cannot stand where it does."""

    token: str
    line: int
    column: int


def grammar_fault(error: Exception, grammar: str) -> str | None:
    """Return what is wrong with a grammar, with line and column where lark knows them.

    Args:
        error: that lark has raised for it.
        grammar: its text.

    Returns:
        The message, or None if the error is not about the grammar.
    """
    cause = error if isinstance(error, re.error) else error.__context__
    if isinstance(cause, re.error):
        pattern = str(cause.pattern)
        found = fault(pattern)
        what = cause.msg if found is None else found[1]
        return f"grammar: the expression /{pattern}/: {what}. {_NOTATION}"
    if isinstance(error, OSError):
        return f"grammar: it imports {error.filename}, which cannot be read. {_NOTATION}"
    if not type(error).__module__.startswith("lark."):
        return None
    said, lines = str(error).split("\n")[0], grammar.splitlines()
    if "undefined rule" in said:
        return f"grammar: it has no rule named start, which derives the whole text. {_NOTATION}"
    empty = _EMPTY.search(said)
    if empty:
        return f"grammar: the expression {empty[1]} matches the empty text; write x+ and ? for x*."
    place = _PLACE.search(said)
    if isinstance(error, _Unexpected):
        line, column, what = error.line, error.column, f"{str(error.token)!r} cannot stand here"
    elif place:
        line, column, what = int(place[1]), int(place[2]), said[: place.start()]
        if what == "Unexpected input":
            letter = lines[line - 1][column - 1]
            what = _LETTERS.get(letter, f"{letter!r} cannot stand here")
    else:
        return f"grammar: {_INNER.sub('', said).rstrip('!.')}. {_NOTATION}"
    text = lines[line - 1].strip()
    return f"grammar, line {line}, column {column}: {what}, in {text!r}. {_NOTATION}"
