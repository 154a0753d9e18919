"""SDAR: quotas with a prompt tail, exact law of the sequential order, reductions, deviations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import LLaDA, create
from dlm_sampling.samplers.sdar import SDAR
from dlm_sampling.testing import EnumerableDenoiser, chi_square, count_states
from dlm_sampling.testing.sudoku import SudokuOracle, is_valid
from dlm_sampling.types import TokenLaw
from tests.samplers.small import run, small_toy

STRATEGIES = ["static", "dynamic", "sequential"]
BLOCKS: dict[str, Any] = {"align_blocks": True, "causal_blocks": True}
GREEDY = TokenLaw(temperature=0.0)


def written_per_step(sampler: SDAR, prompt: int, length: int, block: int, steps: int) -> list[int]:
    """Positions written by each step, a flat law so that no confidence passes a threshold."""
    out = run(
        small_toy(0, length, 7, scale=0.0),
        sampler,
        length=length,
        prompt=[1] * prompt,
        block_length=block,
        steps_per_block=steps,
        law=GREEDY,
        **BLOCKS,
    )
    assert out.trajectory is not None
    return [int(event.written.sum()) for event in out.trajectory.events]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_quota_is_that_of_the_whole_block(strategy: Any) -> None:
    """Prompt of 5 in blocks of 8: three masks in the first block, 4 per step, then full blocks."""
    assert written_per_step(SDAR(strategy), 5, 24, 8, 2) == [3, 4, 4, 4, 4]
    # 8 over 3 steps is 3, 3, 2; a tail of 6 leaves two masks for one step.
    assert written_per_step(SDAR(strategy), 6, 16, 8, 3) == [2, 3, 3, 2]
    # More steps than columns: one per step.
    assert written_per_step(SDAR(strategy), 5, 8, 8, 20) == [1, 1, 1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_deviation_a_quota_beyond_the_masks_never_touches_the_prompt(strategy: Any) -> None:
    """The released top-q then takes positions of the prompt; here it is clamped, always."""
    for seed in range(20):
        toy, prompt = small_toy(seed, 16, 7), [1, 2, 3, 4, 5]
        out = run(
            toy,
            SDAR(strategy),
            length=16,
            prompt=prompt,
            block_length=8,
            steps_per_block=2,
            seed=seed,
            **BLOCKS,
        )
        assert out.tokens[0, :5].tolist() == prompt
        assert not bool((out.tokens == 6).any())


def test_sequential_writes_from_the_left() -> None:
    out = run(small_toy(0, 12, 7), SDAR("sequential"), length=12, block_length=4, **BLOCKS)
    assert out.trajectory is not None
    assert [event.written.nonzero()[:, 1].tolist() for event in out.trajectory.events] == [
        [i] for i in range(12)
    ]


def test_sequential_one_at_a_time_is_the_joint_law() -> None:
    """The chain rule from left to right, by chi-square; half a block per step is not."""
    joint = (
        torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64) ** 3
    )
    for steps, fits in ((3, True), (1, False)):
        out = run(
            EnumerableDenoiser(joint),
            SDAR("sequential"),
            rows=5_000,
            steps=steps,
            return_trajectory=False,
        )
        assert (chi_square(count_states(out.tokens, 3), joint.flatten()).p > 1e-4) is fits


def test_dynamic_writes_what_passes_the_threshold() -> None:
    """Threshold 0 writes a block at once, above 1 it is static, in between it saves forwards."""
    toy = small_toy(5, 16, 7, scale=2.0)
    options: dict[str, Any] = {"length": 16, "block_length": 8, "steps_per_block": 8, "law": GREEDY}
    static = run(toy, SDAR("static"), **options, **BLOCKS)
    never = run(toy, SDAR(threshold=1.5), **options, **BLOCKS)
    assert torch.equal(static.tokens, never.tokens) and int(never.nfe[0]) == 16
    assert int(run(toy, SDAR(threshold=0.0), **options, **BLOCKS).nfe[0]) == 2
    between = run(toy, SDAR(threshold=0.7), **options, **BLOCKS)
    assert 2 < int(between.nfe[0]) < 16
    assert between.trajectory is not None
    for event in between.trajectory.events:
        confidence = event.log_confidence
        assert confidence is not None
        sure = event.written & (confidence.exp() > 0.7)
        assert int(event.written.sum()) == max(1, int(sure.sum()))


def test_confidence_is_that_of_the_tempered_law() -> None:
    """A low temperature makes the model sure of everything, so it needs fewer forwards."""
    toy = small_toy(5, 8, 7)
    cold = run(toy, SDAR(), length=8, steps=8, law=TokenLaw(temperature=1e-3))
    warm = run(toy, SDAR(), length=8, steps=8, law=TokenLaw())
    assert int(cold.nfe[0]) < int(warm.nfe[0])


def test_static_in_one_block_is_llada() -> None:
    toy = small_toy(3, 12, 7)
    ours = run(toy, SDAR("static"), length=12, steps=5, law=GREEDY)
    theirs = run(toy, LLaDA(), length=12, steps=5, law=GREEDY)
    assert torch.equal(ours.tokens, theirs.tokens)


@pytest.mark.parametrize("name", ["sdar", "sdar-static", "sdar-sequential"])
def test_one_block_is_no_blocks_and_odd_blocks_finish(name: str) -> None:
    toy = small_toy(1, 13, 7)
    whole = run(toy, create(name), length=13, steps=5)
    assert torch.equal(
        whole.tokens, run(toy, create(name), length=13, steps=5, block_length=13).tokens
    )
    for block in (1, 3, 5, 20):
        out = run(
            toy,
            create(name),
            length=13,
            prompt=[2, 2],
            block_length=block,
            steps_per_block=3,
            **BLOCKS,
        )
        assert not bool((out.tokens == 6).any())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_token_per_step_solves_sudoku(strategy: Any) -> None:
    tokens = torch.zeros(40, 16, dtype=torch.int64)
    out = sample(
        SudokuOracle(),
        SDAR(strategy, threshold=1.5),
        tokens,
        torch.ones_like(tokens).bool(),
        seeds=ops.row_seeds(3, 40),
    )
    assert bool(is_valid(out.tokens).all())


def test_only_the_sequential_strategy_reads_no_drawn_token() -> None:
    assert [SDAR(strategy).exact for strategy in ("dynamic", "static", "sequential")] == [
        False,
        False,
        True,
    ]
    assert create("sdar-static") == SDAR("static")
    assert create("sdar-sequential") == SDAR("sequential")
    assert create("sdar") == SDAR("dynamic", 0.85)


def test_errors_name_the_field_and_what_is_allowed() -> None:
    with pytest.raises(
        ValueError, match="strategy='low': must be one of dynamic, static, sequential"
    ):
        SDAR("low")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"threshold=-0\.1: must be finite and >= 0"):
        SDAR(threshold=-0.1)
