"""Compute MAUVE of texts against as many references, with several seeds of k-means."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from dlm_eval.judges.causal import CausalJudge
from dlm_eval.judges.mauve import SEEDS, mauve, same_count
from dlm_eval.metrics import check_texts

DESCRIPTION = """
MAUVE by the package mauve-text, mean over seeds of k-means.  The counts of texts and references
must be equal, and figures of different counts are not comparable.
"""
INPUTS = """
predictions: list of texts.
references: list of as many texts of people.
judge: model of the features: "own", a folder, or a name on the hub (published figures have
    gpt2-large); default own.
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
        judge: str = "own",
        seeds: tuple[int, ...] = SEEDS,
    ) -> dict[str, Any]:
        check_texts(predictions)
        same_count(len(predictions), len(references))
        loaded = CausalJudge.from_pretrained(judge, option="judge")
        found = mauve(predictions, references, featuriser=loaded, seeds=seeds)
        return {
            "mauve": found.mean,
            "spread": found.spread,
            "values": list(found.values),
            "seeds": list(found.seeds),
            "buckets": found.buckets,
            "texts": found.n,
        }
