"""Model output made safe to show."""

from __future__ import annotations

import json
import re

from dlm_sampling.viewers.safe_text import json_line, one_line, printable


def test_printable_leaves_nothing_for_the_terminal() -> None:
    hostile = "a\x1b[31mred\x1b]0;title\x07\x9b2J\x00\x7f\r\nb\tc\u202edlrow\u2066"
    shown = printable(hostile)
    assert shown == "a[31mred]0;title2J\nb\tc\\u202edlrow\\u2066"
    assert one_line(" x\n y\x1b") == "x y"


def test_json_line_is_safe_and_lossless() -> None:
    hostile = {"text": "\x1b[2J\x9b\u202e\u2028é漢\ud800"}
    line = json_line(hostile)
    assert json.loads(line) == hostile
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e\u2028]", line)
    assert "é漢" in line
