"""Define what the plots of a comparison hold of a setting."""

from __future__ import annotations

from dataclasses import dataclass

from dlm_eval.comparison.settings import Setting


@dataclass(frozen=True)
class Point:
    """Hold one setting in the plots: NFE, quality and its error, tokens per forward, entropy."""

    setting: Setting
    nfe: float
    per_forward: float
    quality: float | None
    error: float
    entropy: float | None
    entropy_error: float
