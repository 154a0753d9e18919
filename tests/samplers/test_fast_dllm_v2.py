"""Fast-dLLM v2: sub-blocks, the first token of a block, and the exact law of the rule."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.samplers import FastDLLMv2
from dlm_sampling.types import Canvas, Choice, Clock
from tests.samplers.adaptive import (
    P_LIMIT,
    Choose,
    against_rule,
    best,
    confidence,
    peaked,
    run,
    written_per_step,
)

CONFIDENCES = [0.9, 0.95, 0.5, 0.7, 0.9, 0.95, 0.65, 0.55]
ALONE = [[1], [3], [2], [4], [5], [6], [7]]
TOGETHER = [[1], [3], [2], [4, 5], [6], [7]]


@pytest.mark.parametrize(("lead", "steps"), [(True, ALONE), (False, TOGETHER)])
def test_sub_blocks_of_two_in_blocks_of_four_behind_a_prompt_of_one(
    lead: bool, steps: list[list[int]]
) -> None:
    out = run(
        peaked(CONFIDENCES), FastDLLMv2(0.6, 2, lead), 7, prompt=[0], block_length=4,
        align_blocks=True, return_trajectory=True,
    )  # fmt: skip
    assert written_per_step(out) == steps
    assert out.nfe.tolist() == [len(steps)]


def rule(threshold: float, sub_block: int) -> Choose:
    def choose(laws: dict[int, list[float]], drawn: dict[int, int]) -> set[int]:
        if 0 in drawn:
            return {0}
        first = min(drawn) // sub_block
        sure = {i: c for i, c in confidence(laws, drawn).items() if i // sub_block == first}
        return {i for i, c in sure.items() if c > threshold} | {best(sure)}

    return choose


@pytest.mark.parametrize("sub_block", [2, 8])
def test_the_rule_draws_its_exact_law(sub_block: int) -> None:
    result = against_rule(FastDLLMv2(0.35, sub_block), rule(0.35, sub_block))
    assert result.p > P_LIMIT, result


def test_the_choice_is_certain_where_draws_are_an_argmax() -> None:
    ones = torch.ones(2, 3, dtype=torch.bool)
    canvas = Canvas(torch.full((2, 3), 4), ones, ones, torch.zeros(2).long(), 4)
    clock = Clock(torch.tensor([0, 0]), torch.tensor([2, 2]))
    drawn, found = (
        FastDLLMv2().choice_logprob(canvas, clock, Choice(ones, ~ones, greedy=greedy))
        for greedy in (False, True)
    )
    assert drawn is None and found is not None and found.tolist() == [0.0, 0.0]


def test_values_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"threshold=2\.0: must be a probability"):
        FastDLLMv2(2.0)
    with pytest.raises(ValueError, match="sub_block=0: must be at least 1"):
        FastDLLMv2(sub_block=0)
