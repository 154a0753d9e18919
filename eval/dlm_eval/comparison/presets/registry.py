"""List the presets of `eval compare`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dlm_eval.comparison.part import Part
from dlm_eval.comparison.presets import claims, claims_page
from dlm_eval.comparison.presets.summary import Summary


@dataclass(frozen=True)
class Preset:
    """Hold comparisons that belong together.

    Fields:
        parts: returns the comparisons, in the order they run.
        page: writes the page in Markdown.
    """

    parts: Callable[[], tuple[Part, ...]]
    page: Callable[[Summary], str]


PRESETS = {"claims": Preset(claims.parts, claims_page.render)}
