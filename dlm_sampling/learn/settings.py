"""Hold the settings of a learning run, and check them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dlm_sampling.errors import unknown_choice
from dlm_sampling.learn.fits import FITS, FitName
from dlm_sampling.learn.targets import DIVERGENCES, TARGETS, DivergenceName, TargetName


@dataclass(frozen=True)
class Learning:
    """Hold the settings of a learning run.

    Fields:
        steps: planned steps of a block, M; forward passes, two per interval for theta-trapezoidal.
        teacher_steps: N, a multiple of M.
        length: positions of the texts that are learnt from; no prompt.
        rows: texts per round.
        rounds: rounds of texts, each under the coefficients so far.
        fit: "closed" for the minimiser over all rounds, "gradient" for Adam.
        target: "interval" compares from one canvas, "trajectory" two runs, as printed; see
            `targets`.
        divergence: "squared" or "score-entropy".
        times: whether the times are learnt too, LSD+; a second lot of rounds.
        learning_rate: of Adam.
        seed: of all texts.
    """

    steps: int
    teacher_steps: int = 256
    length: int = 64
    rows: int = 8
    rounds: int = 8
    fit: FitName = "closed"
    target: TargetName = "interval"
    divergence: DivergenceName = "squared"
    times: bool = False
    learning_rate: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "length", "rows", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1.")
        if self.teacher_steps < self.steps or self.teacher_steps % self.steps:
            raise ValueError(
                f"teacher_steps={self.teacher_steps}: must be a multiple of steps={self.steps}, so "
                f"that grids match; try {16 * self.steps}."
            )
        if not 0.0 < self.learning_rate < float("inf"):
            raise ValueError(
                f"learning_rate={self.learning_rate}: must be finite and above 0; try 1e-2."
            )
        tables: dict[str, Any] = {"fit": FITS, "target": TARGETS, "divergence": DIVERGENCES}
        for name, table in tables.items():
            if getattr(self, name) not in table:
                raise unknown_choice(name, getattr(self, name), table)
