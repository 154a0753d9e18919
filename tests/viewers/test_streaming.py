"""The progress bar: every position counts once, whatever the batches."""

from __future__ import annotations

import torch

from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.viewers.streaming import ProgressFeed


def event(known: int, *, final: bool) -> StepEvent:
    """One row of 4 positions, of which the first `known` hold tokens and one was just written."""
    unknown = (torch.arange(4) >= known).unsqueeze(0)
    written = (torch.arange(4) == known - 1).unsqueeze(0)
    row, tokens = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64)
    return StepEvent(
        iteration=known - 1,
        rows=row,
        before=tokens,
        tokens=tokens,
        unknown=unknown,
        written=written,
        block=row,
        step=row,
        nfe=row,
        forwarded=row.bool(),
        logprob=tokens.float(),
        log_confidence=None,
        entropy=None,
        final=torch.tensor([final]),
    )


def test_the_bar_adds_up_over_batches_that_number_their_rows_from_0() -> None:
    bar = ProgressFeed(12, True)
    shown: list[int] = []
    for stops in (4, 2, 4):  # the second row ends early; nothing of it is left
        for known in range(1, stops + 1):
            bar(event(known, final=known == stops))
            shown.append(int(bar.bar.n))
    bar.close()
    assert shown == [1, 2, 3, 4, 5, 8, 9, 10, 11, 12]
