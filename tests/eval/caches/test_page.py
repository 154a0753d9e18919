"""The page of the cache benchmark is what its result file says; a killed run of it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dlm_eval.caches.page import page
from dlm_eval.caches.speed import CELLS, measured
from dlm_eval.journal import Journal, SettingsChanged

EVAL = Path(__file__).parents[3] / "eval"
RESULT: dict[str, Any] = json.loads((EVAL / "results/kv_cache.json").read_text())


def seconds(layout: str, cache: str, loop: str = "dlm_sampling") -> float:
    (found,) = (
        run["seconds"]
        for run in RESULT["runs"]
        if (run["layout"], run["cache"], run["loop"]) == (layout, cache, loop)
    )
    return float(found)


def test_the_page_is_written_from_the_file() -> None:
    assert (EVAL / "CACHES.md").read_text(encoding="utf-8") == page(RESULT)


def test_the_block_cache_is_six_times_faster_and_no_loop_is_slower_than_the_released_one() -> None:
    assert seconds("sdar", "none") > 6 * seconds("sdar", "block")
    for cache in ("prefix", "dual"):
        assert seconds("llada", cache) <= seconds("llada", cache, "released")
    assert all(run.get("same_tokens", 1.0) == 1.0 for run in RESULT["runs"])


def test_a_killed_run_measures_the_rest_only(tmp_path: Path) -> None:
    path, asked = tmp_path / "kv.json.partial.jsonl", list[tuple[str, str]]()

    def measure(layout: str, cache: str) -> list[dict[str, Any]]:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append((layout, cache))
        return [{"layout": layout, "cache": cache, "number": len(asked)}]

    with pytest.raises(KeyboardInterrupt):
        measured(Journal(path, {"rows": 1}), measure)
    before, asked = asked, []
    with pytest.raises(KeyboardInterrupt):
        measured(Journal(path, {"rows": 1}), measure)
    assert [*before, *asked] == list(CELLS[:6])
    with pytest.raises(SettingsChanged, match="rows was 1 and is now 2"):
        Journal(path, {"rows": 2})
    runs = measured(
        Journal(path, {"rows": 1}), lambda *cell: [{"layout": cell[0], "cache": cell[1]}]
    )
    assert [(run["layout"], run["cache"]) for run in runs] == list(CELLS)
    assert [run.get("number") for run in runs[:6]] == [1, 2, 3, 1, 2, 3]
