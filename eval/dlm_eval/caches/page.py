"""Write the page of the cache benchmark from its result file."""

from __future__ import annotations

from typing import Any

TITLES = {"sdar": "block-causal (layout of SDAR)", "llada": "full attention (layout of LLaDA)"}


def page(result: dict[str, Any]) -> str:
    """Return the page, in markdown; no number of it is typed by hand.

    Args:
        result: the content of the file that `dlm_eval.caches.speed` writes.
    """
    sizes, machine = result["sizes"], result["machine"]
    lines = [
        "# What a cache costs and saves",
        "",
        f"Random networks of width {sizes['width']} with {sizes['layers']} layers, a prompt of "
        f"{sizes['prompt']} tokens and {sizes['new']} new ones in",
        f"blocks of {sizes['block']}, {sizes['steps_per_block']} passes each, {sizes['rows']} row, "
        f"vocabulary {sizes['vocab']}, float32. Processor seconds of one thread",
        f"({machine['cpu']}, torch {machine['torch']}). *Work* is `out.work`: the columns of all "
        "passes in canvases, for `dllm` as",
        "if all layers computed them. *Released loop* is the arithmetic of Fast-dLLM's loop with "
        "the same cache and weights in the",
        "same run, written anew (`dlm_eval/caches/loops.py`).",
        "Written by one command:",
        "",
        "```bash",
        str(result["command"]),
        "```",
    ]
    if "note" in result:
        lines += ["", result["note"]]
    for layout in dict.fromkeys(run["layout"] for run in result["runs"]):
        lines += ["", *_table(layout, [run for run in result["runs"] if run["layout"] == layout])]
    return "\n".join(lines) + "\n"


def _table(layout: str, runs: list[dict[str, Any]]) -> list[str]:
    """Return the section of a layout, the slowest run first."""
    ours = {run["cache"]: run for run in runs if run["loop"] == "dlm_sampling"}
    theirs = {run["cache"]: run for run in runs if run["loop"] == "released"}
    lines = [
        f"## {TITLES[layout]}",
        "",
        "| cache | seconds | times faster than none | work | released loop (s) | same tokens |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for cache, run in sorted(ours.items(), key=lambda item: -item[1]["seconds"]):
        ratio = ours["none"]["seconds"] / run["seconds"] if "none" in ours else float("nan")
        other = theirs.get(cache)
        beside = "" if other is None else f"{other['seconds']:.1f}"
        same = "" if other is None else f"{other['same_tokens']:.1%}"
        lines.append(
            f"| {cache} | {run['seconds']:.1f} | {ratio:.1f} | {run['work']:.1f} | {beside} | "
            f"{same} |"
        )
    return lines
