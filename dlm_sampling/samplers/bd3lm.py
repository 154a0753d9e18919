"""Write one block after the other by first-hitting sampling with a nucleus, as BD3-LM does.

    t' = t u^(1 / n) with n masked positions left in the block, t = 1 where a block begins;
    the position is uniform among them, the token follows the nucleus of p(x0 | x at t').

Arriola et al. 2025, "Block Diffusion", arXiv:2503.09573, and the released `_semi_ar_sampler` and
`_check_stop_conds`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields
from dlm_sampling.samplers.parts.checks import at_least
from dlm_sampling.samplers.parts.hitting_groups import HittingSampler
from dlm_sampling.samplers.parts.hitting_times import Hits
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import LINEAR, Schedule
from dlm_sampling.types import TokenLaw


@dataclass(frozen=True)
class BD3LM(HittingSampler):
    """Write one token per forward pass at its hitting time, from a nucleus of 0.9, block by block.

    The token that crosses the nucleus is left out.  Meant for block-causal models: `causal_blocks`
    of the loop with the model's block length (4, 8 or 16 in the paper).  Every row has its own
    times; the released code runs one row at a time.

    Fields:
        tokens_per_step: tokens per forward; 1 is the paper's and exact.
        schedule: alpha(t), which matters to time-conditioned denoisers.

    NFE: ceil(block / tokens_per_step) per block; a cache costs the released code one more.
    """

    tokens_per_step: int = 1
    schedule: Schedule = LINEAR

    law = TokenLaw(top_p=0.9, crossing="exclude")
    paper = "Arriola et al. 2025, arXiv:2503.09573"
    nfe = "ceil(tokens / tokens_per_step)"
    clock_use = "begin"

    @property
    def hits(self) -> Hits:
        """Return the rule that draws this sampler's hitting times and groups them."""
        return Hits(self.tokens_per_step, schedule=self.schedule)


class StopVerdict(NamedTuple):
    """Hold where rows end, and which are rejected."""

    length: Tensor  # int64 [B], columns to keep
    rejected: Tensor  # bool [B], repetitive: to be sampled again


@dataclass(frozen=True)
class BlockStop:
    """Apply the released stop rules to finished rows.

    After every block past `window` columns a row stops if the tokens of its last `window` columns
    have an entropy below `min_entropy`, or (variable length) if it holds `ends` end-of-text tokens.
    A text begins with one, so 2 is the first that was written.  In the loop the same cut is
    `stop_token_ids`, which also saves the forwards after it.

    Fields:
        variable_length: cut rows; else repetitive rows are rejected and end tokens do not count.
        ends: end-of-text tokens, the one that begins the text included; the cut keeps the last.
        window: columns the entropy is taken over; a repetitive row is cut in front of them.
        min_entropy: nats, of the relative frequencies of the tokens; 0 turns the rule off.
    """

    variable_length: bool = False
    ends: int = 2
    window: int = 256
    min_entropy: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)
        at_least("ends", self.ends, 1, "the released value is 2")
        at_least("window", self.window, 1, "the released value is 256")
        at_least("min_entropy", self.min_entropy, 0.0, "the released value is 4 nats")
        if self.min_entropy > math.log(self.window):
            raise ValueError(
                f"min_entropy={self.min_entropy}: must be at most log(window) = "
                f"{math.log(self.window):.3g}, "
                "else every row stops; the released values are 4 and 256."
            )

    def __call__(self, tokens: Tensor, eos_token_id: int, block_length: int) -> StopVerdict:
        """Judge rows without padding, int64 [B, L]."""
        at_least("block_length", block_length, 1, "the block length of the model")
        found = [self.judge(row, eos_token_id, block_length) for row in tokens]
        lengths, rejected = zip(*found, strict=True) if found else ((), ())
        return StopVerdict(
            torch.tensor(lengths, dtype=torch.int64, device=tokens.device),
            torch.tensor(rejected, dtype=torch.bool, device=tokens.device),
        )

    def judge(self, row: Tensor, eos_token_id: int, block_length: int) -> tuple[int, bool]:
        """Return the length to keep of one row [L], and whether the row is rejected."""
        end_of_text = (row == eos_token_id).cumsum(0)
        for stop in range(block_length, len(row) + block_length, block_length):
            seen = row[:stop]
            if len(seen) <= self.window:
                continue
            if float(token_entropy(seen[-self.window :])) < self.min_entropy:
                return (
                    (len(seen) - self.window, False) if self.variable_length else (len(row), True)
                )
            if self.variable_length and int(end_of_text[len(seen) - 1]) >= self.ends:
                return int((end_of_text >= self.ends).long().argmax()) + 1, False
        return len(row), False


def token_entropy(tokens: Tensor) -> Tensor:
    """Return the entropy in nats of the frequencies of the tokens [n], a scalar in [0, log n]."""
    ordered = tokens.sort().values
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    share = torch.bincount(first.long().cumsum(0) - 1).double() / tokens.numel()
    return -(share * share.log()).sum()


register("bd3lm", BD3LM)
