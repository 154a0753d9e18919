"""Fast-dLLM v2: logits and decoding by hand, in plain torch; the exact cache, replay, bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dlm_sampling import AutoDenoiser, elbo, generate, replay
from dlm_sampling.caches import BlockCache
from dlm_sampling.denoisers import CheckpointError, Denoiser, FastDLLMv2Denoiser
from dlm_sampling.types import Pass
from tests.denoisers.fast_dllm_v2 import (
    BLOCK,
    CONFIG,
    END,
    MASK,
    decode_by_hand,
    logits_by_hand,
    write_checkpoint,
)

PROMPTS = [[5, 6, 7, 8, 9], [4], [9, 8, 7, 6]]
NEW = 9  # the last blocks of the rows have 2, 2 and 1 columns

Made = tuple[Denoiser, dict[str, Tensor], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("fast_dllm_v2")
    tensors = write_checkpoint(folder)
    found = AutoDenoiser.from_pretrained(folder, mask_token_id=MASK, dtype="float64")
    with torch.no_grad():
        yield found, tensors, folder


def run(denoiser: Denoiser, cache: Any, **options: Any) -> Any:
    settings: dict[str, Any] = {"max_new_tokens": NEW, "eos": "keep", "seed": 3}
    return generate(denoiser, PROMPTS, cache=cache, **{**settings, **options})


def test_logits_are_those_of_the_network_by_hand(made: Made) -> None:
    denoiser, tensors, _ = made
    assert isinstance(denoiser, FastDLLMv2Denoiser)
    ids = torch.randint(0, 37, (3, 11), generator=torch.Generator().manual_seed(1))
    ids[:, 7:] = MASK
    real = torch.ones_like(ids, dtype=torch.bool)
    real[1, :3], real[2, :5] = False, False  # blocks count from the first real token
    found = denoiser.logits(ids, real)
    for row in range(3):
        by_hand = logits_by_hand(tensors, ids[row][real[row]].tolist())
        shifted = torch.cat((by_hand[:1], by_hand[:-1]))
        torch.testing.assert_close(found[row][real[row]], shifted, atol=1e-5, rtol=1e-5)


def test_the_facts_of_the_release(made: Made, tmp_path: Path) -> None:
    denoiser, _, folder = made
    assert (denoiser.block_length, denoiser.shift) == (BLOCK, 1)
    assert (denoiser.eos_token_id, denoiser.pad_token_id) == (END, END)
    assert denoiser.generation_defaults == {"sampler": "fast-dllm-v2"}
    with pytest.raises(CheckpointError, match="mask id 151665 is outside the vocabulary of 128"):
        AutoDenoiser.from_pretrained(folder)
    denoiser.save_pretrained(tmp_path)
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path))
    assert set(before) == set(after) and "lm_head.weight" not in after
    config = json.loads((tmp_path / "config.json").read_text())
    assert {key: CONFIG[key] for key in config if key in CONFIG} == {
        key: config[key] for key in config if key in CONFIG
    }
    again = AutoDenoiser.from_pretrained(tmp_path)  # the mask id is in the config now
    assert (again.family, again.block_length, again.mask_token_id) == ("fast_dllm_v2", BLOCK, MASK)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_relay": True},
        {"use_sliding_window": True},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"bd_size": 0},
    ],
)
def test_keys_of_another_network_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        AutoDenoiser.from_pretrained(tmp_path, mask_token_id=MASK)


@pytest.mark.slow
@pytest.mark.parametrize("sub_block", [2, 3])
def test_tokens_of_the_released_loop_with_and_without_the_cache(made: Made, sub_block: int) -> None:
    denoiser, tensors, _ = made
    threshold = 0.3
    wanted = [decode_by_hand(tensors, each, NEW, sub_block, threshold) for each in PROMPTS]
    assert any(passes < NEW for _, _, passes in wanted)  # several tokens in a pass
    options: dict[str, Any] = {"sampler_options": {"sub_block": sub_block, "threshold": threshold}}
    for cache in ("none", "auto"):
        out = run(denoiser, cache, return_rollout=True, **options)
        assert out.tokens[:, -NEW:].tolist() == [tokens for tokens, _, _ in wanted]
        by_hand = torch.tensor([sure for _, sure, _ in wanted])
        found = replay(denoiser, out.rollout, law="model").logprob[:, -NEW:].float()
        torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=0)
        assert out.nfe.tolist() == [passes for _, _, passes in wanted]


def test_a_pass_computes_its_block_and_the_state_before_it(made: Made) -> None:
    denoiser, _, _ = made
    seen: list[int] = []
    inner = denoiser.forward

    def forward(inputs: Pass) -> Any:
        assert inputs.cache is not None
        seen.append(inputs.cache.query.shape[1])
        return inner(inputs)

    denoiser.forward = forward  # type: ignore[method-assign]
    try:
        generate(denoiser, [PROMPTS[0]], max_new_tokens=11, eos="keep", seed=0)
    finally:
        del denoiser.forward
    # First the block of the prompt and that of its tail; a finished block and the next one, or the
    # block alone, with the column before them.
    assert seen[0] == 2 * BLOCK
    assert set(seen[1:]) == {BLOCK + 1, 2 * BLOCK + 1}


CASES: dict[str, dict[str, Any]] = {
    "llada": {"steps": 5, "guidance_scale": 0.7},
    "fast-dllm-v2": {"sampler_options": {"threshold": 0.3}},
    "llada2.1": {"steps_per_block": 2},
    "d2f": {
        "sampler_options": {"threshold": 0.04, "add": 0.25, "activate": 0.5},
        "block_length": BLOCK,
        "align_blocks": True,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", CASES)
def test_runs_at_temperature_1_are_the_same_with_the_cache_and_are_scored(
    made: Made, sampler: str
) -> None:
    denoiser, _, _ = made
    options = {**CASES[sampler], "sampler": sampler, "temperature": 1.0, "return_rollout": True}
    apart = BlockCache(commit="separate")
    without, separate, cached = (run(denoiser, c, **options) for c in ("none", apart, "block"))
    for out in (separate, cached):
        assert torch.equal(without.tokens, out.tokens)
        torch.testing.assert_close(without.logprobs, out.logprobs, atol=1e-5, rtol=0)
        assert bool((out.work < without.work).all())
    assert torch.equal(without.nfe, cached.nfe)
    scores = [replay(denoiser, cached.rollout, cache=cache) for cache in ("auto", "none")]
    for scored in scores:
        drawn = scored.logprob.float()
        torch.testing.assert_close(drawn, cached.logprobs.float(), atol=1e-5, rtol=0)
    beside = float(scores[0].work.sum()) < float(scores[1].work.sum())
    assert beside == (sampler != "llada")  # two passes of guidance have no clean text in common


@pytest.mark.slow
def test_bounds_beside_the_clean_text(made: Made) -> None:
    denoiser, _, _ = made
    out = run(denoiser, "auto", temperature=1.0, return_rollout=True)
    text: dict[str, Any] = {"tokens": out.tokens, "editable": out.rollout.step_index >= 0}
    width = max(map(len, PROMPTS))
    column = torch.arange(width + NEW)
    text["attention_mask"] = torch.stack([column >= width - len(each) for each in PROMPTS])
    auto, none = (elbo(denoiser, **text, n=4, seed=1, cache=cache) for cache in ("auto", "none"))
    torch.testing.assert_close(auto.terms, none.terms, atol=1e-5, rtol=1e-6)
    assert float(auto.work.sum()) < float(none.work.sum())
