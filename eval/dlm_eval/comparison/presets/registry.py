"""List the presets of `eval compare`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlm_eval.comparison.part import Part
from dlm_eval.comparison.presets import (
    claims,
    claims_page,
    laws,
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
        parts: returns the comparisons, in the order they run; given the samples of each setting,
            None for its own numbers.
        page: writes the page in Markdown.
        picture: whether the samplers are few enough for a picture beside the page.
    """

    parts: Callable[[int | None], tuple[Part, ...]]
    page: Callable[[Summary], str]
    picture: bool = True


@dataclass(frozen=True)
class PresetOfModel:
    """Hold comparisons that run on any model; see `Preset`."""

    parts: Callable[[Asked], tuple[Part, ...]]
    page: Callable[[Summary], str]
    picture: bool = True


@dataclass(frozen=True)
class PresetOfLaws:
    """Hold what is computed exactly in small worlds, without samples.

    Fields:
        run: measures what is left; given the folder, the file of the page and the command.
        paged: whether it writes a page.
    """

    run: Callable[[Path, Path, str], None]
    paged: bool = True


PRESETS: dict[str, Preset | PresetOfModel | PresetOfLaws] = {
    "claims": Preset(claims.parts, claims_page.render),
    "published": PresetOfModel(published.parts, published.render),
    "varied": PresetOfModel(varied.parts, varied.render, picture=False),
    "samplers": Preset(maps.samplers_parts, map_page.render_samplers, picture=False),
    "uniform": Preset(maps.uniform_parts, map_page.render_uniform, picture=False),
    "lsd": Preset(lsd.parts, lsd.render, picture=False),
    "orders": PresetOfLaws(laws.run_orders),
    "lsd-laws": PresetOfLaws(laws.run_lsd, paged=False),
}
