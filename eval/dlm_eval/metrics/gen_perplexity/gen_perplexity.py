"""Compute the generative perplexity of texts under a causal language model."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from dlm_eval.judges.causal import CausalJudge
from dlm_eval.judges.diversity import unigram_entropy
from dlm_eval.metrics import check_texts

DESCRIPTION = """
exp(sum of negative log-likelihoods / sum of counted tokens) of texts that a judge tokenises again:
tokens 2..n of at most 1024, the first end-of-text included.  Returned with the unigram entropy of
the same tokens, because repetition lowers both.
"""
INPUTS = """
predictions: list of texts.
judge: "own", a folder, or a name on the hub (published figures have gpt2-large); default own.
revision: commit on the hub.
reduction: "corpus" or "text".
add_bos: whether the first token counts too.
batch_size: texts in one pass.
"""


class GenPerplexity(evaluate.Metric):
    """Return perplexity, its standard error, the entropy in nats, counts and the judge."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(
        self,
        predictions: list[str],
        judge: str = "own",
        revision: str | None = None,
        reduction: Any = "corpus",
        add_bos: bool = False,
        batch_size: int = 8,
    ) -> dict[str, Any]:
        check_texts(predictions)
        loaded = CausalJudge.from_pretrained(judge, revision, option="judge")
        scores = loaded.score(predictions, add_bos=add_bos, batch_size=batch_size)
        return {
            "perplexity": scores.perplexity(reduction),
            "standard_error": scores.standard_error(reduction),
            "entropy": unigram_entropy(scores.ids),
            "texts": len(predictions) - scores.silent,
            "tokens": int(scores.counts.sum()),
            "judge": loaded.name,
            "judge_revision": loaded.revision,
        }
