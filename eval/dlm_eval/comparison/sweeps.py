"""Hold what a comparison knows of the samplers: their own laws, and the parameters to sweep."""

from __future__ import annotations

from dataclasses import dataclass

from dlm_sampling import samplers
from dlm_sampling.types import TokenLaw

LAWS = {
    "plain": TokenLaw(),
    "greedy": TokenLaw(temperature=0.0),
    "nucleus": TokenLaw(top_p=0.9, crossing="exclude"),
}
"""Laws by name; a sampler whose own law is none of these has the law "own"."""


@dataclass(frozen=True)
class Sweep:
    """The budget of a sampler that sets its own pace is an option, not the planned steps.

    Fields:
        option: name of the sampler's parameter.
        values: what it is set to, by world.
        steps: planned steps of all runs, for samplers that also read them; None is one per token.
        bound: whether the planned steps bound the passes from above, so that one per token leaves
            the sampler its own pace.
    """

    option: str
    values: dict[str, tuple[float, ...]]
    steps: int | None = None
    bound: bool = False


_THRESHOLDS = {"text": (0.9, 0.5, 0.3, 0.15, 0.05), "sudoku": (0.9, 0.7, 0.5, 0.3)}
_REFINED = {"text": (0.95, 0.7, 0.5, 0.3, 0.15), "sudoku": (0.95, 0.7, 0.5, 0.3)}
_STABLE = {"text": (0.9, 0.6, 0.3, 0.1, 0.03), "sudoku": (0.9, 0.7, 0.5, 0.3)}
SWEEPS = {
    "klass": Sweep("conf_threshold", _STABLE, bound=True),
    "klass-dream": Sweep("conf_threshold", _STABLE, bound=True),
    "ccd": Sweep(
        "expand_ratio", {"text": (1.0, 4.0, 16.0), "sudoku": (0.0, 1.0, 4.0, 16.0)}, bound=True
    ),
    "eb-sampler": Sweep(
        "gamma", {"text": (0.1, 3.0, 10.0, 30.0, 60.0), "sudoku": (0.1, 0.5, 1.0, 2.0)}
    ),
    "fast-dllm": Sweep("threshold", _THRESHOLDS),
    "fast-dllm-factor": Sweep(
        "factor", {"text": (1.0, 2.0, 4.0, 8.0, 16.0), "sudoku": (0.5, 1.0, 2.0, 4.0)}
    ),
    "fast-dllm-dream": Sweep("threshold", _THRESHOLDS, steps=4),
    "fast-dllm-v2": Sweep("threshold", _THRESHOLDS),
    "dinfer-threshold": Sweep("threshold", _THRESHOLDS),
    "dinfer-hierarchy": Sweep(
        "low_threshold", {"text": (0.6, 0.3, 0.1, 0.03, 0.0), "sudoku": (0.6, 0.3, 0.1, 0.0)}
    ),
    "dinfer-credit": Sweep("threshold", _THRESHOLDS),
    "d2f": Sweep("threshold", _THRESHOLDS),
    "d3llm": Sweep("bound", {"text": (0.1, 1.0, 3.0, 5.0), "sudoku": (0.05, 0.3, 0.6, 1.0)}),
    "sdar": Sweep("threshold", _REFINED, bound=True),
    "block-refinement": Sweep("threshold", _REFINED, bound=True),
    "llada2": Sweep("threshold", _REFINED, bound=True),
    "llada2.1": Sweep("threshold", _REFINED, bound=True),
    "diffusion-gemma": Sweep(
        "gamma", {"text": (0.1, 3.0, 10.0, 30.0), "sudoku": (0.1, 1.0, 3.0)}, bound=True
    ),
    "planned-adaptive": Sweep(
        "tol", {"text": (0.1, 3.0, 10.0, 30.0), "sudoku": (0.1, 1.0, 3.0)}, bound=True
    ),
    "gillespie": Sweep("events_per_step", {"text": (1, 2, 4, 8, 16), "sudoku": (1, 2, 4)}),
    # Nothing sets its pace: events come as the process has them.
    "uniformization": Sweep("t_end", {"text": (1e-5,), "sudoku": (1e-5,)}),
    "bd3lm": Sweep("tokens_per_step", {"text": (1, 2, 4, 8, 16), "sudoku": (1, 2, 4)}),
}


def own_law(name: str) -> str:
    """Return the name of the law that a sampler has by default."""
    law = samplers.create(name).law
    return next((key for key, value in LAWS.items() if value == law), "own")
