"""Listeners of a run: who hears an event, and in which order."""

from __future__ import annotations

from typing import Any

import torch

from dlm_sampling.engine.output import Listeners
from dlm_sampling.engine.trajectory import Trajectory


def test_listeners_are_the_trajectory_and_then_the_callbacks() -> None:
    assert not Listeners()
    heard: list[Any] = []
    kept = Trajectory(torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool))
    both = Listeners((heard.append,), kept)
    assert both and Listeners((heard.append,)) and Listeners(trajectory=kept)
    event: Any = object()
    for listener in both.all:
        listener(event)
    assert heard == [event]
    assert kept.events == [event]
