"""Compute the unigram entropy of texts in nats."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from dlm_eval.judges.causal import CausalJudge
from dlm_eval.judges.diversity import unigram_entropy
from dlm_eval.metrics import check_texts

DESCRIPTION = """
Mean over texts of -sum f ln f, with f the frequencies of a judge's tokens inside one text.
"""
INPUTS = """
predictions: list of texts.
judge: whose tokens count: "own", a folder, or a name on the hub; default own.
revision: commit on the hub.
"""


class Entropy(evaluate.Metric):
    """Return the entropy in nats and the number of texts."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(
        self, predictions: list[str], judge: str = "own", revision: str | None = None
    ) -> dict[str, Any]:
        check_texts(predictions)
        rows = CausalJudge.from_pretrained(judge, revision, option="judge").encode(predictions)
        return {"entropy": unigram_entropy(rows), "texts": sum(1 for row in rows if row)}
