"""Hold the settings of a learning run, and check them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from dlm_sampling.errors import check_fields
from dlm_sampling.learn.fits import FitName
from dlm_sampling.learn.targets import DivergenceName, TargetName


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
        check_fields(self)
        counts = {
            "steps": self.steps,
            "length": self.length,
            "rows": self.rows,
            "rounds": self.rounds,
        }
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}={count}: must be at least 1.")
        if self.teacher_steps < self.steps or self.teacher_steps % self.steps:
            raise ValueError(
                f"teacher_steps={self.teacher_steps}: must be a multiple of steps={self.steps}, so "
                f"that grids match; try {16 * self.steps}."
            )
        if not 0.0 < self.learning_rate < float("inf"):
            raise ValueError(
                f"learning_rate={self.learning_rate}: must be finite and above 0; try 1e-2."
            )


class LearningFields(TypedDict, total=False):
    """Declare the fields of `Learning` as keyword arguments."""

    steps: int
    teacher_steps: int
    length: int
    rows: int
    rounds: int
    fit: FitName
    target: TargetName
    divergence: DivergenceName
    times: bool
    learning_rate: float
    seed: int
