"""Define the start of a run, noise or a draft, and check a time grid of the caller's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from dlm_sampling.errors import check_flag, check_real

NO_TOKEN = -1
"""Stands in a draft for a position that holds noise."""


@dataclass(frozen=True)
class Start:
    """Say that editable positions hold a draft, and how noisy it is when the run begins.

    Fields:
        t: the time at which the clock of the sampler begins, in (0, 1), or None for a sampler
            without a clock.
        renoise: whether the draft is noised to the level of `t` first; without `t` never.
    """

    t: float | None = None
    renoise: bool = True

    def __post_init__(self) -> None:
        check_real("t_start", self.t, optional=True)
        check_flag("renoise", self.renoise)
        if self.t is not None and not 0.0 < self.t < 1.0:
            raise ValueError(
                f"t_start={self.t}: must be in (0, 1); near 1 little of the draft is left, near 0 "
                "nearly all; try 0.5."
            )

    @property
    def noises(self) -> float | None:
        """Return the time to whose level the draft is noised, or None if it is taken as it is."""
        return self.t if self.renoise else None


def taken_as_it_is(start: Start | None) -> Start | None:
    """Return the start of a run whose first canvas is known."""
    return None if start is None else replace(start, renoise=False)


def check_times(times: tuple[float, ...] | None, planned: int | None, begin: float) -> None:
    """Check a time grid of the caller's own.

    Args:
        times: the grid, or None.
        planned: steps that were asked for, or None.
        begin: the time at which the run begins.

    Raises:
        TypeError, ValueError: it is no falling grid from `begin`, or has other steps than planned.
    """
    if times is None:
        return
    for i, t in enumerate(times):
        check_real(f"times[{i}]", t)
    falls = all(a > b for a, b in pairwise(times))
    if len(times) < 2 or not falls or not 0.0 <= times[-1] < times[0] <= 1.0:
        raise ValueError(
            f"times={list(times)}: must fall from step to step within [0, 1]; try "
            "times=[1.0, 0.5, 0.2, 0.0]."
        )
    if times[0] != begin:
        why = "a run from noise begins at 1" if begin == 1.0 else f"t_start is {begin}"
        raise ValueError(f"times[0]={times[0]}: must be {begin}, as {why}.")
    if planned is not None and planned != len(times) - 1:
        raise ValueError(
            f"steps={planned}: must be {len(times) - 1}, one per interval of times; leave it out."
        )
