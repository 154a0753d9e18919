"""Say which statistics of the laws a draw makes in its pass, and note which are read.

A draw makes the token.  The sums of the law of the statistics, its entropy and its second best
token cost passes of their own, and most samplers read few of them.  The first step of a run makes
the sums, which most samplers read; a later step makes in its pass what has been read before, and
either makes anything else once it is read.  The numbers are the same either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Wanted(NamedTuple):
    """Say what a pass makes beside the token."""

    sums: bool  # of the law of the statistics, where it is not the law of the draw
    entropy: bool  # of the law of the statistics
    second: bool  # the largest logit of all other tokens


EVERYTHING = Wanted(sums=True, entropy=True, second=True)


@dataclass
class Reads:
    """Note which statistics the steps of a run read.

    Fields:
        sums: whether any number of the law of the statistics was read.
        entropy: whether the entropy was read.
        second: whether the margin was read.
        settled: whether what was never read is left out; set after the first step.
        first: numbers that draws make in their pass before.
    """

    sums: bool = False
    entropy: bool = False
    second: bool = False
    settled: bool = False
    first: Wanted = EVERYTHING

    @classmethod
    def of_run(cls) -> Reads:
        """Return what the draws of a run share."""
        return cls(first=Wanted(sums=True, entropy=False, second=False))

    @property
    def noted(self) -> Wanted:
        """Return what has been read."""
        return Wanted(self.sums, self.entropy, self.second)

    @property
    def wanted(self) -> Wanted:
        """Return what the next draw makes in its pass."""
        return self.noted if self.settled else self.first
