"""dLLM-Cache: exact where every pass computes all, and its rule against arithmetic by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from dlm_sampling import AutoDenoiser, sample, samplers
from dlm_sampling.caches import DLLMCache
from dlm_sampling.types.rows import copy_rows, row_tensors
from tests.prediction.test_cached import (
    BLOCK,
    TIME,
    assert_same,
    canvas,
    of_one_layer,
    passes,
    run,
    toy,
)

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
RARE = DLLMCache(prompt_every=5, every=4, share=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("shifted", [False, True])
def test_with_one_layer_nothing_is_stale(shifted: bool) -> None:
    for sampler in ("llada", "theta-trapezoidal"):
        without = of_one_layer("none", sampler, shifted, 0.6)
        given: dict[str, Any] = {"guidance_scale": 0.6, "steps": 12}
        cached = run(toy(1, shifted=shifted), RARE, sampler, **given)
        assert_same(without, cached)
        assert (cached.work < without.work).all()


@pytest.mark.slow
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("policy", "exact"),
    [
        (DLLMCache(1, 1, 0.3), True),
        (DLLMCache(1, 99, 1.0), True),  # all columns of the answer, one by one
        (DLLMCache(99, 1, 0.3), False),
        (DLLMCache(1, 99, 0.5), False),
        (DLLMCache(1, 99, 0.0), False),  # layers behind the first compute no column
    ],
)
def test_what_is_computed_in_every_pass_is_no_cache(
    policy: DLLMCache, exact: bool, shifted: bool
) -> None:
    denoiser = toy(2, shifted=shifted)
    without, cached = run(denoiser, "none"), run(denoiser, policy)
    if exact:
        assert_same(without, cached)
    else:
        assert not torch.allclose(without.logprob, cached.logprob, atol=1e-3)


@pytest.mark.slow
def test_a_row_does_not_depend_on_the_batch() -> None:
    denoiser = toy(2)
    ids = torch.randint(0, 38, (3, 17), generator=torch.Generator().manual_seed(1))
    editable = torch.arange(17).expand(3, -1) >= torch.tensor([[5], [9], [5]])
    settings: dict[str, Any] = {"block_length": BLOCK, "cache": RARE}
    sampler = samplers.create("fast-dllm", threshold=0.1)
    together = sample(denoiser, sampler, ids, editable, seeds=[5, 6, 7], **settings)
    assert len(set(together.nfe.tolist())) > 1
    for row in range(3):
        part = slice(row, row + 1)
        alone = sample(denoiser, sampler, ids[part], editable[part], seeds=[5 + row], **settings)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert float(alone.work[0]) == pytest.approx(float(together.work[row]))


def attended(layer: Any, queries: Tensor, keys: Tensor, values: Tensor, rotary: Any) -> Tensor:
    """A layer whose queries, keys and values come from three hidden states, [2, 12, 16] each."""
    attention = layer.self_attn

    def heads(project: Any, hidden: Tensor) -> Tensor:
        return project(layer.input_layernorm(hidden)).unflatten(-1, (-1, 8)).transpose(1, 2)

    q, k = heads(attention.q_proj, queries), heads(attention.k_proj, keys)
    q, k = apply_rotary_pos_emb(q, k, *rotary)
    shares = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1)
    mixed = (shares @ heads(attention.v_proj, values)).transpose(1, 2).flatten(2)
    hidden = queries + attention.o_proj(mixed)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


@torch.no_grad()
def test_a_partial_pass_by_hand() -> None:
    """Two layers, a prompt of 4 and an answer of 8 columns, of which the second computes 4."""
    denoiser, first = toy(2), canvas()
    predictor, cached = passes(denoiser, DLLMCache(9, 9, 0.5), first)
    predictor.run(first, TIME, None)
    second = first.clone()
    second[:, 4:6] = torch.tensor([[7, 9], [11, 3]])
    cached.shown = cached.shown._replace(tokens=second)
    (out,) = predictor.run(second, TIME, None)
    assert out.head is not None

    stack = denoiser.module.model  # type: ignore[union-attr]
    lower, upper = stack.layers
    rotary = stack.rotary_emb(stack.embed_tokens(first), torch.arange(12)[None])
    # In the first layer the prompt's keys and values are those of its tokens: nothing is stale.
    old, new = (attended(lower, *[stack.embed_tokens(x)] * 3, rotary) for x in (first, second))
    answer = torch.arange(12) >= 4
    v, w = (upper.self_attn.v_proj(upper.input_layernorm(h)) for h in (old, new))
    alike = torch.cosine_similarity(v, w, dim=2)[:, 4:]
    chosen = torch.zeros(2, 12, dtype=torch.bool)
    for row, places in enumerate(alike.argsort(1)[:, :4].tolist()):
        chosen[row, [4 + place for place in places]] = True
    keys = torch.where(chosen[..., None], new, old)
    values = torch.where(answer[None, :, None], new, old)
    computed = attended(upper, new, keys, values, rotary)
    kept = new + attended(upper, old, old, old, rotary) - old
    top = torch.where(chosen[..., None], computed, kept)
    wanted = denoiser.module.lm_head(stack.norm(top))[:, 4:8]  # type: ignore[union-attr]
    torch.testing.assert_close(out.head(out.values), wanted)
    assert 0 < int(chosen[:, 4:8].sum()) < 8  # both kinds are read


@torch.no_grad()
def test_a_provisional_canvas_leaves_the_store_bit_for_bit_as_it_was() -> None:
    denoiser, tokens = toy(2), canvas()
    predictor, cached = passes(denoiser, RARE, tokens)
    predictor.run(tokens, TIME, None)
    before = copy_rows(cached.cache)
    predictor.run(tokens.clone().clamp_max(5), TIME, None)
    held = zip(row_tensors(before.layers), row_tensors(cached.cache.layers), strict=True)
    for old, new in held:
        assert torch.equal(old[:, :, :12], new[:, :, :12])
    assert len(list(row_tensors(before.layers))) == 2 * 2 + 1  # the second layer's additions


def test_layers_that_cannot_be_computed_in_part_and_wrong_numbers_are_refused() -> None:
    denoiser = AutoDenoiser.from_pretrained(MODELS / "mdlm")
    ids = torch.zeros(1, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match="cache='dllm': the layers of this network"):
        sample(denoiser, samplers.create("llada"), ids, ids == 0, seeds=[0], cache="dllm")
    for wrong in ({"every": 0}, {"prompt_every": 0}, {"share": 1.5}, {"share": float("nan")}):
        with pytest.raises(ValueError, match="must be"):
            DLLMCache(**wrong)  # type: ignore[arg-type]
