"""Texts for TRL: cut at their ends, with a loss that reaches as far as the canvas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_sampling import AutoDenoiser, generate
from dlm_sampling.text.completion import GenerateOutput
from dlm_sampling.trl import rollout_func
from dlm_sampling.trl.drawn_rows import DrawnBatch
from dlm_sampling.trl.rollouts import DrawnTexts, counted_in

pytestmark = pytest.mark.slow
PROMPTS = ["abc", "a longer prompt"]


@pytest.fixture(scope="module")
def drawn(tiny_llada: Path) -> GenerateOutput:
    """Texts that all end early: the end-of-text is made likely."""
    policy = AutoDenoiser.from_pretrained(tiny_llada)
    kept = policy.forward

    def forward(inputs: Any) -> Any:
        out = kept(inputs)
        head: Any = out.head
        raised = torch.nn.functional.one_hot(torch.tensor(0), policy.vocab_size) * 3.0
        return out._replace(head=lambda hidden: head(hidden) + raised)

    policy.forward = forward
    options: dict[str, Any] = {"sampler": "llada-random", "steps": 6, "temperature": 1.0}
    return generate(
        policy, [p for p in PROMPTS for _ in range(3)], max_new_tokens=12, seed=4,
        return_rollout=True, eos="cut", progress=False, **options,
    )  # fmt: skip


def test_texts_end_with_their_end_of_text(drawn: GenerateOutput) -> None:
    assert drawn.finish_reasons.count("eos") >= 3
    assert drawn.rollout is not None
    texts = DrawnTexts.of(drawn, padding=0, behind_eos=False)
    for b, ids in enumerate(texts.completion_ids):
        ended = drawn.finish_reasons[b] == "eos"
        assert ids == drawn.token_ids[b] + [0] * ended
        assert len(texts.prompt_ids[b]) == drawn.prompt_lengths[b]
        begin = texts.rows[b].begin
        row = drawn.rollout.tokens[b]
        assert row[begin : begin + len(ids)].tolist() == ids
        assert row[begin - len(texts.prompt_ids[b]) : begin].tolist() == texts.prompt_ids[b]
        assert texts.step_index[b] == drawn.rollout.step_index[b, begin : begin + len(ids)].tolist()
        wanted = drawn.rollout.logprob[b, begin : begin + len(ids)].tolist()
        assert texts.logprobs[b] == pytest.approx(wanted)


def test_the_loss_reaches_behind_the_end_but_the_ids_do_not(drawn: GenerateOutput) -> None:
    assert drawn.rollout is not None
    texts = DrawnTexts.of(drawn, padding=77, behind_eos=True)
    every = counted_in(drawn.rollout)
    for b, ids in enumerate(texts.completion_ids):
        assert len(ids) == 12
        assert ids[texts.lengths[b] :] == [77] * (12 - texts.lengths[b])
        assert texts.counted[b] == every[b, texts.rows[b].begin :].long().tolist()
    assert sum(map(sum, texts.counted)) > sum(texts.lengths)


def test_rows_are_found_again_in_any_order(drawn: GenerateOutput) -> None:
    assert drawn.rollout is not None
    rows = DrawnTexts.of(drawn, padding=0, behind_eos=True).rows
    order = [4, 0, 2]
    batch = DrawnBatch.of([rows[i] for i in order])
    found = batch.behind(batch.rollout.logprob, 14)
    assert found.shape == (3, 14)
    for i, b in enumerate(order):
        wanted = drawn.rollout.logprob[b, rows[b].begin :].tolist()
        assert found[i].tolist() == [*wanted, *[0.0] * (14 - len(wanted))]
    other = DrawnTexts.of(drawn, padding=0, behind_eos=True)
    copied = GenerateOutput(**{**vars(drawn), "rollout": drawn.rollout.select(torch.arange(6))})
    stranger = DrawnTexts.of(copied, padding=0, behind_eos=True)
    with pytest.raises(ValueError, match="texts of two generations"):
        DrawnBatch.of([other.rows[0], stranger.rows[1]])


def test_an_argmax_does_not_count(tiny_llada: Path) -> None:
    policy = AutoDenoiser.from_pretrained(tiny_llada)
    options: dict[str, Any] = {"max_new_tokens": 9, "steps": 3, "seed": 1, "return_rollout": True}
    options |= {"temperature": 1.0, "eos": "keep"}
    rollout = generate(policy, "abc", sampler="tau-leaping", **options).rollout
    assert rollout is not None
    assert rollout.argmax.any()  # what is left at the end
    assert torch.equal(counted_in(rollout), rollout.editable & ~rollout.argmax)
    warm = generate(policy, "abc", sampler="llada", **options).rollout
    assert warm is not None
    assert torch.equal(counted_in(warm), warm.editable)


def test_a_trainer_without_the_mixin_is_refused() -> None:
    with pytest.raises(TypeError, match="must have DiffusionGRPOMixin before TRL's GRPOTrainer"):
        rollout_func(["a"], object())
