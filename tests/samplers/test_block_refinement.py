"""Block refinement: quota, threshold, edits, the end of a block, and its uniform-noise form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import create
from dlm_sampling.samplers.block_refinement import BlockRefinement
from dlm_sampling.samplers.sdar import SDAR
from dlm_sampling.testing import FixtureToy
from dlm_sampling.testing.oracles import uniform_commits
from dlm_sampling.testing.sudoku import SudokuOracle, is_valid
from dlm_sampling.types import Clock, DenoiserOutput, Pass, TokenLaw
from tests.samplers.small import run, small_toy

BLOCKS: dict[str, Any] = {"align_blocks": True, "causal_blocks": True}
GREEDY = TokenLaw(temperature=0.0)


class Restless(FixtureToy):
    """Always sure that every position holds the successor of what is there: it never settles."""

    def __init__(self, length: int, vocab_size: int = 7) -> None:
        zeros = torch.zeros(vocab_size, vocab_size), torch.zeros(length, vocab_size)
        super().__init__(*zeros, mask_token_id=vocab_size - 1)

    def forward(self, inputs: Pass) -> DenoiserOutput:
        following = (inputs.tokens + 1) % (self.vocab_size - 1)
        one_hot = torch.nn.functional.one_hot(following, self.vocab_size)
        return DenoiserOutput(one_hot.double() * 50.0)


@pytest.mark.parametrize(("tau", "strategy"), [(1.5, "static"), (0.6, "dynamic"), (0.0, "dynamic")])
def test_without_edits_it_is_sdar(tau: float, strategy: Any) -> None:
    for seed in range(5):
        toy = small_toy(seed, 24, 7, scale=1.5)
        options: dict[str, Any] = {"prompt": [1, 2, 3], "block_length": 8, "steps_per_block": 5}
        ours = run(toy, BlockRefinement(tau), length=24, law=GREEDY, **options, **BLOCKS)
        theirs = run(toy, SDAR(strategy, tau), length=24, law=GREEDY, **options, **BLOCKS)
        assert torch.equal(ours.tokens, theirs.tokens)
        assert torch.equal(ours.nfe, theirs.nfe)


def test_a_forward_that_changes_nothing_is_left_out_unless_asked_for() -> None:
    """Without edits the released loop runs the model once more over a block that filled early."""
    toy = small_toy(1, 16, 7)
    options: dict[str, Any] = {"length": 16, "block_length": 8, "steps_per_block": 4, "law": GREEDY}
    ours = run(toy, BlockRefinement(0.0), **options)
    released = run(toy, BlockRefinement(0.0), every_step=True, **options)
    assert torch.equal(ours.tokens, released.tokens)
    assert (int(ours.nfe[0]), int(released.nfe[0])) == (2, 4)
    full = run(toy, BlockRefinement(1.5), every_step=True, **options)
    assert int(full.nfe[0]) == 8  # a block that takes all its steps has no further one


def test_edits_replace_only_written_tokens_that_the_model_is_sure_about() -> None:
    edits = 0
    for seed in range(10):
        toy, prompt = small_toy(seed, 24, 7), [1, 2, 3]
        sampler = BlockRefinement(0.5, 0.4)
        assert sampler.revises
        out = run(
            toy,
            sampler,
            length=24,
            prompt=prompt,
            block_length=8,
            steps_per_block=4,
            law=GREEDY,
            **BLOCKS,
        )
        assert out.trajectory is not None
        assert out.tokens[0, :3].tolist() == prompt
        known = torch.zeros(1, 24).bool()
        for event in out.trajectory.events:
            edited = event.written & known
            confidence = event.log_confidence
            assert confidence is not None
            assert bool((confidence.exp()[edited] > 0.4).all())
            assert bool((event.tokens != event.before)[edited].all())
            edits += int(edited.sum())
            known = ~event.unknown & (torch.arange(24) >= 3)
    assert edits > 10


def test_a_block_ends_with_a_step_that_edits_nothing() -> None:
    """And its text is a fixed point: no other token passes the editing threshold."""
    toy = small_toy(3, 12, 7)
    out = run(toy, BlockRefinement(0.5, 0.4), length=12, steps=12, law=GREEDY)
    assert out.trajectory is not None
    last = out.trajectory.events[-1]
    assert not bool(last.unknown.any()) and not bool(last.written.any())
    probs = toy.logits(out.tokens)[..., :6].softmax(-1)
    sure, best = probs.max(-1)
    assert not bool(((best != out.tokens) & (sure > 0.4)).any())


@pytest.mark.parametrize("post_steps", [0, 1, 5, 300])
def test_a_model_that_never_settles_is_stopped(post_steps: int) -> None:
    """One step fills (all are sure), then exactly max_post_steps more, past the planned steps."""
    out = run(Restless(8), BlockRefinement(0.5, 0.5, post_steps), length=8, steps=4)
    assert int(out.nfe[0]) == 1 + post_steps
    assert not bool((out.tokens == 6).any())


def test_every_block_has_its_own_steps_after_the_last_mask() -> None:
    """Two blocks of one filling step and three more each."""
    sampler = BlockRefinement(0.5, 0.5, 3)
    out = run(Restless(8), sampler, length=8, block_length=4, steps_per_block=4)
    assert int(out.nfe[0]) == 2 * (1 + 3)


def test_a_block_that_fills_in_its_last_step_is_not_edited_further() -> None:
    out = run(Restless(8), BlockRefinement(1.5, 0.5), length=8, steps=4)
    assert int(out.nfe[0]) == 4


def test_rows_end_their_blocks_on_their_own() -> None:
    """Rows of different prompts equal rows alone, though some edit longer than others."""
    toy, prompts = small_toy(6, 16, 7), [[1, 2, 3], [4, 4, 4], [5, 0, 5], [2, 2, 1]]
    sampler = BlockRefinement(0.5, 0.35)
    tokens = torch.tensor([p + [0] * 13 for p in prompts])
    editable = (torch.arange(16) >= 3).expand(tokens.shape)
    options: dict[str, Any] = {"block_length": 8, "steps_per_block": 6, "law": GREEDY, **BLOCKS}
    together = sample(toy, sampler, tokens, editable, seeds=[0, 1, 2, 3], **options)
    assert len(set(together.nfe.tolist())) > 1
    for b in range(4):
        alone = sample(toy, sampler, tokens[b : b + 1], editable[b : b + 1], seeds=[b], **options)
        assert torch.equal(together.tokens[b], alone.tokens[0])
        assert int(together.nfe[b]) == int(alone.nfe[0])


@pytest.mark.parametrize("name", ["block-refinement", "llada2", "llada2.1"])
def test_one_block_is_no_blocks(name: str) -> None:
    toy = small_toy(1, 12, 7)
    whole = run(toy, create(name), length=12, steps=5, rows=3)
    block = run(toy, create(name), length=12, steps=5, rows=3, block_length=12)
    assert torch.equal(whole.tokens, block.tokens)


def test_one_token_per_step_solves_sudoku() -> None:
    tokens = torch.zeros(40, 16, dtype=torch.int64)
    for sampler in (BlockRefinement(1.5), BlockRefinement(1.5, 0.5)):
        out = sample(
            SudokuOracle(),
            sampler,
            tokens,
            torch.ones_like(tokens).bool(),
            seeds=ops.row_seeds(3, 40),
            law=TokenLaw(),
        )
        assert bool(is_valid(out.tokens).all())


def test_uniform_noise_form_commits_what_is_overdue_and_what_is_sure() -> None:
    width, steps = 14, 6
    confidence = torch.rand(3, width, generator=torch.Generator().manual_seed(1))
    for threshold in (1.5, 0.8):
        committed = torch.zeros(3, width).bool()
        for step in range(steps):
            clock = Clock(torch.full((3,), step), torch.full((3,), steps))
            now = uniform_commits(confidence, committed, clock, threshold)
            assert not bool((now & committed).any())
            committed = committed | now
            due = math.ceil((step + 1) * width / steps)
            assert bool((committed.sum(1) >= due).all())
            assert bool(committed[confidence > threshold].all())
            if threshold > 1:
                assert committed.sum(1).tolist() == [due] * 3
        assert bool(committed.all())


def test_errors_name_the_field_and_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"threshold=-1\.0: must be finite and >= 0"):
        BlockRefinement(-1.0)
    with pytest.raises(ValueError, match=r"editing_threshold=0\.0: must be finite and > 0"):
        BlockRefinement(editing_threshold=0.0)
    with pytest.raises(ValueError, match="max_post_steps=-1"):
        BlockRefinement(max_post_steps=-1)
