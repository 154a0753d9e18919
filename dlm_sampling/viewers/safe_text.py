"""Make model output safe to show: a model can write terminal codes and reversed text."""

from __future__ import annotations

import json
import re
from typing import Any

_NEWLINES = re.compile(r"\r\n?")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BIDI = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NOT_IN_JSON = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """Return `text` without anything that a terminal would execute.

    Control codes (C0 with ESC, DEL, C1) are dropped except tab and newline, so an escape sequence
    leaves its harmless remainder visible.  Bidirectional controls become their escapes.
    """
    return _BIDI.sub(_escape, _CONTROLS.sub("", _NEWLINES.sub("\n", text)))


def one_line(text: str) -> str:
    """Return `text` printable and on one line."""
    return " ".join(printable(text).split())


def json_line(value: Any) -> str:
    """Return `value` as one line of JSON: readable, lossless, and safe to show in a terminal."""
    line = json.dumps(value, ensure_ascii=False)
    return _BIDI.sub(_escape, _NOT_IN_JSON.sub(_escape, line))


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
