"""What a draw makes at once: the sums in the first step of a run, then what was read before."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.ops.laws import Reading
from dlm_sampling.ops.lazy_draw import Plan
from dlm_sampling.ops.reads import EVERYTHING, Reads, Wanted
from dlm_sampling.ops.sources import Block
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


def test_a_run_makes_sums_alone_and_the_rest_once_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, zero = torch.randn(3, 40), torch.zeros(3, dtype=torch.int64)
    whole = ops.draw(logits, keys=zero, positions=zero, steps=zero, law=TokenLaw(0.0))
    made: list[Wanted] = []
    read = Plan.read

    def noting(plan: Plan, block: Block, wanted: Wanted) -> Reading:
        made.append(wanted)
        return read(plan, block, wanted)

    monkeypatch.setattr(Plan, "read", noting)
    draw = ops.draw_lazily(
        logits, lambda: (zero, zero, zero), law=TokenLaw(0.0), reads=Reads.of_run()
    )
    assert draw.log_confidence.equal(whole.log_confidence)
    assert made == [Wanted(sums=True, entropy=False, second=False)]
    assert draw.entropy.equal(whole.entropy)
    assert draw.margin.equal(whole.margin)
    assert made[1:] == [Wanted(sums=True, entropy=True, second=False), EVERYTHING]
