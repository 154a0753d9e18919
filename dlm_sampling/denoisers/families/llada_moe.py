"""Load and run LLaDA-MoE: blocks with full attention and routed experts.

Zhu et al. 2025, LLaDA-MoE, arXiv:2509.24389; released weights inclusionAI/LLaDA-MoE-7B-A1B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.config_keys import ConfigKeys, reading_config
from dlm_sampling.denoisers.checkpoints.moe_checkpoint import REQUIRED, SIZE_KEYS, load_moe
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts
from dlm_sampling.denoisers.checkpoints.value_kinds import FLAG, FLAGS, POSITIVE, SIZE
from dlm_sampling.denoisers.networks.moe import MoeConfig, MoeNetwork
from dlm_sampling.denoisers.networks.moe_denoiser import MoeDenoiser
from dlm_sampling.denoisers.registry import Family, LoadOptions, register

MASK_TOKEN_ID = 156895
"""Mask id of the released checkpoints."""

FIXED: dict[str, Any] = {
    "attention_bias": False,
    "hidden_act": "silu",
    "moe_router_score_function": "softmax",
    "rope_scaling": None,
    "shared_expert_intermediate_size": None,
}
"""Architecture switches at the only values that any release uses."""


class SoftmaxRouter(nn.Module):
    """Choose the k largest of softmax(W x) + b over the experts, in float32, not renormalised."""

    def __init__(self, config: MoeConfig, top_k: int, biased: bool = False) -> None:
        """One row of W per expert; b is 0 unless `biased`."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.n_experts, config.hidden_size))
        self.expert_bias: Tensor | None
        self.register_buffer("expert_bias", torch.zeros(config.n_experts) if biased else None)
        self.top_k = top_k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights and experts of each token, both [N, k]."""
        scores = F.linear(x, self.weight).float().softmax(dim=-1)
        scores = scores if self.expert_bias is None else scores + self.expert_bias
        chosen = scores.topk(self.top_k, dim=-1)
        return chosen.values, chosen.indices


class LLaDAMoEDenoiser(MoeDenoiser):
    """Run a LLaDA-MoE network: no time input, logits in place, padding masked as keys.

    Args:
        network: the decoder.
        top_k: experts per token; kept for saving.
        mask_token_id: the mask id.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.
    """

    family = "llada_moe"

    def __init__(
        self,
        network: MoeNetwork,
        *,
        top_k: int,
        mask_token_id: int,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the network; see the class."""
        super().__init__(network, mask_token_id=mask_token_id, **text)
        self.top_k = top_k

    def authors_config(self) -> dict[str, Any]:
        """Write the config under the authors' keys."""
        sizes = self.network.config
        return {
            **FIXED,
            **self.shared_config(),
            "architectures": ["LLaDAMoEModelLM"],
            "model_type": "llada_moe",
            "moe_layer_freq": [int(not dense) for dense in sizes.dense_layers],
            "dense_intermediate_size": sizes.dense_width,
            "expert_intermediate_size": sizes.expert_width,
            "num_experts_per_tok": self.top_k,
            "qk_layernorm": sizes.qk_norm,
            "clip_qkv": sizes.clip_qkv,
            "moe_router_enable_expert_bias": self.biased,
        }

    @property
    def biased(self) -> bool:
        """Return whether the routers add a bias to their scores."""
        routers = [part for part in self.network.modules() if isinstance(part, SoftmaxRouter)]
        return any(router.expert_bias is not None for router in routers)


def read_sizes(checkpoint: Checkpoint) -> MoeConfig:
    """Read the sizes of the network.

    Raises:
        CheckpointError: one is missing, or does not fit the others.
    """
    given = checkpoint.config
    with reading_config(checkpoint):
        layers, heads = given["num_hidden_layers"], given["num_attention_heads"]
        width = given["hidden_size"] // heads
        routed = given.get("moe_layer_freq") or [1] * layers
        if len(routed) != layers:
            raise ValueError(f"num_hidden_layers={layers} beside moe_layer_freq={routed}")
        return MoeConfig(
            vocab_size=int(given["vocab_size"]),
            hidden_size=int(given["hidden_size"]),
            n_heads=heads,
            n_kv_heads=given.get("num_key_value_heads") or heads,
            head_dim=width,
            dense_layers=tuple(not flag for flag in routed),
            dense_width=given.get("dense_intermediate_size") or 0,
            expert_width=int(given["expert_intermediate_size"]),
            n_experts=int(given["num_experts"]),
            shared_width=0,
            rotary_width=int(width * given["partial_rotary_factor"]),
            rope_theta=float(given["rope_theta"]),
            eps=given.get("rms_norm_eps", 1e-5),
            qk_norm=bool(given.get("qk_layernorm", True)),
            clip_qkv=given.get("clip_qkv"),
            max_length=given.get("max_position_embeddings"),
        )


def load(checkpoint: Checkpoint, options: LoadOptions) -> LLaDAMoEDenoiser:
    """Build the denoiser of a LLaDA-MoE checkpoint."""
    sizes = read_sizes(checkpoint)
    top_k = int(checkpoint.config.get("num_experts_per_tok", 8))
    with reading_config(checkpoint):
        if top_k > sizes.n_experts:
            raise ValueError(f"num_experts_per_tok={top_k} beside num_experts={sizes.n_experts}")
    biased = bool(checkpoint.config.get("moe_router_enable_expert_bias"))
    mask_token_id = options.mask_id(checkpoint, MASK_TOKEN_ID, sizes.vocab_size)

    def router(config: MoeConfig) -> nn.Module:
        return SoftmaxRouter(config, top_k, biased)

    def name_of(key: str) -> str:
        beside = key.replace("mlp.gate.expert_bias", "mlp.expert_bias")
        return beside if beside in checkpoint.files else key

    return LLaDAMoEDenoiser(
        load_moe(sizes, router, checkpoint, options, name_of),
        top_k=top_k,
        mask_token_id=mask_token_id,
        **options.text(checkpoint),
    )


def matches(config: Mapping[str, Any]) -> bool:
    """Match configs that count experts; released ones share LLaDA's model type."""
    return config.get("model_type") in ("llada", "llada_moe") and "num_experts" in config


KEYS = ConfigKeys(
    read={
        **SIZE_KEYS,
        "clip_qkv": POSITIVE,
        "dense_intermediate_size": SIZE,
        "expert_intermediate_size": SIZE,
        "moe_layer_freq": FLAGS,
        "moe_router_enable_expert_bias": FLAG,
        "qk_layernorm": FLAG,
    },
    required=(*REQUIRED, "expert_intermediate_size", "partial_rotary_factor"),
    fixed=FIXED,
    harmless={  # the authors' class reads none of these
        *("norm_topk_prob", "routed_scaling_factor", "router_num_group", "router_topk_group"),
    },
)

register(Family("llada_moe", matches, load, keys=KEYS))
