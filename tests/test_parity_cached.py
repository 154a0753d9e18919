"""Call-for-call and token-for-token parity with the authors' released loops with a KV cache.

Reads `cached/` and `models/` of the folder in DLM_FIXTURES (default: tests/fixtures).  Every case
is fed to our passes canvas by canvas: the columns queried, the number of passes, the logits and the
tokens that are written are those of the released loop.  Cases without a quirk also run as a whole.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.parity import cached, cached_gemma

CASES = cached.cases()


def test_there_are_cases() -> None:
    assert CASES, f"no case file under {cached.FOLDER}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_recorded_canvases(case: dict[str, Any]) -> None:
    """Columns, passes, logits and tokens, call by call."""
    found = cached.replay(case)
    assert found.queries == found.recorded
    assert found.largest_difference < 1e-4
    assert not found.other_tokens


@pytest.mark.parametrize("case", [c for c in CASES if cached.runs(c)], ids=lambda case: case["id"])
def test_whole_run(case: dict[str, Any]) -> None:
    """Our sampler with our cache: the canvases that the network saw, the tokens, the columns."""
    found = cached.run(case)
    assert found.final == case["final"]
    assert found.canvases == found.recorded_canvases
    assert found.columns == found.recorded_columns


@pytest.mark.parametrize("case", cached_gemma.cases(), ids=lambda case: case["id"])
def test_an_encoded_prompt(case: dict[str, Any]) -> None:
    """DiffusionGemma: every column is encoded once, in the first pass of the canvas behind it."""
    found = cached_gemma.replay(case)
    assert found.queries == found.recorded
    assert found.largest_difference < 1e-4
    assert not found.other_tokens
