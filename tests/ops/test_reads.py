"""What a draw makes at once: everything in the first step of a run, then what was read before."""

from __future__ import annotations

import torch

from dlm_sampling import ops
from dlm_sampling.ops.reads import EVERYTHING, Reads, Wanted
from dlm_sampling.types import TokenLaw


def test_after_the_first_step_only_what_was_read_is_wanted() -> None:
    reads = Reads()
    assert reads.wanted == EVERYTHING
    zero = torch.zeros(2, dtype=torch.int64)
    draw = ops.draw_lazily(
        torch.randn(2, 5), lambda: (zero, zero, zero), law=TokenLaw(0.5), reads=reads
    )
    assert (reads.sums, reads.entropy, reads.second) == (False, False, False)
    assert draw.log_confidence.shape == (2,)
    assert (reads.sums, reads.entropy, reads.second) == (True, False, False)
    reads.settled = True
    assert reads.wanted == Wanted(sums=True, entropy=False, second=False)
    assert draw.entropy.shape == draw.margin.shape == (2,)
    assert reads.wanted == EVERYTHING
