"""What `orders` measures: each world with its solvers and grids, and the errors of each.

    TV(p, q) = 1/2 sum |p - q|,   KL = sum p log(p / q),   p the data, q what the solver samples

A slope is the least-squares slope of -log2(error) against log2(NFE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from dlm_eval.convergence.rules import MASKS, TRAPEZOIDAL, UNIFORM, Rule, clamped, final_law
from dlm_eval.convergence.worlds import MaskWorld, UniformWorld, World, dirichlet, gaussian_logits
from dlm_sampling.testing import tv

DIGITS = 12
EXACT = 1e-6
"""Errors that never rise above this are those of the start of the chain, and have no slope."""


@dataclass(frozen=True)
class Experiment:
    """One world, and what is run on it.

    Fields:
        name: short, unique.
        title: for figure and page.
        world: exact predictions.
        rules: solvers by name, right pairings.
        intervals: grids of the rules that cost two forward passes per interval; the others have
            one grid more, so that both reach the same NFE.
        window: smallest and largest number of intervals that the slopes are fitted over.
        wrong: by the name of the pairing, a solver and a world that hands it the wrong kind.
    """

    name: str
    title: str
    world: World
    rules: Mapping[str, Rule]
    intervals: tuple[int, ...]
    window: tuple[int, int]
    wrong: Mapping[str, tuple[Rule, World]]

    def grids(self, rule: Rule) -> tuple[int, ...]:
        """Numbers of intervals that a rule is run with."""
        return self.intervals if rule.forwards == 2 else (*self.intervals, 2 * self.intervals[-1])

    def pairings(self) -> dict[str, tuple[Rule, World]]:
        """Every solver with the world that it runs in, the right pairings first."""
        return {**{name: (rule, self.world) for name, rule in self.rules.items()}, **self.wrong}


def kl(p: Tensor, q: Tensor) -> float:
    """KL(p || q) in nats."""
    return float((p * (p / q).log()).sum())


def slope(nfe: Sequence[int], errors: Sequence[float]) -> float:
    """Least-squares slope of -log2(error) against log2(NFE)."""
    return -float(np.polyfit(np.log2(nfe), np.log2(errors), 1)[0])


def record(experiment: Experiment, name: str, grids: Sequence[int] | None = None) -> dict[str, Any]:
    """Errors and slopes of one solver; all its grids unless some are given."""
    rule, world = experiment.pairings()[name]
    intervals = experiment.grids(rule) if grids is None else tuple(grids)
    data = world.joint.flatten()
    laws = [final_law(rule, world, n) for n in intervals]
    nfe = [rule.forwards * n for n in intervals]
    errors = {"tv": [tv(law, data) for law in laws], "kl": [kl(data, law) for law in laws]}
    found: dict[str, Any] = {
        "method": name,
        "wrong": name in experiment.wrong,
        "forwards": rule.forwards,
        "intervals": list(intervals),
        "nfe": nfe,
        **{key: [rounded(value) for value in values] for key, values in errors.items()},
    }
    low, high = experiment.window
    inside = [i for i, n in enumerate(intervals) if low <= n <= high]
    if len(inside) > 1 and max(errors["tv"]) > EXACT:
        for key, values in errors.items():
            fitted = slope([nfe[i] for i in inside], [values[i] for i in inside])
            found[f"slope_{key}"] = rounded(fitted)
            found[f"last_slope_{key}"] = rounded(slope(nfe[-2:], values[-2:]))
    if rule is TRAPEZOIDAL and name in experiment.rules:
        found["clamped"] = [rounded(clamped(world, n)) for n in intervals]
    return found


def largest_difference(experiment: Experiment, names: Sequence[str]) -> float:
    """Between the final laws of solvers that should be one and the same, over all grids."""
    first, *others = (experiment.rules[name] for name in names)
    world, largest = experiment.world, 0.0
    for n in experiment.intervals:
        law = final_law(first, world, n)
        for other in others:
            largest = max(largest, float((final_law(other, world, n) - law).abs().max()))
    return largest


IDENTICAL = {
    MaskWorld: ("ancestral", "euler", "tweedie", "integrated jump"),
    UniformWorld: ("ancestral", "mixture", "tweedie"),
}
"""Solvers that are one and the same on log-linear masks, and under uniform noise."""


def rounded(value: float) -> float:
    """Twelve significant digits."""
    return float(f"{value:.{DIGITS}g}")


def _wrong(joint: Tensor) -> dict[str, tuple[Rule, World]]:
    """Solvers that are given the other kind of prediction."""
    posterior = UniformWorld(joint, {"leave_one_out": "posterior"})
    leave_one_out = UniformWorld(joint, {"posterior": "leave_one_out"})
    return {
        "ancestral of the posterior": (UNIFORM["ancestral"], posterior),
        "euler of the posterior": (UNIFORM["euler"], posterior),
        "theta-trapezoidal of the posterior": (UNIFORM["theta-trapezoidal"], posterior),
        "mixture of leave-one-out": (UNIFORM["mixture"], leave_one_out),
        "integrated jump of leave-one-out": (UNIFORM["integrated jump"], leave_one_out),
    }


def _uniform(
    name: str, title: str, joint: Tensor, wrong: Mapping[str, tuple[Rule, World]] | None = None
) -> Experiment:
    grids, world = (8, 16, 32, 64, 128, 256, 512), UniformWorld(joint)
    return Experiment(
        name, f"uniform noise, {title}", world, UNIFORM, grids, (32, 256), wrong or {}
    )


def _masks(name: str, title: str, joint: Tensor) -> Experiment:
    grids, world = (4, 8, 16, 32, 64, 128), MaskWorld(joint)
    return Experiment(name, f"masks, {title}", world, MASKS, grids, (16, 128), {})


def experiments() -> dict[str, Experiment]:
    """All of them by name; their laws are drawn by numpy from the seeds given here."""
    pair = gaussian_logits(2, 1.0, seed=0)
    mild, strong = gaussian_logits(3, 0.25, seed=1), gaussian_logits(3, 1.5, seed=1)
    plan = [
        _uniform("token-mild", "one token of 15, p0 ~ Dir(30)", dirichlet(30.0, seed=0)),
        _uniform("token", "one token of 15, p0 ~ Dir(1)", dirichlet(1.0, seed=0)),
        _uniform(
            "pair-mild", "two tokens of 3, logits N(0, 0.25²)", gaussian_logits(2, 0.25, seed=0)
        ),
        _uniform("pair", "two tokens of 3, logits N(0, 1)", pair, _wrong(pair)),
        _masks("masks-mild", "three tokens of 3, logits N(0, 0.25²)", mild),
        _masks("masks", "three tokens of 3, logits N(0, 1.5²)", strong),
    ]
    return {experiment.name: experiment for experiment in plan}


def identities() -> dict[str, dict[str, Any]]:
    """The largest difference between solvers that are one and the same, by experiment."""
    found: dict[str, dict[str, Any]] = {}
    for name, experiment in experiments().items():
        names = IDENTICAL[type(experiment.world)]
        found[name] = {
            "methods": list(names),
            "largest difference": largest_difference(experiment, names),
        }
    return found
