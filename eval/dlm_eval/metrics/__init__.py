"""Metrics as modules of the package `evaluate`, each in a folder of its name.

    import evaluate
    from dlm_eval.metrics import folder

    evaluate.load(folder("gen_perplexity")).compute(predictions=texts)

They load without a network; `evaluate` copies the file into its cache of modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dlm_sampling.errors import unknown_choice

NAMES = ("entropy", "gen_perplexity", "mauve")


def check_texts(predictions: Sequence[str]) -> None:
    """Refuse an empty list of texts.

    Raises:
        ValueError: it is empty.
    """
    if not predictions:
        raise ValueError("predictions=[]: give at least one text.")


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
