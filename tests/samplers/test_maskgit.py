"""MaskGIT: mask counts, noisy choice of positions, and the reduction to LLaDA."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling.samplers import LLaDA, MaskGIT
from dlm_sampling.testing import chi_square, count_states
from dlm_sampling.types import Clock, TokenLaw
from tests.samplers.small import LENGTH, MASK, SYMBOLS, Tokens, exact_law, run, small_toy

P_LIMIT = 1e-4
ROWS = 20_000


def left_after_each_step(sampler: MaskGIT, length: int, steps: int) -> list[int]:
    out = run(small_toy(5, length, 7), sampler, length=length, steps=steps)
    assert out.trajectory is not None
    return [int(e.unknown.sum()) for e in out.trajectory.events]


GAMMA = {
    "cosine": lambda r: math.cos(math.pi * r / 2),
    "linear": lambda r: 1 - r,
    "square": lambda r: 1 - r * r,
}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "square"])
@pytest.mark.parametrize(("length", "steps"), [(16, 8), (15, 4), (10, 10), (23, 7)])
def test_masks_left(schedule: Any, length: int, steps: int) -> None:
    left = left_after_each_step(MaskGIT(schedule), length, steps)
    assert left[-1] == 0 and len(left) == steps
    before = length
    for i, now in enumerate(left[:-1]):
        plan = max(1, math.floor(length * GAMMA[schedule]((i + 1) / steps) + 1e-9))
        assert now == min(before - 1, plan)
        before = now


def test_whole_numbers_do_not_fall_below_themselves() -> None:
    """10 (1 - 9 / 10) is 0.99999.. in floating point."""
    assert left_after_each_step(MaskGIT("linear"), 10, 10) == list(range(9, -1, -1))


def test_more_steps_than_positions_write_one_each() -> None:
    left = left_after_each_step(MaskGIT("cosine"), 3, 12)
    assert left == [2, 1, 0]


@pytest.mark.parametrize("law", [TokenLaw(temperature=0.0), TokenLaw()])
@pytest.mark.parametrize(("length", "steps"), [(12, 4), (12, 12), (12, 1)])
def test_linear_without_noise_is_llada(length: int, steps: int, law: TokenLaw) -> None:
    """Token for token where the steps divide the positions; else the remainders go elsewhere."""
    options: dict[str, Any] = {"length": length, "rows": 8, "steps": steps, "law": law}
    ours = run(small_toy(5, length, 7), MaskGIT("linear", 0.0), **options)
    reference = run(small_toy(5, length, 7), LLaDA(), **options)
    assert torch.equal(ours.tokens, reference.tokens)
    assert torch.equal(ours.nfe, reference.nfe)


def test_the_remainder_rules_differ() -> None:
    """10 positions in 4 steps: MaskGIT rounds what stays down, LLaDA puts the remainder first."""
    assert left_after_each_step(MaskGIT("linear"), 10, 4) == [7, 5, 2, 0]
    out = run(small_toy(5, 10, 7), LLaDA(), length=10, steps=4)
    assert out.trajectory is not None
    assert [int(e.unknown.sum()) for e in out.trajectory.events] == [7, 4, 2, 0]


def exact(temperature: float) -> Tensor:
    """Two steps of three positions: one by a softmax of log-confidence / (temperature / 2)."""

    def rule(tokens: Tokens, _: Any, logp: Any, proposal: Tokens, step: int) -> Any:
        if step == 1:
            full = tuple(p if x == MASK else x for x, p in zip(tokens, proposal, strict=True))
            return [(1.0, full, None)]
        score = torch.tensor([float(logp[i][v]) for i, v in enumerate(proposal)]).double()
        weights = torch.softmax(score / (temperature / 2), 0)
        return [
            (float(weights[i]), tuple(proposal[j] if j == i else MASK for j in range(LENGTH)), None)
            for i in range(LENGTH)
        ]

    return exact_law(small_toy(2), rule, 2)


def drawn(temperature: float) -> Tensor:
    out = run(
        small_toy(2),
        MaskGIT("cosine", temperature),
        rows=ROWS,
        steps=2,
        law=TokenLaw(),
        return_trajectory=False,
    )
    return count_states(out.tokens, SYMBOLS)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 4.5])
def test_noisy_choice_has_the_exact_law(temperature: float) -> None:
    result = chi_square(drawn(temperature), exact(temperature))
    assert result.p > P_LIMIT, result


def test_another_choice_temperature_fails_that_law() -> None:
    """Negative control."""
    assert chi_square(drawn(0.0), exact(2.0)).p < P_LIMIT


def test_the_noise_falls_to_zero() -> None:
    clock = Clock(torch.arange(4), torch.full((4,), 4))
    assert MaskGIT(choice_temperature=4.0).temperature(clock).tolist() == [3.0, 2.0, 1.0, 0.0]


def test_fields_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"mask_schedule='cosin'.*cosine, linear, square"):
        MaskGIT("cosin")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="choice_temperature=-1"):
        MaskGIT(choice_temperature=-1.0)
