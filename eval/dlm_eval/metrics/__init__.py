"""Metrics as modules of the package `evaluate`, each in a folder of its name.

    import evaluate
    from dlm_eval.metrics import folder

    evaluate.load(folder("gen_perplexity")).compute(predictions=texts, judge="own")

They load without a network; `evaluate` copies the file into its cache of modules.
"""

from __future__ import annotations

from pathlib import Path

from dlm_sampling.errors import unknown_choice

NAMES = ("entropy", "gen_perplexity", "mauve")


def folder(name: str) -> str:
    """Return the folder of a metric, for `evaluate.load`.

    Args:
        name: one of `NAMES`.

    Raises:
        ValueError: there is no such metric.
    """
    if name not in NAMES:
        raise unknown_choice("name", name, NAMES)
    return str(Path(__file__).parent / name)
