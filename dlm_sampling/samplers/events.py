"""What samplers of single events keep: a clock per row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.types import Canvas


class EventState(NamedTuple):
    """Every row has its own clock."""

    t: Tensor  # float64 [B], time of the last event
    over: Tensor  # bool [B], whether the block is written


def begin(canvas: Canvas) -> EventState:
    """Time 1, nothing written."""
    over = torch.zeros_like(canvas.start, dtype=torch.bool)
    return EventState(torch.ones_like(canvas.start, dtype=torch.float64), over)
