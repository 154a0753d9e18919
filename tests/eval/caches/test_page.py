"""The page of the cache benchmark is what its result file says, and holds what it claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dlm_eval.caches.page import page

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
