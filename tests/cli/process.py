"""What a command ends with, for the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Result(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Result]


def assert_one_line(result: Result, code: int, *words: str) -> None:
    assert result.code == code, result
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("Error: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err, result.err
    assert result.out == ""


SHORT = ("--max-new-tokens", "12", "--sampler", "ancestral")
