"""Shares, cutoffs and quotas, counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling.samplers.parts import quotas
from dlm_sampling.types import Canvas, Clock


def bools(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows).bool()


@pytest.mark.parametrize("total", [0, 1, 7, 10, 49])
def test_a_share_is_rounded_down_but_for_rounding(total: int) -> None:
    for part in range(total + 1):
        share = torch.tensor([part / max(total, 1), (part + 0.5) / max(total, 1)]).double()
        share[0] = torch.tensor(part / max(total, 1), dtype=torch.float64)
        found = quotas.floor_share(torch.tensor([total, total]), share)
        assert found.tolist() == [part, part if part < total else total]
    outside = torch.tensor([-0.5, 1.5]).double()
    assert quotas.floor_share(torch.tensor([total, total]), outside).tolist() == [0, total]


def test_the_lowest_are_exactly_k_and_a_cutoff_is_strict() -> None:
    score = torch.tensor([[3.0, 1.0, 2.0, 1.0, 0.0]] * 4)
    among = bools([1, 1, 1, 1, 0]).expand(4, -1)
    k = torch.tensor([0, 1, 2, 4])
    lowest = quotas.lowest_positions(score, among, k).int().tolist()
    assert lowest == [[0] * 5, [0, 1, 0, 0, 0], [0, 1, 0, 1, 0], [1, 1, 1, 1, 0]]
    below = quotas.below_cutoff(score, among, k).int().tolist()
    assert below == [[0] * 5, [0] * 5, [0, 1, 0, 1, 0], [1, 1, 1, 1, 0]]
    slack = quotas.below_cutoff(score, among, k, 0.5).int().tolist()
    assert slack == [[0, 1, 0, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
    beyond = quotas.below_cutoff(score, among, torch.tensor([5, 9, 3, 3]))
    assert beyond.int().tolist() == [[1, 1, 1, 1, 0]] * 2 + [[0, 1, 1, 1, 0]] * 2


def test_a_block_is_as_wide_as_its_last_position_to_write() -> None:
    editable = bools([0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0])
    tokens = torch.zeros(3, 6, dtype=torch.int64)
    canvas = Canvas(tokens, editable, editable, torch.tensor([1, 0, 2]), 9)
    assert quotas.block_width(canvas).tolist() == [3, 6, 0]
    for step, wanted in ((0, [2, 3, 0]), (1, [1, 3, 0]), (5, [1, 3, 0])):
        clock = Clock(torch.full((3,), step), torch.tensor([2, 2, 2]))
        assert quotas.block_quota(canvas, clock).tolist() == wanted
    four = Clock(torch.tensor([1, 1, 9]), torch.tensor([4, 4, 4]))
    assert quotas.block_quota(canvas, four).tolist() == [1, 2, 0]


def test_all_confident_positions_or_the_best_of_the_quota() -> None:
    confidence = torch.tensor([[0.9, 0.8, 0.7, 0.99]] * 5)
    eligible = bools([1, 1, 1, 0]).expand(5, -1)
    quota = torch.tensor([0, 1, 2, 3, 9])
    found = quotas.confident_or_quota(confidence, eligible, quota, 0.8).int().tolist()
    assert found == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    more = quotas.confident_or_quota(confidence, eligible, quota, 0.75).int().tolist()
    assert more == [[1, 1, 0, 0]] * 3 + [[1, 1, 1, 0]] * 2
    never = quotas.confident_or_quota(confidence, eligible, quota, 1.5).int().tolist()
    assert never == [[0] * 4, [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]


def test_what_is_near_the_best_or_above_the_threshold() -> None:
    p = torch.tensor(
        [[0.5, 0.5 - 5e-6, 0.5 - 2e-5, 0.9], [0.95, 0.9, 0.8, 0.2]], dtype=torch.float64
    )
    eligible = bools([1, 1, 1, 0], [1, 1, 1, 1])
    found = quotas.near_best_positions(p.log(), eligible, 0.85).int().tolist()
    assert found == [[1, 1, 0, 0], [1, 1, 0, 0]]
    high = quotas.near_best_positions(p.log(), eligible, math.inf).int().tolist()
    assert high == [[1, 1, 0, 0], [1, 0, 0, 0]]
