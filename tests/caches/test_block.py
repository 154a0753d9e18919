"""The exact block cache: the tokens and log-probabilities of a run without a cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from dlm_sampling import AutoDenoiser, Rollout, generate, replay, sample, samplers
from dlm_sampling.caches import BlockCache, Plan, PolicyBase, View
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.types import TokenLaw

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
FAMILIES: dict[str, dict[str, Any]] = {
    "sdar": {"block_length": 4},
    "llada2_moe": {"mask_token_id": 126, "block_length": 4},
    "bd3lm_noadaln": {},
    "bd3lm": {},
}
PROMPTS = (9, 5, 2, 9)
NEW = 7
SEPARATE = BlockCache(commit="separate")


def load(family: str) -> Denoiser:
    return AutoDenoiser.from_pretrained(MODELS / family, **FAMILIES[family]).to(dtype=torch.float64)


@once
def sdar() -> Denoiser:
    return load("sdar")


def rows(prompts: tuple[int, ...] = PROMPTS) -> tuple[Tensor, Tensor, Tensor]:
    """Left-padded canvases; rows with prompts of one length have the same prompt."""
    widest = max(prompts)
    text = torch.randint(0, 100, (widest,), generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(len(prompts), widest + NEW, dtype=torch.int64)
    editable = torch.zeros_like(ids, dtype=torch.bool)
    attention = torch.zeros_like(editable)
    for row, length in enumerate(prompts):
        ids[row, widest - length : widest] = text[:length]
        editable[row, widest:] = True
        attention[row, widest - length :] = True
    return ids, editable, attention


def run(denoiser: Denoiser, sampler: Any, cache: Any, **given: Any) -> SampleOutput:
    ids, editable, attention = rows(given.pop("prompts", PROMPTS))
    made = samplers.create(sampler) if isinstance(sampler, str) else sampler
    seeds = given.pop("seeds", range(len(ids)))
    settings: dict[str, Any] = {
        "steps": 4,
        "block_length": denoiser.block_length,
        "law": TokenLaw(),
    }
    return sample(
        denoiser, made, ids, editable, attention_mask=attention, seeds=seeds,
        align_blocks=True, cache=cache, **{**settings, **given},
    )  # fmt: skip


def same(one: SampleOutput, other: SampleOutput, atol: float = 1e-10) -> None:
    assert torch.equal(one.tokens, other.tokens)
    torch.testing.assert_close(one.logprob, other.logprob, atol=max(atol, 1e-6), rtol=0)


LEGAL = [
    name
    for name, entry in samplers.available().items()
    if "absorbing" in entry.runs_on and not entry.build().looks_ahead
]
NEEDS_MORE = {"planned", "planned-adaptive", "planned-gillespie", "planned-greedy"}  # a planner


@pytest.mark.parametrize("name", [name for name in LEGAL if name not in NEEDS_MORE])
def test_every_legal_sampler_writes_the_same_with_the_cache(name: str) -> None:
    denoiser, given = sdar(), {"prompts": (6, 2)}
    without = run(denoiser, name, "none", **given)
    cached = run(denoiser, name, "block", **given)
    same(without, cached)
    if name != "picard":  # its block begins with a pass for the finished block
        assert torch.equal(without.nfe, cached.nfe)


def test_a_bound_of_passes_holds_with_finished_blocks_fused_and_is_refused_with_separate_ones() -> (
    None
):
    given: dict[str, Any] = {"max_nfe": 3, "steps": None, "prompts": (6, 2)}
    without = run(sdar(), "fast-dllm", "none", **given)
    cached = run(sdar(), "fast-dllm", "block", **given)
    same(without, cached)
    assert bool((cached.nfe <= 3).all())
    with pytest.raises(ValueError, match="a pass of its own for every finished block"):
        run(sdar(), "fast-dllm", SEPARATE, **given)


@pytest.mark.slow
def test_blocks_of_a_pipeline_are_stored_in_order_and_scored_anew() -> None:
    """Of blocks that several steps see half written, what is stored is what is left behind."""
    given: dict[str, Any] = {"steps": None, "prompts": (9, 6, 2), "return_trajectory": True}
    line = samplers.D2F(0.04, add=0.25, activate=0.5)
    without, cached = (run(sdar(), line, c, **given) for c in ("none", "block"))
    same(without, cached)
    assert torch.equal(without.nfe, cached.nfe)
    assert bool((cached.work < 0.8 * without.work).all())
    events = cast("Any", cached.trajectory).events
    assert sum(int((event.last > event.block).sum()) for event in events) > 3
    drafts = run(sdar(), line, "block", speculate=3, **given)
    same(without, drafts)
    rollout = Rollout.from_output(cached)
    for kept, event in zip(rollout.events(), events, strict=True):
        assert torch.equal(cast("Any", kept.last), event.last)
    for how in ("none", "auto"):  # a half-written block on the left is no clean prefix
        scored = replay(sdar(), rollout, cache=how).logprob
        torch.testing.assert_close(scored.float(), cached.logprob.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_drafts_of_a_block_beside_it_change_no_token(guidance: float) -> None:
    denoiser = sdar()
    options: dict[str, Any] = {"guidance_scale": guidance, "steps": None, "prompts": (6, 2)}
    plain = run(denoiser, "llada", "block", **options)
    out = run(denoiser, "llada", "block", speculate=3, **options)
    same(plain, out)
    assert int(out.nfe.sum()) <= int(plain.nfe.sum()) - (guidance == 0.0)
    with pytest.raises(ValueError, match=r"never stored; leave one out\. Here cache may be 'none'"):
        run(denoiser, "llada", "dual", speculate=3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_none_separate_and_fused_are_the_same(family: str, guidance: float) -> None:
    denoiser = load(family)
    out = {c: run(denoiser, "llada", c, guidance_scale=guidance) for c in ("none", "block")}
    apart = run(denoiser, "llada", SEPARATE, guidance_scale=guidance)
    same(out["none"], out["block"])
    same(out["none"], apart)
    # A row of 9 has two finished blocks before its first and writes three: in passes of their own
    # these are one for the prompt, and one for each block but the last.
    passes = 2 if guidance else 1
    assert (apart.nfe - out["none"].nfe).tolist()[0] == passes * 2
    assert torch.equal(out["block"].nfe, out["none"].nfe)


def test_work_counts_the_columns_of_the_queries() -> None:
    """Prompt 8, three blocks of 4, two steps each: 8 + 4, 4, 4 + 4, 4, 4 + 4, 4 of 20 columns."""
    denoiser = load("sdar")
    ids, editable, _ = rows((8,))
    editable, ids = editable[:, :20], ids[:, :20]
    editable[:, 8:] = True
    ids = torch.nn.functional.pad(ids, (0, 20 - ids.shape[1]))
    editable = torch.nn.functional.pad(editable, (0, 20 - editable.shape[1]), value=True)
    out = sample(
        denoiser, samplers.create("llada"), ids, editable, seeds=[0], steps=6, block_length=4,
        align_blocks=True,
    )  # fmt: skip
    assert out.nfe.tolist() == [6]
    assert out.work.tolist() == pytest.approx([(12 + 4 + 8 + 4 + 8 + 4) / 20])


@pytest.mark.slow
def test_fixed_tokens_behind_the_last_position_of_a_block_are_computed_with_it() -> None:
    """Blocks of 4 of 12 columns, positions 1 and 5: a pass over 4 columns, and one over 4 + 4."""
    ids = torch.randint(0, 100, (2, 12), generator=torch.Generator().manual_seed(5))
    editable, attention = torch.zeros(2, 12).bool(), torch.ones(2, 12).bool()
    editable[:, [1, 5]] = True
    editable[1, 4], attention[1, :3] = True, False  # blocks from column 3 on: 4 and 5 are in one
    given: dict[str, Any] = {"attention_mask": attention, "seeds": [1, 2], "law": TokenLaw()}
    without, cached = (
        sample(
            sdar(), samplers.create("llada"), ids, editable & attention, block_length=4,
            align_blocks=True, cache=cache, **given,
        )
        for cache in ("none", "block")
    )  # fmt: skip
    same(without, cached)
    assert cached.nfe.tolist() == [2, 2]
    assert cached.work.tolist() == pytest.approx([(4 + 8) / 12, (4 + 4) / 9])


@dataclass(frozen=True)
class Lazy(PolicyBase):
    """The fault: the keys of a block's last pass, which saw masks, are kept."""

    name, exact = "lazy", True

    def plan(self, state: None, view: View) -> tuple[None, Plan]:
        window = view.window & view.real
        before = view.real & (view.window.cumsum(1) == 0)
        new = before & ~view.held
        return None, Plan(new | window, before | window, new | window, new.any(1))


def test_keys_of_the_last_denoising_pass_are_not_those_of_the_block() -> None:
    denoiser = load("sdar")
    without, lazy = (run(denoiser, "llada", cache) for cache in ("none", Lazy()))
    assert not torch.allclose(without.logprob, lazy.logprob, atol=1e-3)


def test_a_row_does_not_depend_on_the_batch_and_its_order() -> None:
    denoiser = load("sdar")
    together = run(denoiser, "fast-dllm", "block")
    for row, length in enumerate(PROMPTS):
        alone = run(denoiser, "fast-dllm", "block", prompts=(length,), seeds=[row])
        width = alone.tokens.shape[1]
        assert torch.equal(alone.tokens[0], together.tokens[row, -width:])
        assert alone.nfe[0] == together.nfe[row]
        assert float(alone.work[0]) == pytest.approx(float(together.work[row]))


def counted_columns(denoiser: Denoiser) -> list[int]:
    """Count the query columns of every pass, over all rows."""
    seen: list[int] = []
    inner = denoiser.forward

    def forward(inputs: Any) -> Any:
        columns = inputs.tokens if inputs.cache is None else inputs.cache.query
        seen.append(columns.numel())
        return inner(inputs)

    denoiser.forward = forward  # type: ignore[method-assign]
    return seen


def test_rows_of_one_prompt_share_its_keys_and_values() -> None:
    denoiser = load("sdar")
    denoiser.tokenizer = None
    given: dict[str, Any] = {"max_new_tokens": 8, "steps": 4, "seed": 3, "temperature": 1.0}
    prompt = [list(range(30, 62))]
    one = generate(denoiser, prompt, cache="none", num_return_sequences=5, **given)
    seen = counted_columns(denoiser)
    five = generate(denoiser, prompt, num_return_sequences=5, **given)
    assert torch.equal(one.tokens, five.tokens)
    assert seen[0] == 32 + 4  # one row of the prompt and the first block, for five sequences
    assert max(seen[1:]) <= 5 * 8
    assert float((five.work - five.shared).sum()) * 40 == pytest.approx(sum(seen))
    assert five.shared.tolist() == pytest.approx([0.0, *[36 / 40] * 4])


def test_the_first_pass_shows_the_prompt_once_and_later_ones_a_block() -> None:
    denoiser = load("sdar")
    seen = counted_columns(denoiser)
    run(denoiser, "llada", "auto", prompts=(9,), seeds=[0])
    assert seen[0] == 8 + 4
    assert set(seen[1:]) <= {4, 8}


def test_blocks_that_are_not_those_of_the_network_run_without_a_cache() -> None:
    denoiser = load("sdar")
    without = run(denoiser, "llada", "none", block_length=3)
    same(without, run(denoiser, "llada", "auto", block_length=3))
    with pytest.raises(ValueError, match=r"cache='block': the blocks of the run.*'none'"):
        run(denoiser, "llada", "block", block_length=3)
    multiple = run(denoiser, "llada", "block", block_length=8)
    same(run(denoiser, "llada", "none", block_length=8), multiple)


def test_a_network_that_is_told_the_time_is_cached_on_request_only_and_with_a_warning() -> None:
    denoiser = load("bd3lm")
    denoiser.time_conditioned = True
    without, auto = (run(denoiser, "llada", cache) for cache in ("none", "auto"))
    assert torch.equal(without.work, auto.work)
    with pytest.warns(UserWarning, match="told the time"):
        cached = run(denoiser, "llada", "block", return_trajectory=True)
    assert float(cached.work.max()) < float(auto.work.min())
    assert cached.cache is not None and not cached.cache.exact
    rollout = Rollout.from_output(cached)
    with pytest.warns(UserWarning, match="with BlockCache.* is approximate: its tokens come"):
        replay(denoiser, rollout)


def test_a_prompt_is_encoded_once_per_call_and_not_once_per_step() -> None:
    """DiffusionGemma; a prompt of 40 tokens is longer than the window of 32 of its first layer."""
    denoiser = AutoDenoiser.from_pretrained(MODELS / "diffusion_gemma")
    denoiser.tokenizer = None
    encoded: list[int] = []
    assert denoiser.module is not None
    encoder = denoiser.module.get_submodule("model.encoder")
    encoder.register_forward_pre_hook(
        lambda _module, _args, given: encoded.append(given["input_ids"].numel()), with_kwargs=True
    )
    text = torch.randint(3, 120, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    given: dict[str, Any] = {"max_new_tokens": 16, "seed": 2, "eos": "keep"}
    given["sampler_options"] = {"max_steps": 6}
    for prompts in ([text], [text, text[:5]]):
        without = generate(denoiser, prompts, cache="none", **given)
        encoded.clear()
        cached = generate(denoiser, prompts, **given)
        assert torch.equal(without.tokens, cached.tokens)
        torch.testing.assert_close(without.logprobs, cached.logprobs, atol=1e-5, rtol=1e-5)
        assert torch.equal(without.nfe, cached.nfe)
        # Each prompt, and the first canvas of each row for the second.
        assert sum(encoded) == sum(len(ids) + 8 for ids in prompts)
        assert float(cached.work.max()) < float(without.work.min())
