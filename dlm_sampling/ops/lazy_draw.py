"""Hold the outcome of a draw, and make the statistics of its law when they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops.laws import LawSums, Reading, joined
from dlm_sampling.ops.reads import Reads, Wanted
from dlm_sampling.ops.scratch import Scratch
from dlm_sampling.ops.sources import Block
from dlm_sampling.ops.temperature import TemperedLaw
from dlm_sampling.ops.tiles import read_tiles
from dlm_sampling.ops.vocabulary import AllowedIds


class Plan(NamedTuple):
    """Hold the values that all blocks of a draw share."""

    allowed: AllowedIds
    shown: TemperedLaw  # the law of the statistics
    drawn: TemperedLaw  # the law of the draw
    argmax: bool | Tensor  # whether all tokens are the argmax, or bool [R]
    scratch: Scratch

    def cut(self, law: TemperedLaw, block: Block) -> TemperedLaw:
        """Return a law with the temperatures of the rows of a block."""
        temperature = law.temperature
        return law._replace(temperature=temperature[block.span]) if isinstance(
            temperature, Tensor
        ) else law  # fmt: skip

    def read(self, block: Block, wanted: Wanted) -> Reading:
        """Read the logits of a block."""
        drawn = None if self.argmax is True else self.cut(self.drawn, block)
        shown = None
        if drawn is not None and self.shown is self.drawn:
            shown = drawn
        elif wanted.sums or wanted.entropy:
            shown = self.cut(self.shown, block)
        best = self.argmax is not False
        return read_tiles(block, self.allowed, shown, drawn, self.scratch, wanted=wanted, best=best)


class Part(NamedTuple):
    """Hold what was drawn in one block, or in several."""

    token: Tensor  # int64 [b]
    logit: Tensor | None  # float64 [b], of the tokens; None where it is the peak
    found: Reading
    dtype: torch.dtype  # of the statistics


class LazyDraw:
    """Show a draw as the tables [R] of `types.Draw`; each is made when it is read.

    Args:
        plan: the values that all blocks share.
        parts: the tokens, block by block.
        again: returns the same blocks once more, for statistics that were left out.
        reads: notes what is read.
    """

    def __init__(
        self, plan: Plan, parts: list[Part], again: Callable[[], Iterable[Block]], reads: Reads
    ) -> None:
        self._plan, self._again, self._reads = plan, again, reads
        self.token, self._logit, self._found, self.dtype = parts[0]
        self._log_total: Tensor | None = None
        if len(parts) > 1:
            self.token = torch.cat([part.token for part in parts])
            logits = [part.logit for part in parts if part.logit is not None]
            self._logit = torch.cat(logits) if logits else None
            self._found = joined([part.found for part in parts])
        self._peak = self._found.peak.double() if self._logit is not None else self._found.peak

    @property
    def certain(self) -> bool:
        """Return whether every token is the argmax, of log-probability 0."""
        return self._logit is None or self._found.drawn is None

    @property
    def logprob(self) -> Tensor:
        """Return the log-probability of the token under the sampled law."""
        plan, sums = self._plan, self._found.drawn
        if self._logit is None or sums is None:
            return torch.zeros_like(self.token, dtype=self.dtype)
        if plan.drawn is plan.shown:
            values = self._confidence()
        else:
            values = (self._logit - self._peak) / plan.drawn.temperature - sums.total.log()
        if isinstance(plan.argmax, Tensor):
            values = values.masked_fill(plan.argmax, 0.0)
        return values.clamp(max=0.0).to(self.dtype)

    @property
    def log_confidence(self) -> Tensor:
        """Return the log-probability of the token under the law of the statistics."""
        found = self._confidence()
        # That of the peak is no more than 0: a sum that holds a weight of 1 is no less than 1.
        return (found if self._logit is None else found.clamp_(max=0.0)).to(self.dtype)

    @property
    def max_logprob(self) -> Tensor:
        """Return the largest log-probability."""
        return (-self._log_normalizer()).to(self.dtype)

    @property
    def margin(self) -> Tensor:
        """Return the largest minus the second-largest probability."""
        self._reads.second = True
        sums, second = self._shown(), self._found.second
        if second is None:
            self._read_again()
            sums, second = self._shown(), self._found.second
            assert second is not None
        runner_up = (second.double() - self._peak.double()) / self._plan.shown.temperature
        if sums.boundary is not None:
            runner_up = runner_up.masked_fill(sums.boundary.single, -math.inf)
        return (-torch.expm1(runner_up) / sums.total).to(self.dtype)

    @property
    def entropy(self) -> Tensor:
        """Return the entropy in nats."""
        self._reads.entropy = True
        found = self._shown().entropy
        if found is None:
            self._read_again()
            found = self._shown().entropy
            assert found is not None
        return found.to(self.dtype)

    @property
    def log_normalizer(self) -> Tensor:
        """Return the logsumexp of the logits that the statistics are taken over."""
        scaled = self._peak.double() / self._plan.shown.temperature
        return (scaled + self._log_normalizer()).to(self.dtype)

    def _confidence(self) -> Tensor:
        """Return the log-probability of the token under the law of the statistics, float64."""
        if self._logit is None:
            return torch.rsub(self._log_normalizer(), 0.0)  # 0 - x, which is never -0
        scaled = (self._logit - self._peak) / self._plan.shown.temperature
        return scaled - self._log_normalizer()

    def _log_normalizer(self) -> Tensor:
        """Return the logarithm of the sum of the weights relative to the peak, float64."""
        if self._log_total is None:
            self._log_total = self._shown().total.log()
        return self._log_total

    def _shown(self) -> LawSums:
        """Return the sums of the law of the statistics."""
        self._reads.sums = True
        if self._found.shown is None:
            self._read_again()
        assert self._found.shown is not None
        return self._found.shown

    def _read_again(self) -> None:
        """Read the logits once more, for the statistics that were ever read."""
        with torch.no_grad():
            blocks = self._again()
            self._found = joined([self._plan.read(block, self._reads.noted) for block in blocks])
