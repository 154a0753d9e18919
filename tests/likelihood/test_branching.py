"""Branches: the steps before stay, those after are drawn with the new seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling import AutoDenoiser, Rollout, replay, samplers, wrap
from dlm_sampling.likelihood.branching import branch
from dlm_sampling.types import TokenLaw
from tests.samplers.small import run, small_toy

pytestmark = pytest.mark.slow
LENGTH = 7
TOY = small_toy(length=LENGTH, vocab_size=9)
NOISY = wrap(lambda input_ids: TOY.logits(input_ids), vocab_size=9, mask_token_id=None)
RUNS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "random": (TOY, samplers.LLaDA(order="random"), {"steps": 4}),
    "confidence": (TOY, samplers.LLaDA(), {"steps": 4, "block_length": 4}),
    "ancestral": (TOY, samplers.Ancestral(), {"steps": 5}),
    "two stages": (TOY, samplers.ThetaTrapezoidal(), {"steps": 6}),
    "noise": (NOISY, samplers.Ancestral(), {"steps": 4}),
}


def drawn(name: str, rows: int = 2) -> Rollout:
    denoiser, sampler, options = RUNS[name]
    return Rollout.from_output(
        run(denoiser, sampler, length=LENGTH, rows=rows, law=TokenLaw(), **options)
    )


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("step", [0, 2])
def test_with_its_own_seed_a_run_is_repeated(name: str, step: int) -> None:
    rollout = drawn(name)
    again = branch(RUNS[name][0], rollout, step, seeds=rollout.seeds)
    assert torch.equal(again.tokens, rollout.tokens)
    for one, other in zip(again.steps, rollout.steps, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    for one, other in zip(again.writes, rollout.writes, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["random", "confidence", "ancestral", "noise"])
def test_branches_share_their_first_steps_and_are_replayed(name: str) -> None:
    rollout = drawn(name).select(torch.tensor([0] * 6))
    found = branch(RUNS[name][0], rollout, 2, seeds=range(100, 106))
    begins = [(part.steps.iteration < 2, part.writes.iteration < 2) for part in (rollout, found)]
    for column, other in zip(rollout.writes, found.writes, strict=True):
        assert torch.equal(column[begins[0][1]], other[begins[1][1]])
    assert len({tuple(row) for row in found.tokens.tolist()}) > 1
    assert found.seeds == tuple(range(100, 106))
    scores = replay(RUNS[name][0], found, grad=False)
    assert (scores.total - found.total).abs().max() <= 1e-6
    first = scores.step_logprob[:, :2]
    assert (first - first[:1]).abs().max() <= 1e-9
    # A row of a batch is what it is alone.
    alone = branch(RUNS[name][0], rollout.select(torch.tensor([3])), 2, seeds=[103])
    assert torch.equal(alone.tokens[0], found.tokens[3])


def test_branches_follow_the_law_of_what_is_left() -> None:
    """One unknown token: its frequencies are the model's law at the recorded canvas."""
    rollout = drawn("random", rows=1)
    last = int(rollout.steps.iteration.max())
    many = branch(TOY, rollout.select(torch.tensor([0] * 4000)), last, seeds=range(4000))
    place = (rollout.step_index[0] == last).nonzero()[0, 0]
    canvas = rollout.tokens[0].masked_fill(rollout.step_index[0] == last, TOY.mask_column)
    law = TOY.logits(canvas[None])[0, place].softmax(0)
    counts = torch.bincount(many.tokens[:, place], minlength=9) / 4000
    assert (counts - law).abs().max() < 4 * (0.25 / 4000) ** 0.5


def test_what_cannot_be_branched_is_refused() -> None:
    rollout = drawn("random")
    with pytest.raises(ValueError, match="seeds has 1 entries for 2 rows"):
        branch(TOY, rollout, 1, seeds=[1])
    with pytest.raises(ValueError, match="step=9: row 0 has steps 0 to 3 only"):
        branch(TOY, rollout, 9, seeds=[1, 2])
    with pytest.raises(TypeError, match="step"):
        branch(TOY, rollout, 1.5, seeds=[1, 2])  # pyright: ignore[reportArgumentType]
    wrong: Any = "a"
    for seeds in (3, [wrong, wrong]):
        with pytest.raises(TypeError, match=r"seeds=.*: must be whole numbers, one per row"):
            branch(TOY, rollout, 1, seeds=seeds)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="rollout is a str: must be a Rollout, the `rollout` of"):
        branch(TOY, wrong, 1, seeds=[1, 2])
    two = run(TOY, samplers.ThetaRK2(), length=LENGTH, rows=1, law=TokenLaw(), steps=4)
    with pytest.raises(ValueError, match="its look-ahead is drawn and forgotten"):
        branch(TOY, Rollout.from_output(two), 1, seeds=[1])


def test_the_state_of_a_network_is_found_again() -> None:
    model = AutoDenoiser.from_pretrained("sudoku4x4-loopholing")
    out = run(model, samplers.LLaDA(), length=16, rows=2, law=TokenLaw(), steps=4)
    rollout = Rollout.from_output(out)
    again = branch(model, rollout, 2, seeds=rollout.seeds)
    assert torch.equal(again.tokens, rollout.tokens)
    torch.testing.assert_close(again.logprob, rollout.logprob)
    other = branch(model, rollout, 2, seeds=[91, 92])
    assert not torch.equal(other.tokens, rollout.tokens)
    assert (replay(model, other, grad=False).total - other.total).abs().max() <= 1e-4
