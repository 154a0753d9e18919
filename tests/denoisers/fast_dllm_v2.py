"""Fast-dLLM v2 in the layout of its release: a tiny random checkpoint, its network by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

V, MASK, END, BLOCK = 128, 127, 126, 4
CONFIG: dict[str, Any] = {  # the keys of the release of 1.5B, all of them, with small sizes
    "architectures": ["Fast_dLLM_QwenForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration.Fast_dLLM_QwenConfig",
        "AutoModel": "modeling.Fast_dLLM_QwenModel",
        "AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM",
    },
    "bd_size": BLOCK,
    "bos_token_id": 37,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "layer_types": ["full_attention", "full_attention"],
    "max_position_embeddings": 64,
    "max_window_layers": 1,
    "model_type": "Fast_dLLM_Qwen",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": END,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.53.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": V,
}


def shapes(tied: bool) -> dict[str, tuple[int, ...]]:
    """The tensors of the release by name."""
    width, wide = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    narrow = width // CONFIG["num_attention_heads"] * CONFIG["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (V, width)}
    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        for part, size in (("q", width), ("k", narrow), ("v", narrow)):
            found[f"{name}.self_attn.{part}_proj.weight"] = (size, width)
            found[f"{name}.self_attn.{part}_proj.bias"] = (size,)
        found[f"{name}.self_attn.o_proj.weight"] = (width, width)
        found[f"{name}.mlp.gate_proj.weight"] = found[f"{name}.mlp.up_proj.weight"] = (wide, width)
        found[f"{name}.mlp.down_proj.weight"] = (width, wide)
        found[f"{name}.input_layernorm.weight"] = (width,)
        found[f"{name}.post_attention_layernorm.weight"] = (width,)
    found["model.norm.weight"] = (width,)
    return found if tied else {**found, "lm_head.weight": (V, width)}


def write_checkpoint(folder: Path, **changes: Any) -> dict[str, Tensor]:
    """Write config.json and random tensors; return the tensors in float64."""
    config, generator = {**CONFIG, **changes}, torch.Generator().manual_seed(0)
    tensors = {
        name: 0.4 * torch.randn(shape, generator=generator) + ("norm" in name)
        for name, shape in shapes(config["tie_word_embeddings"]).items()
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return {name: weight.double() for name, weight in tensors.items()}


def logits_by_hand(tensors: dict[str, Tensor], ids: list[int], block: int = BLOCK) -> Tensor:
    """What each position says of the next one, [L, V]; a block sees itself and earlier ones."""
    heads, groups = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
    width, length = CONFIG["hidden_size"] // heads, len(ids)
    number = torch.arange(length) // block
    seen = number[:, None] >= number[None, :]  # [L, L]
    rate = CONFIG["rope_theta"] ** (-torch.arange(0, width, 2).double() / width)
    angle = torch.arange(length)[:, None] * rate
    cos, sin = angle.cos(), angle.sin()

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + CONFIG["rms_norm_eps"]).sqrt() * scale

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", torch.zeros(()))

    def turned(x: Tensor) -> Tensor:  # the two halves of a head are the parts of complex numbers
        a, b = x[..., : width // 2], x[..., width // 2 :]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    x = tensors["model.embed_tokens.weight"][torch.tensor(ids)]
    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        y = norm(x, tensors[f"{name}.input_layernorm.weight"])
        q, k, v = (
            linear(y, f"{name}.self_attn.{part}_proj").view(length, -1, width).transpose(0, 1)
            for part in "qkv"
        )
        k, v = (part.repeat_interleave(heads // groups, 0) for part in (turned(k), v))
        score = (turned(q) @ k.transpose(1, 2) / math.sqrt(width)).masked_fill(~seen, -math.inf)
        mixed = (score.softmax(-1) @ v).transpose(0, 1).reshape(length, -1)
        x = x + linear(mixed, f"{name}.self_attn.o_proj")
        y = norm(x, tensors[f"{name}.post_attention_layernorm.weight"])
        gate = F.silu(linear(y, f"{name}.mlp.gate_proj")) * linear(y, f"{name}.mlp.up_proj")
        x = x + linear(gate, f"{name}.mlp.down_proj")
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    return norm(x, tensors["model.norm.weight"]) @ head.T


def decode_by_hand(
    tensors: dict[str, Tensor], prompt: list[int], new: int, sub_block: int, threshold: float
) -> tuple[list[int], list[float], int]:
    """The released loop at temperature 0, without a cache: tokens, log-probabilities and passes.

    The mask itself is never written, and a last block may be shorter than the others.
    """
    tokens = [*prompt, *new * [MASK]]
    found, passes = dict[int, float](), 0

    def laws(end: int) -> Tensor:
        logits = logits_by_hand(tensors, tokens[:end])
        logits[:, MASK] = -math.inf
        return logits.log_softmax(-1)

    for start in range(len(prompt) // BLOCK * BLOCK, len(tokens), BLOCK):
        stop = min(start + BLOCK, len(tokens))
        if tokens[start] == MASK:  # the next token of the finished text
            law, passes = laws(start)[-1], passes + 1
            tokens[start], found[start] = int(law.argmax()), float(law.max())
        for first in range(start, stop, sub_block):
            while left := [
                i for i in range(first, min(first + sub_block, stop)) if tokens[i] == MASK
            ]:
                law, passes = laws(stop), passes + 1
                sure = {i: float(law[i - 1].max()) for i in left}
                best = max(left, key=lambda i: sure[i])
                for i in left:
                    if i == best or math.exp(sure[i]) > threshold:
                        tokens[i], found[i] = int(law[i - 1].argmax()), sure[i]
    return tokens[len(prompt) :], [found[i] for i in range(len(prompt), len(tokens))], passes
