"""Hold what a preset may be told: the model, the counts and the judge."""

from __future__ import annotations

from dataclasses import dataclass

from dlm_eval.comparison.part import Weights
from dlm_eval.text.judging import JudgeOptions


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Hold the options of a preset that runs on any model.

    Fields:
        weights: the model.
        judge: how texts are judged.
        samples: texts of each setting; None is the number of the publication.
        new_tokens: tokens of each text; None is the length of the publication.
        batch_rows: texts that run together.
        seed: row i draws from seed + i.
    """

    weights: Weights
    judge: JudgeOptions
    samples: int | None = None
    new_tokens: int | None = None
    batch_rows: int = 16
    seed: int = 0
