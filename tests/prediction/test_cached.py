"""Passes with keys and values of earlier passes: one layer, ages, provisional canvases, rows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from dlm_sampling import AutoDenoiser, ops, sample, samplers
from dlm_sampling.caches import (
    AdaptiveCache,
    AnyPolicy,
    BlockCache,
    DkvCache,
    DLLMCache,
    DPadCache,
    DualCache,
    PrefixCache,
    VicinityCache,
)
from dlm_sampling.caches.policy import Plan
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.denoisers.columns import Queried
from dlm_sampling.denoisers.families.dream import DreamDenoiser
from dlm_sampling.denoisers.families.llada import LLaDADenoiser
from dlm_sampling.denoisers.networks.block_causal import as_bias
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.prediction.audit import Meter
from dlm_sampling.prediction.cached import CachedPasses, _Rows, _with_sources
from dlm_sampling.prediction.model import Counts, RunModel
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.prediction.run_cache import RunCache, Shown
from dlm_sampling.types import Pass, TokenLaw
from dlm_sampling.types.rows import copy_rows, repeat_rows, row_tensors, select_rows, where_rows

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
MASK, BLOCK = 39, 4
POLICIES: dict[str, AnyPolicy] = {
    "prefix": PrefixCache(),
    "dual": DualCache(),
    "vicinity": VicinityCache(left=1, right=2, warm_up=1),
    "dkv": DkvCache(every=3),
}
EVERY: dict[str, AnyPolicy] = {
    "vicinity": VicinityCache(left=99, right=99),
    "vicinity-every": VicinityCache(left=0, right=0, warm_up=1, every=1),
    "dkv": DkvCache(every=1),
}


def toy(layers: int, *, shifted: bool = False) -> Denoiser:
    """A random network with large weights, in float64; a Dream layout where shifted."""
    torch.manual_seed(3)
    if shifted:
        config = Qwen2Config(num_hidden_layers=layers, **SIZES)
        net: Any = Qwen2ForCausalLM(config)
    else:
        net = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **SIZES))
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0.0, 0.4)
    made = (DreamDenoiser if shifted else LLaDADenoiser)(net.double(), mask_token_id=MASK)
    return made


def run(denoiser: Denoiser, cache: Any, sampler: str = "llada", **given: Any) -> SampleOutput:
    """Three rows with prompts of 5, 3 and 5 tokens, 12 new tokens in blocks of 4."""
    ids = torch.randint(0, 38, (3, 17), generator=torch.Generator().manual_seed(1))
    attention = torch.ones_like(ids, dtype=torch.bool)
    attention[1, :2] = False
    editable = torch.arange(17).expand(3, -1) >= 5
    settings: dict[str, Any] = {"steps": 6, "block_length": BLOCK, "law": TokenLaw()}
    settings["attention_mask"] = attention
    return sample(
        denoiser, samplers.create(sampler), ids, editable, seeds=[5, 6, 7], cache=cache,
        **{**settings, **given},
    )  # fmt: skip


def assert_same(one: SampleOutput, other: SampleOutput) -> None:
    assert torch.equal(one.tokens, other.tokens)
    torch.testing.assert_close(one.logprob, other.logprob, atol=1e-6, rtol=0)
    assert torch.equal(one.nfe, other.nfe)


@cache
def of_one_layer(policy: str, sampler: str, shifted: bool, guidance: float) -> SampleOutput:
    given: dict[str, Any] = {"guidance_scale": guidance, "steps": 12}
    return run(toy(1, shifted=shifted), POLICIES.get(policy, policy), sampler, **given)


@pytest.mark.parametrize("guidance", [0.0, 0.6])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_with_one_layer_keys_depend_on_their_own_token_and_no_cache_is_stale(
    policy: str, shifted: bool, guidance: float
) -> None:
    for sampler in ("llada", "fast-dllm", "theta-trapezoidal"):
        without = of_one_layer("none", sampler, shifted, guidance)
        cached = of_one_layer(policy, sampler, shifted, guidance)
        assert_same(without, cached)
        assert (cached.work < without.work).all()


@pytest.mark.slow
def test_ends_of_text_written_behind_the_block_are_no_longer_seen_as_masks() -> None:
    given: dict[str, Any] = {"stop_token_ids": tuple(range(7)), "fill_behind_stop": True}
    given |= {"steps": 12, "sampler": "llada-random"}
    without = run(toy(1), "none", **given)
    assert bool((without.nfe < 12).all())
    for policy in (*POLICIES.values(), AdaptiveCache(9.0), DPadCache(scale=99.0, cache="dual")):
        cached = run(toy(1), policy, **given)
        assert_same(without, cached)
        assert (cached.work < without.work).all()


@pytest.mark.slow
@pytest.mark.parametrize("policy", [DkvCache(every=99), DLLMCache(99, 99, 0.0)])
def test_a_column_that_was_hidden_is_computed_when_it_is_first_seen(policy: AnyPolicy) -> None:
    """Fixed tokens of later blocks, which causal blocks hide: no pass of the policy asks them."""
    ids = torch.randint(0, 38, (2, 12), generator=torch.Generator().manual_seed(1))
    given: dict[str, Any] = {"editable": torch.arange(12).expand(2, -1) % 3 == 1, "steps": 8}
    outputs = [
        sample(
            toy(1), samplers.create("ancestral"), ids, seeds=[5, 6], cache=cache,
            block_length=BLOCK, causal_blocks=True, law=TokenLaw(), **given,
        )
        for cache in ("none", policy)
    ]  # fmt: skip
    assert_same(*outputs)


@pytest.mark.slow
def test_a_pass_of_which_nothing_is_asked_computes_its_block() -> None:
    """`every_step` runs a row that has no mask left, of which dKV-Cache asks for no column."""
    given: dict[str, Any] = {"every_step": True, "steps": 15, "block_length": None}
    without, cached = (run(toy(1), cache, **given) for cache in ("none", DkvCache(every=99)))
    assert_same(without, cached)
    assert without.nfe.tolist() == [15, 15, 15]


@pytest.mark.slow
def test_a_draft_is_a_part_of_the_answer() -> None:
    """Samplers that revise ask for tokens of the draft, which is not the prompt of dLLM-Cache."""
    draft = torch.arange(17).expand(3, -1).contiguous()
    for policy in (DLLMCache(99, 99, 0.0), DLLMCache(99, 2, 0.5)):
        without, cached = (
            run(toy(1), cache, "llada2.1", start=draft, steps=12) for cache in ("none", policy)
        )
        assert_same(without, cached)


class Seeing(LLaDADenoiser):
    """The two-layer toy whose columns see some others only, by a rule over both positions."""

    def rule(self, query: Tensor, key: Tensor) -> Tensor:
        raise NotImplementedError

    def attention_bias(self, asked: Queried, dtype: torch.dtype) -> Tensor:
        seen = self.rule(asked.positions[:, :, None], asked.key_positions[:, None, :])
        return as_bias(seen if asked.keys is None else seen & asked.keys[:, None, :], dtype)


class SeeingEarlier(Seeing):
    def rule(self, query: Tensor, key: Tensor) -> Tensor:
        return key <= query


class SeeingTheBlock(Seeing):
    def rule(self, query: Tensor, key: Tensor) -> Tensor:
        return (key - 5).div(BLOCK, rounding_mode="floor") == (query - 5).div(
            BLOCK, rounding_mode="floor"
        )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "policy"), [(SeeingEarlier, "prefix"), (SeeingTheBlock, "dual")])
def test_a_cache_of_columns_that_nobody_sees_is_exact(kind: type[Seeing], policy: str) -> None:
    """Keys left of the block are final where later columns are not seen; others not read at all."""
    plain, whole = toy(2), torch.ones(3, 17, dtype=torch.bool)
    seeing = kind(plain.module, mask_token_id=MASK)  # type: ignore[arg-type]
    without, cached = (
        run(seeing, cache, steps=12, attention_mask=whole) for cache in ("none", policy)
    )
    assert_same(without, cached)
    assert not torch.equal(
        without.tokens, run(plain, "none", steps=12, attention_mask=whole).tokens
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_with_two_layers_they_are_stale(policy: str) -> None:
    denoiser = toy(2)
    without, cached = run(denoiser, "none"), run(denoiser, POLICIES[policy])
    assert not torch.allclose(without.logprob, cached.logprob, atol=1e-3)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("policy", EVERY)
def test_a_refresh_in_every_pass_is_no_cache(policy: str, shifted: bool) -> None:
    denoiser = toy(2, shifted=shifted)
    assert_same(run(denoiser, "none"), run(denoiser, EVERY[policy]))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_row_does_not_depend_on_the_batch(policy: str) -> None:
    """Rows that finish their blocks at different times, in passes of their own."""
    denoiser = toy(2)
    ids = torch.randint(0, 38, (3, 17), generator=torch.Generator().manual_seed(1))
    editable = torch.arange(17).expand(3, -1) >= 5
    settings: dict[str, Any] = {"block_length": BLOCK, "cache": POLICIES[policy]}
    sampler = samplers.create("fast-dllm", threshold=0.1)
    together = sample(denoiser, sampler, ids, editable, seeds=[5, 6, 7], **settings)
    assert len(set(together.nfe.tolist())) > 1
    for row in range(3):
        part = slice(row, row + 1)
        alone = sample(denoiser, sampler, ids[part], editable[part], seeds=[5 + row], **settings)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert float(alone.work[0]) == pytest.approx(float(together.work[row]))


def test_the_numbers_of_passes_and_columns() -> None:
    """Blocks at 5, 9 and 13 of 17 columns, two passes each."""
    denoiser = toy(2)
    dual, prefix = run(denoiser, "dual"), run(denoiser, "prefix")
    assert dual.nfe.tolist() == prefix.nfe.tolist() == [6, 6, 6]
    assert float(dual.work[0]) == pytest.approx((17 + 4) * 3 / 17)
    assert float(prefix.work[0]) == pytest.approx((17 + 12 + 17 + 8 + 17 + 4) / 17)
    shifted = run(toy(2, shifted=True), "dual")  # the state before the block predicts its first
    assert float(shifted.work[0]) == pytest.approx((17 + 5) * 3 / 17)


def passes(denoiser: Denoiser, policy: AnyPolicy, tokens: Tensor) -> tuple[Predictor, CachedPasses]:
    """The passes of a step in the block from 4 to 8, of rows of 12 columns."""
    column = torch.arange(tokens.shape[1]).expand(tokens.shape)
    window = (column >= 4) & (column < 8)
    shown = Shown(tokens, tokens == MASK, window, torch.ones_like(window))
    cached = CachedPasses(
        RunCache.empty(policy, window, shown.unknown, shown.real),
        shown,
        Meter(policy),
        ops.Rng.from_seeds(range(len(tokens))),
    )
    model = RunModel(denoiser, TokenLaw(), Counts.zero(len(tokens), torch.device("cpu")))
    rows = PassRows(torch.arange(len(tokens)), columns=column[:, 4:8])
    return Predictor(model, rows, cache=cached), cached


def canvas() -> Tensor:
    tokens = torch.randint(0, 38, (2, 12), generator=torch.Generator().manual_seed(2))
    return tokens.masked_fill(torch.arange(12) >= 4, MASK)


TIME = torch.full((2,), 0.5, dtype=torch.float64)


@torch.no_grad()
def test_stale_logits_are_those_of_a_hand_made_mixture_of_two_canvases() -> None:
    """The second layer sees old keys outside of the block: those of the first canvas."""
    denoiser, first = toy(2), canvas()
    predictor, _ = passes(denoiser, DualCache(), first)
    predictor.run(first, TIME, None)
    second = first.clone()
    second[:, 4:6] = 7
    assert predictor.cache is not None
    predictor.cache.shown = predictor.cache.shown._replace(tokens=second)
    (out,) = predictor.run(second, TIME, None)
    assert out.head is not None
    # By hand: the hidden states below the second layer outside of the block are the first canvas's.
    stack = denoiser.module.model  # type: ignore[union-attr]
    place = torch.arange(12)[None]
    inside = ((place >= 4) & (place < 8))[..., None]
    below: list[Tensor] = []
    for tokens in (first, second):
        hidden = stack.embed_tokens(tokens)
        rotary = stack.rotary_emb(hidden, place)
        below.append(stack.layers[0](hidden, position_embeddings=rotary, is_causal=False))
    # In the first layer keys are exact but of the second canvas inside, so that is its output.
    mixed = torch.where(inside, below[1], below[0])
    top = stack.layers[1](mixed, position_embeddings=rotary, is_causal=False)
    wanted = denoiser.module.lm_head(stack.norm(top))[:, 4:8]  # type: ignore[union-attr]
    torch.testing.assert_close(out.head(out.values), wanted)


@torch.no_grad()
@pytest.mark.parametrize("policy", POLICIES)
def test_a_provisional_canvas_leaves_the_store_bit_for_bit_as_it_was(policy: str) -> None:
    denoiser, tokens = toy(2), canvas()
    predictor, cached = passes(denoiser, POLICIES[policy], tokens)
    predictor.run(tokens, TIME, None)
    before = copy_rows(cached.cache)
    predictor.run(tokens.clone().clamp_max(5), TIME, None)
    for old, new in zip(row_tensors(before.held), row_tensors(cached.cache.held), strict=True):
        assert torch.equal(old, new)
    for old, new in zip(before.layers[0], cached.cache.layers[0], strict=True):
        assert torch.equal(old.keys[:, :, :12], new.keys[:, :, :12])
        assert torch.equal(old.values[:, :, :12], new.values[:, :, :12])


@torch.no_grad()
def test_the_cache_follows_its_rows() -> None:
    """Select, repeat and merge by the one helper; a copy can go another way."""
    denoiser, tokens = toy(2), canvas()
    predictor, cached = passes(denoiser, DualCache(), tokens)
    predictor.run(tokens, TIME, None)
    swapped = select_rows(cached.cache, torch.tensor([1, 0]))
    assert torch.equal(swapped.layers[0][1].keys, cached.cache.layers[0][1].keys.flip(0))
    twice = repeat_rows(cached.cache, 2)
    assert torch.equal(twice.layers[0][0].values[1], cached.cache.layers[0][0].values[0])
    merged = where_rows(torch.tensor([True, False]), swapped, cached.cache)
    assert torch.equal(merged.held, cached.cache.held)
    assert torch.equal(merged.layers[0][0].keys[0], cached.cache.layers[0][0].keys[1])
    own, other = copy_rows(cached.cache), cached.cache
    predictor.run(tokens.clone(), TIME, None)
    second = tokens.clone()
    second[:, 4:8] = 3
    cached.shown = cached.shown._replace(tokens=second)
    predictor.run(second, TIME, None)
    assert not torch.equal(own.layers[0][1].keys[:, :, 4:8], other.layers[0][1].keys[:, :, 4:8])
    # A run that continues from the copy is the run from before.
    again = replace(
        predictor, cache=replace(cached, cache=own, shown=cached.shown._replace(tokens=tokens))
    )
    (redone,) = again.run(tokens, TIME, None)
    whole = replace(predictor, cache=None).run(tokens, TIME, None)[0]
    torch.testing.assert_close(redone.values, whole.values)


@torch.no_grad()
def test_a_position_that_was_not_computed_cannot_be_read() -> None:
    tokens = canvas()
    tokens[:, 4:8] = torch.tensor([1, MASK, 2, MASK])
    denoiser = toy(2)
    predictor, cached = passes(denoiser, DkvCache(), tokens)
    predictor.run(tokens, TIME, None)
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[:, 5] = True
    prediction = predictor(tokens, TIME)
    assert prediction.log_probs(where).isfinite().all()
    where[:, 4] = True  # a token that is frozen by now
    with pytest.raises(IndexError, match="outside of the current block"):
        predictor(tokens, TIME).log_probs(where)
    assert cached.cache.held.all()


@torch.no_grad()
@pytest.mark.parametrize("folder", ["llada", "dream", "llada_moe", "mdlm"])
@pytest.mark.parametrize("policy", ["prefix", "dual", "vicinity", "dkv"])
def test_published_layouts_take_every_policy(folder: str, policy: str) -> None:
    """The released layouts of networks: the first pass of a block is that of no cache."""
    denoiser = AutoDenoiser.from_pretrained(MODELS / folder)
    ids = torch.randint(0, 100, (2, 14), generator=torch.Generator().manual_seed(0))
    editable = torch.arange(14).expand(2, -1) >= 6
    sampler, given = samplers.create("llada"), {"steps": 2, "block_length": 4}
    out = [
        sample(denoiser, sampler, ids, editable, seeds=[0, 1], cache=cache, **given)
        for cache in ("none", policy)
    ]
    assert torch.equal(out[0].tokens[:, :10], out[1].tokens[:, :10])  # one pass for the block
    assert out[0].nfe.tolist() == out[1].nfe.tolist()


@torch.no_grad()
@pytest.mark.parametrize("guidance", [0.0, 0.6])
def test_a_finished_block_is_stored_once_for_all_copies_of_its_row(guidance: float) -> None:
    """Exact caches: in the first pass of the next block, or in one of its own."""
    denoiser = AutoDenoiser.from_pretrained(MODELS / "sdar").to(dtype=torch.float64)
    ids = torch.randint(0, 100, (3, 16), generator=torch.Generator().manual_seed(0))
    editable = torch.arange(16).expand(3, -1) >= 4
    for sampler in ("llada", "picard"):
        runs = [
            sample(
                denoiser, samplers.create(sampler), ids, editable, seeds=[3, 4, 5], steps=6,
                block_length=4, align_blocks=True, cache=cache, guidance_scale=guidance,
            )
            for cache in ("none", BlockCache(), BlockCache("separate"))
        ]  # fmt: skip
        for cached in runs[1:]:
            assert torch.equal(cached.tokens, runs[0].tokens)
            torch.testing.assert_close(cached.logprob, runs[0].logprob, atol=1e-6, rtol=0)
        # Copies of a row cannot store blocks: the prompt and two blocks have passes of their own.
        more = 3 * (2 if guidance else 1)
        fused = 0 if sampler == "llada" else more
        assert torch.equal(runs[1].nfe, runs[0].nfe + fused)
        assert torch.equal(runs[2].nfe, runs[0].nfe + more)


def test_columns_that_predict_the_query_are_computed_and_kept() -> None:
    """With a shift of 1 column i needs the state of the real column before it."""
    query = torch.tensor([[0, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0]]).bool()
    write = query & torch.tensor([1, 1, 1, 0, 1, 1]).bool()  # column 3 is a source, and not kept
    real = torch.tensor([[1] * 6, [0, 0, 1, 1, 0, 1], [1] * 6]).bool()
    plan = Plan(query, real, write, torch.zeros(3, dtype=torch.bool))
    denoisers = (toy(1), toy(1, shifted=True))
    for attention in (None, real):
        inputs = Pass(torch.zeros(3, 6).long(), None, attention)
        work = _Rows(inputs, torch.arange(3), None, True, None)
        shown = Shown(inputs.tokens, query, query, real)
        models = [RunModel(d, TokenLaw(), Counts.zero(3, torch.device("cpu"))) for d in denoisers]
        found = _with_sources(plan, work, models[1], shown)
        asked, kept = query.clone(), write.clone()
        for row in range(3):
            for column in query[row].nonzero().flatten().tolist():
                here = [c for c in range(column) if attention is None or bool(real[row, c])]
                source = here[-1] if here else column
                if not query[row, source]:
                    asked[row, source] = kept[row, source] = True
        assert found.query.tolist() == asked.tolist()
        assert found.write.tolist() == kept.tolist()
        assert _with_sources(plan, work, models[0], shown) is plan
