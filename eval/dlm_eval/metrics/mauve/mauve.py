"""Compute MAUVE of texts against as many references, with several seeds of k-means."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from dlm_eval.judges.mauve import SEEDS, mauve

DESCRIPTION = """
MAUVE by the package mauve-text, mean over seeds of k-means.  The counts of texts and references
must be equal, and figures of different counts are not comparable.
"""
INPUTS = """
predictions: list of texts.
references: list of as many texts of people.
featuriser: "own", a folder, or a name on the hub; default gpt2-large.
seeds: seeds of k-means.
"""


class Mauve(evaluate.Metric):
    """Return the mean, the standard deviation over seeds, the value of each seed, and n."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        featuriser: Any = "gpt2-large",
        seeds: tuple[int, ...] = SEEDS,
    ) -> dict[str, Any]:
        found = mauve(predictions, references, featuriser=featuriser, seeds=seeds)
        return {
            "mauve": found.mean,
            "spread": found.spread,
            "values": list(found.values),
            "seeds": list(found.seeds),
            "buckets": found.buckets,
            "texts": found.n,
        }
