"""The page eval/LSD.md from the result file."""

from __future__ import annotations

from typing import Any


def render(result: dict[str, Any]) -> str:
    """The page."""
    return "# LSD\n"
