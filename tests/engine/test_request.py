"""The request of a run: what is refused at once, and canvases of which each field keeps its row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling import samplers
from dlm_sampling.engine.request import BlockRequest, Canvases, Request

LLADA = samplers.create("llada")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"length": 2.5}, TypeError, "block_length"),
        ({"length": 2**31}, ValueError, "block_length=2147483648: must be at most 2147483647"),
        ({"steps": "8"}, TypeError, "steps"),
        ({"steps": 100_001}, ValueError, "steps=100001: must be at most 100000"),
        ({"steps_per_block": 100_001}, ValueError, "steps_per_block=100001"),
        ({"align": 1}, TypeError, "align_blocks"),
        ({"causal": "yes"}, TypeError, "causal_blocks"),
    ],
)
def test_wrong_blocks_are_refused_by_the_name_that_a_caller_gave(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        BlockRequest(**options)


def test_the_largest_values_are_allowed() -> None:
    assert BlockRequest(length=2**31 - 1, steps=100_000).steps == 100_000
    for weight in (-1e4, 0.0, 1e4):
        assert Request(LLADA, guidance_scale=weight).guidance_scale == weight


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"guidance_scale": 1e4 + 1}, ValueError, "guidance_scale=10001.0: must be between -10000"),
        ({"guidance_scale": float("nan")}, ValueError, "guidance_scale"),
        ({"guidance_scale": "2"}, TypeError, "guidance_scale"),
        ({"every_step": 1}, TypeError, "every_step"),
        ({"return_trajectory": None}, TypeError, "return_trajectory"),
        ({"cuda_graph": 0}, TypeError, "cuda_graph"),
    ],
)
def test_wrong_settings_are_refused(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Request(LLADA, **options)


def test_a_canvas_moves_with_all_of_its_tensors() -> None:
    rows = torch.arange(6).view(3, 2)
    canvases = Canvases(rows, rows > 1, rows > 0, (7, 8, 9), rows[:, 0] > 1, (None,) * 3)
    moved = canvases.to(torch.device("meta"))
    assert {moved.tokens.device.type, moved.editable.device.type, moved.attention.device.type,
            moved.may_stop.device.type} == {"meta"}  # fmt: skip
    assert moved.seeds == (7, 8, 9) and moved.complete == (None,) * 3
    same = canvases.to(torch.device("cpu"))
    assert torch.equal(same.editable, rows > 1) and torch.equal(same.attention, rows > 0)
