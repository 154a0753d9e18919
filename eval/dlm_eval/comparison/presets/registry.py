"""List the presets of `eval compare`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dlm_eval.comparison.part import Part
from dlm_eval.comparison.presets import (
    claims,
    claims_page,
    lsd,
    map_page,
    maps,
    published,
    varied,
)
from dlm_eval.comparison.presets.asked import Asked
from dlm_eval.comparison.presets.summary import Summary


@dataclass(frozen=True)
class Preset:
    """Hold comparisons that belong together, on the models that they name.

    Fields:
        parts: returns the comparisons, in the order they run.
        page: writes the page in Markdown.
        picture: whether the samplers are few enough for a picture beside the page.
    """

    parts: Callable[[], tuple[Part, ...]]
    page: Callable[[Summary], str]
    picture: bool = True


@dataclass(frozen=True)
class PresetOfModel:
    """Hold comparisons that run on any model; see `Preset`."""

    parts: Callable[[Asked], tuple[Part, ...]]
    page: Callable[[Summary], str]
    picture: bool = True


PRESETS: dict[str, Preset | PresetOfModel] = {
    "claims": Preset(claims.parts, claims_page.render),
    "published": PresetOfModel(published.parts, published.render),
    "varied": PresetOfModel(varied.parts, varied.render, picture=False),
    "samplers": Preset(maps.samplers_parts, map_page.render_samplers, picture=False),
    "uniform": Preset(maps.uniform_parts, map_page.render_uniform, picture=False),
    "lsd": Preset(lsd.parts, lsd.render, picture=False),
}
"""ORDERS.md is none of them: its solvers are measured by the exact law of their chain on enumerable
toys (`dlm_eval.convergence.orders`), so no sample is drawn that a comparison could judge."""
