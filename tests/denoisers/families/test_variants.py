"""Checkpoints that differ from the releases by one flag load, and are the network of the flag."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from dlm_sampling.denoisers import AutoDenoiser
from dlm_sampling.denoisers.columns import queried
from dlm_sampling.denoisers.families.llada_moe import SoftmaxRouter
from dlm_sampling.denoisers.networks.block_causal import block_causal_bias
from dlm_sampling.denoisers.networks.total_noise import clipped_noise
from dlm_sampling.types import Pass
from tests.denoisers.layers import run_layers

FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"
IDS = torch.randint(0, 120, (2, 12), generator=torch.Generator().manual_seed(3))
Change = Callable[[dict[str, Tensor]], None]


def variant(
    name: str, folder: Path, flags: dict[str, Any], change: Change = lambda _: None, **options: Any
) -> Any:
    """A copy of a fixture with other flags and tensors, loaded, saved, and loaded again."""
    shutil.copytree(FIXTURES / name, folder, dirs_exist_ok=True)
    config, weights = folder / "config.json", folder / "model.safetensors"
    config.write_text(json.dumps(json.loads(config.read_text()) | flags))
    tensors = {key: value.clone() for key, value in load_file(weights).items()}
    change(tensors)
    save_file(tensors, weights, metadata={"format": "pt"})
    first = AutoDenoiser.from_pretrained(folder, **options)
    first.save_pretrained(folder / "again")
    second = AutoDenoiser.from_pretrained(folder / "again", **options)
    t = torch.full((2,), 0.4).double()
    torch.testing.assert_close(second.logits(IDS, t=t), first.logits(IDS, t=t))
    return first


@torch.no_grad()
def test_llada_with_biases_of_queries_keys_and_values(tmp_path: Path) -> None:
    def add(tensors: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        for key in [key for key in tensors if key.endswith(("q_proj.weight", "k_proj.weight"))]:
            shape = tensors[key].shape[:1]
            tensors[key.replace("weight", "bias")] = torch.randn(shape, generator=generator)
        for key in [key for key in tensors if key.endswith("v_proj.weight")]:
            tensors[key.replace("weight", "bias")] = torch.ones(tensors[key].shape[0])

    found = variant("llada", tmp_path, {"include_qkv_bias": True}, add)
    config = found.module.config
    assert config.attention_bias
    stock: Any = LlamaForCausalLM(config)
    stock.load_state_dict(found.module.state_dict(), strict=False)
    for layer in stock.model.layers:
        layer.self_attn.o_proj.bias.zero_()
    whole = torch.zeros(2, 1, 12, 12)
    wanted = stock.eval()(IDS, attention_mask=whole).logits
    torch.testing.assert_close(found.logits(IDS), wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_llada2_with_tied_embeddings(tmp_path: Path) -> None:
    given = {"tie_word_embeddings": True}

    def drop(tensors: dict[str, Tensor]) -> None:
        del tensors["lm_head.weight"]

    found = variant("llada2_moe", tmp_path, given, drop, mask_token_id=126)
    network = found.module
    assert network.lm_head.weight is network.model.embed_tokens.weight
    out = found(IDS)
    torch.testing.assert_close(
        found.logits(IDS), out.values @ network.model.embed_tokens.weight.T, atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("place", ["mlp.gate.expert_bias", "mlp.expert_bias"])
def test_llada_moe_with_biased_experts(place: str, tmp_path: Path) -> None:
    """The bias counts for the choice and for the weights."""
    bias = torch.linspace(-0.4, 0.6, 8)

    def add(tensors: dict[str, Tensor]) -> None:
        for layer in range(2):
            tensors[f"model.layers.{layer}.{place}"] = bias.clone()

    found = variant("llada_moe", tmp_path, {"moe_router_enable_expert_bias": True}, add)
    router: Any = next(part for part in found.module.modules() if isinstance(part, SoftmaxRouter))
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    wanted = (F.linear(x, router.weight).softmax(-1) + bias).topk(2, dim=-1)
    weights, chosen = router(x)
    torch.testing.assert_close(weights, wanted.values)
    assert torch.equal(chosen, wanted.indices)


@torch.no_grad()
def test_bd3lm_that_sees_the_time(tmp_path: Path) -> None:
    found = variant("bd3lm", tmp_path, {"time_conditioning": True})
    assert found.time_conditioned
    t = torch.tensor([0.2, 0.9]).double()
    bias = block_causal_bias(queried(Pass(IDS)), 4, torch.float32)
    places = torch.arange(12)[None]
    hidden = found.module(IDS, clipped_noise(t), places, bias)
    wanted = found.module.output_layer.linear(hidden)
    torch.testing.assert_close(found.logits(IDS, t=t), wanted)
    assert (found.logits(IDS, t=t.flip(0)) - wanted).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("length", [2, 8])
def test_sdar_with_other_block_lengths(length: int, tmp_path: Path) -> None:
    found = variant("sdar", tmp_path, {"block_size": length})
    assert found.block_length == length
    model = found.module
    bias = block_causal_bias(queried(Pass(IDS)), length, torch.float32)
    embeds, places = model.model.embed_tokens(IDS), torch.arange(12)[None]
    wanted = model.lm_head(run_layers(model.model, embeds, places, bias))
    torch.testing.assert_close(found.logits(IDS), wanted)
