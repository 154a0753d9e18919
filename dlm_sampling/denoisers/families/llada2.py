"""Load and run LLaDA2 (mini, flash; 2.0, 2.1): block-causal, grouped and shared experts.

Bie et al. 2025, LLaDA2.0, arXiv:2512.15745; released weights inclusionAI/LLaDA2.0-mini.  The router
is that of DeepSeek-AI 2024, DeepSeek-V3, arXiv:2412.19437, section 2.1.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.config_keys import ConfigKeys, reading_config
from dlm_sampling.denoisers.checkpoints.moe_checkpoint import REQUIRED, SIZE_KEYS, load_moe
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts
from dlm_sampling.denoisers.checkpoints.value_kinds import COUNT, FLAG, POSITIVE, SIZE
from dlm_sampling.denoisers.columns import Queried
from dlm_sampling.denoisers.networks.block_causal import block_causal_bias, check_block_length
from dlm_sampling.denoisers.networks.moe import MoeConfig, MoeNetwork
from dlm_sampling.denoisers.networks.moe_denoiser import MoeDenoiser
from dlm_sampling.denoisers.registry import Family, LoadOptions, register

MASK_TOKEN_ID = 156895
"""Mask id of the released checkpoints."""
BLOCK_LENGTH = 32
"""Block length of the released checkpoints; their config does not tell it."""

FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "norm_head": False,
    "rope_scaling": None,
    "use_bias": False,
    "use_qkv_bias": False,
    "use_sliding_window": False,
}
"""Architecture switches at the only values that any release uses."""

NAMES = {
    "embed_tokens": "word_embeddings",
    "self_attn.qkv_proj": "attention.query_key_value",
    "self_attn.o_proj": "attention.dense",
    "self_attn.q_norm": "attention.query_layernorm",
    "self_attn.k_norm": "attention.key_layernorm",
}


@dataclass(frozen=True)
class RouterConfig:
    """Hold the numbers of the router, under the names of the authors' config.

    Args:
        num_experts_per_tok: experts per token.
        n_group: groups of neighbouring experts.
        topk_group: groups that a token may choose from.
        routed_scaling_factor: factor of all weights.
    """

    num_experts_per_tok: int
    n_group: int = 1
    topk_group: int = 1
    routed_scaling_factor: float = 1.0

    def check(self, n_experts: int) -> None:
        """Refuse groups that do not divide the experts, or that leave fewer than are chosen.

        Raises:
            ValueError: they do not fit.
        """
        groups, kept, chosen = self.n_group, self.topk_group, self.num_experts_per_tok
        if n_experts % groups or kept > groups or chosen > n_experts // groups * kept:
            raise ValueError(
                f"num_experts_per_tok={chosen}, n_group={groups} and topk_group={kept} do not fit "
                f"num_experts={n_experts}"
            )


class GroupedRouter(nn.Module):
    """Choose the best experts of the best groups by sigmoid scores, scaled to sum to a factor.

    A learned bias is added for the choice only.  A group is as good as its two best experts
    together.  A single expert keeps its score, times the factor, as in the released code.
    """

    def __init__(self, config: MoeConfig, choice: RouterConfig) -> None:
        """One row of W and one bias per expert."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.n_experts, config.hidden_size))
        self.expert_bias: Tensor
        self.register_buffer("expert_bias", torch.zeros(config.n_experts))
        self.choice = choice

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights, in float32, and experts of each token, both [N, k]."""
        choice = self.choice
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        ranked = (scores + self.expert_bias).view(len(x), choice.n_group, -1)
        strength = ranked.topk(min(2, ranked.shape[-1]), dim=-1).values.sum(dim=-1)
        kept = strength.topk(choice.topk_group, dim=-1).indices
        allowed = torch.zeros_like(strength, dtype=torch.bool).scatter(-1, kept, True)
        ranked = ranked.masked_fill(~allowed[..., None], float("-inf")).flatten(-2)
        chosen = ranked.topk(choice.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(-1, chosen)
        if choice.num_experts_per_tok > 1:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return weights * choice.routed_scaling_factor, chosen


class LLaDA2Denoiser(MoeDenoiser):
    """Run a LLaDA2 network: no time input, logits in place; a block sees itself and earlier ones.

    Args:
        network: the decoder.
        choice: settings of the choice of experts; kept for saving.
        mask_token_id: the mask id.
        block_length: columns per block; blocks count from a row's first real token.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.

    Raises:
        ValueError: `block_length` below 1.
    """

    family = "llada2"

    def __init__(
        self,
        network: MoeNetwork,
        *,
        choice: RouterConfig,
        mask_token_id: int,
        block_length: int = BLOCK_LENGTH,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the network; see the class."""
        super().__init__(network, mask_token_id=mask_token_id, **text)
        self.choice = choice
        self.block_length = check_block_length(block_length)

    def attention_bias(self, asked: Queried) -> Tensor:
        """Return the block-causal bias."""
        assert self.block_length is not None
        return block_causal_bias(asked, self.block_length, self.network.lm_head.weight.dtype)

    def authors_config(self) -> dict[str, Any]:
        """Write the config under the authors' keys."""
        sizes = self.network.config
        return {
            **FIXED,
            **asdict(self.choice),
            **self.shared_config(),
            "architectures": ["LLaDA2MoeModelLM"],
            "model_type": "llada2_moe",
            "head_dim": sizes.head_dim,
            "first_k_dense_replace": sum(sizes.dense_layers),
            "intermediate_size": sizes.dense_width,
            "moe_intermediate_size": sizes.expert_width,
            "num_shared_experts": sizes.shared_width // sizes.expert_width,
            "use_qk_norm": sizes.qk_norm,
            "block_length": self.block_length,
        }

    @staticmethod
    def authors_name(key: str) -> str:
        """Translate a tensor's name in the module to that in the authors' files."""
        for own, theirs in NAMES.items():
            key = key.replace(own, theirs)
        return key


def read_sizes(checkpoint: Checkpoint) -> MoeConfig:
    """Read the sizes of the network.

    Raises:
        CheckpointError: one is missing, or does not fit the others.
    """
    given = checkpoint.config
    with reading_config(checkpoint):
        layers, heads = given["num_hidden_layers"], given["num_attention_heads"]
        width = given.get("head_dim") or given["hidden_size"] // heads
        dense = given.get("first_k_dense_replace", 0)
        rotary_width = int(width * given.get("partial_rotary_factor", 1.0))
        if given.get("rotary_dim") not in (None, rotary_width):
            raise ValueError(f"rotary_dim={given['rotary_dim']} beside a width of {rotary_width}")
        return MoeConfig(
            vocab_size=int(given["vocab_size"]),
            hidden_size=int(given["hidden_size"]),
            n_heads=heads,
            n_kv_heads=given.get("num_key_value_heads") or heads,
            head_dim=width,
            dense_layers=tuple(index < dense for index in range(layers)),
            dense_width=int(given["intermediate_size"]),
            expert_width=int(given["moe_intermediate_size"]),
            n_experts=int(given["num_experts"]),
            shared_width=(given.get("num_shared_experts") or 0) * given["moe_intermediate_size"],
            rotary_width=rotary_width,
            rope_theta=float(given["rope_theta"]),
            eps=given.get("rms_norm_eps", 1e-6),
            qk_norm=bool(given.get("use_qk_norm", True)),
            fused_qkv=True,
            max_length=given.get("max_position_embeddings"),
        )


def load(checkpoint: Checkpoint, options: LoadOptions) -> LLaDA2Denoiser:
    """Build the denoiser of a LLaDA2 checkpoint."""
    given, sizes = checkpoint.config, read_sizes(checkpoint)
    fields = RouterConfig.__dataclass_fields__
    choice = RouterConfig(
        **{"num_experts_per_tok": 8, **{k: given[k] for k in fields if k in given}}
    )
    with reading_config(checkpoint):
        choice.check(sizes.n_experts)
    mask_token_id = options.mask_id(checkpoint, MASK_TOKEN_ID, sizes.vocab_size)

    def router(config: MoeConfig) -> nn.Module:
        return GroupedRouter(config, choice)

    return LLaDA2Denoiser(
        load_moe(sizes, router, checkpoint, options, LLaDA2Denoiser.authors_name),
        choice=choice,
        mask_token_id=mask_token_id,
        block_length=options.extra.get("block_length", given.get("block_length", BLOCK_LENGTH)),
        **options.text(checkpoint),
    )


def matches(config: Mapping[str, Any]) -> bool:
    """Match the authors' model type."""
    return config.get("model_type") == "llada2_moe"


KEYS = ConfigKeys(
    read={
        **SIZE_KEYS,
        "block_length": SIZE,
        "first_k_dense_replace": COUNT,
        "head_dim": SIZE,
        "intermediate_size": SIZE,
        "moe_intermediate_size": SIZE,
        "n_group": SIZE,
        "num_shared_experts": COUNT,
        "rotary_dim": SIZE,
        "routed_scaling_factor": POSITIVE,
        "topk_group": SIZE,
        "use_qk_norm": FLAG,
    },
    required=(*REQUIRED, "intermediate_size", "moe_intermediate_size"),
    fixed=FIXED
    | {
        "moe_router_enable_expert_bias": True,
        "norm_topk_prob": True,
        "num_nextn_predict_layers": 0,
        "score_function": "sigmoid",
        "use_rmsnorm": True,
    },
    harmless={
        *("max_window_layers", "moe_shared_expert_intermediate_size", "router_dtype"),
        "sliding_window",
    },
)

register(Family("llada2", matches, load, frozenset({"block_length"}), keys=KEYS))
