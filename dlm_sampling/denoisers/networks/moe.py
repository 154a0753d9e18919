"""Implement the bidirectional mixture-of-experts decoder of the LLaDA-MoE and LLaDA2 releases.

Fedus et al. 2022, arXiv:2101.03961 (routed experts); Dai et al. 2024, arXiv:2401.06066 (shared and
fine-grained experts).  Plain torch, so that one code runs with every transformers version; the
parameter names are those of the checkpoints, one tensor set per expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlm_sampling.denoisers.modes import CheckpointedLayer, CheckpointedNetwork
from dlm_sampling.denoisers.networks.rotary import rotary_table, rotate
from dlm_sampling.types import ColumnCache
from dlm_sampling.types.values import ints


@dataclass(frozen=True)
class MoeConfig:
    """Hold the sizes of the network.

    Args:
        vocab_size: embedding rows and output columns.
        hidden_size: width d.
        n_heads: query heads.
        n_kv_heads: key and value heads.
        head_dim: width of a head.
        dense_layers: per layer, whether its MLP is dense.
        dense_width: width of a dense MLP.
        expert_width: width of one expert.
        n_experts: routed experts.
        shared_width: width of the always-on expert; 0 for none.
        rotary_width: leading channels of a head that are rotated.
        rope_theta: base of the rotary frequencies.
        eps: of the norms.
        qk_norm: whether queries and keys are normalised per head.
        fused_qkv: whether one matrix makes queries, keys and values.
        clip_qkv: largest magnitude of queries, keys and values, or None.
        max_length: length it was trained at.
    """

    vocab_size: int
    hidden_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    dense_layers: tuple[bool, ...]
    dense_width: int
    expert_width: int
    n_experts: int
    shared_width: int
    rotary_width: int
    rope_theta: float
    eps: float
    qk_norm: bool = True
    fused_qkv: bool = False
    clip_qkv: float | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Refuse heads that cannot be grouped or rotated."""
        if self.n_heads % self.n_kv_heads or self.rotary_width % 2:
            raise ValueError(
                f"n_heads={self.n_heads}, n_kv_heads={self.n_kv_heads}, "
                f"rotary_width={self.rotary_width}: heads must be a multiple of the key heads, and "
                "the rotated width even."
            )


TIED = {"lm_head.weight": "model.embed_tokens.weight"}
"""The output head's weight and the embedding's, where they are one."""

Router = Callable[[MoeConfig], nn.Module]
"""Makes a module that maps states [N, d] to weights [N, k] and expert indices [N, k]."""


class RmsNorm(nn.Module):
    """Compute x / sqrt(mean x^2 + eps) times a weight, in float32."""

    def __init__(self, width: int, eps: float) -> None:
        """Weight of `width` ones."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, in the type of x."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


class GatedMlp(nn.Module):
    """Compute down(SiLU(gate(x)) * up(x))."""

    def __init__(self, width: int, inner: int) -> None:
        """Three matrices without biases."""
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP, [..., d] -> [..., d]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class ExpertMlp(nn.Module):
    """Add up the experts that the router chose for each token, weighted, and the shared expert."""

    def __init__(self, config: MoeConfig, router: Router) -> None:
        """Make experts with the sizes of `config`."""
        super().__init__()
        d = config.hidden_size
        self.gate = router(config)
        self.experts = nn.ModuleList(
            GatedMlp(d, config.expert_width) for _ in range(config.n_experts)
        )
        self.shared_experts = GatedMlp(d, config.shared_width) if config.shared_width else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the experts, [B, L, d] -> [B, L, d]; one pass per expert that some token chose."""
        flat = x.flatten(0, -2)
        weights, chosen = self.gate(flat)
        out = torch.zeros_like(flat)
        order = chosen.flatten().argsort(stable=True)
        token = order // chosen.shape[1]
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts))
        sizes = ints(counts)
        for expert, rows, mine in zip(
            self.experts, token.split(sizes), order.split(sizes), strict=True
        ):
            if len(rows):
                share = weights.flatten()[mine].to(flat.dtype)
                out = out.index_add(0, rows, expert(flat[rows]) * share[:, None])
        if self.shared_experts is not None:
            out = out + self.shared_experts(flat)
        return out.view_as(x)


class MoeAttention(nn.Module):
    """Apply grouped-query attention with normalised, rotated queries and keys."""

    def __init__(self, config: MoeConfig) -> None:
        """Make projections with the sizes of `config`."""
        super().__init__()
        self.config = config
        d, width = config.hidden_size, config.head_dim
        query, key = config.n_heads * width, config.n_kv_heads * width
        if config.fused_qkv:
            self.qkv_proj = nn.Linear(d, query + 2 * key, bias=False)
        else:
            self.q_proj = nn.Linear(d, query, bias=False)
            self.k_proj = nn.Linear(d, key, bias=False)
            self.v_proj = nn.Linear(d, key, bias=False)
        self.o_proj = nn.Linear(query, d, bias=False)
        self.q_norm = RmsNorm(width, config.eps) if config.qk_norm else nn.Identity()
        self.k_norm = RmsNorm(width, config.eps) if config.qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        bias: Tensor | None,
        layer: int,
        columns: ColumnCache | None,
    ) -> Tensor:
        """Attend from the columns of x [B, q, d] to all keys, giving [B, q, d]."""
        query, key, value = self.project(x)
        query, key = rotate(self.q_norm(query), rotary), rotate(self.k_norm(key), rotary)
        if columns is not None:
            key, value = columns.update(key, value, layer)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(-2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project to queries, keys and values, [B, heads, L, head_dim]."""
        sizes = self.config
        if sizes.fused_qkv:
            joint = self.qkv_proj(x)
        else:
            joint = torch.cat((self.q_proj(x), self.k_proj(x), self.v_proj(x)), dim=-1)
        if sizes.clip_qkv is not None:
            joint = joint.clamp(-sizes.clip_qkv, sizes.clip_qkv)
        heads = joint.reshape(*x.shape[:2], -1, sizes.head_dim).transpose(1, 2)
        first = sizes.n_heads
        second = first + sizes.n_kv_heads
        return heads[:, :first], heads[:, first:second], heads[:, second:]


class MoeLayer(CheckpointedLayer):
    """Apply attention and MLP, each after a norm and added to its input."""

    def __init__(self, config: MoeConfig, router: Router, dense: bool) -> None:
        """Make a layer with the sizes of `config`."""
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.eps)
        self.self_attn = MoeAttention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.eps)
        self.mlp = (
            GatedMlp(config.hidden_size, config.dense_width) if dense else ExpertMlp(config, router)
        )

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        bias: Tensor | None,
        layer: int,
        columns: ColumnCache | None,
    ) -> Tensor:
        """Apply layer number `layer`, [B, q, d] -> [B, q, d]."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, bias, layer, columns)
        return x + self.mlp(self.post_attention_layernorm(x))


class MoeStack(nn.Module):
    """Run embedding, layers and the final norm."""

    def __init__(self, config: MoeConfig, router: Router) -> None:
        """Make a stack with the sizes of `config`."""
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            MoeLayer(config, router, dense) for dense in config.dense_layers
        )
        self.norm = RmsNorm(config.hidden_size, config.eps)

    def forward(
        self,
        ids: Tensor,
        position_ids: Tensor,
        bias: Tensor | None = None,
        columns: ColumnCache | None = None,
    ) -> Tensor:
        """Return the hidden states [B, q, d] before the head.

        Args:
            ids: int64 [B, q], all columns, or those of the query of `columns`.
            position_ids: int64 [B, q] or [1, q].
            bias: additive attention bias, broadcastable to [B, heads, q, keys], or None for full
                attention.
            columns: keys and values of other columns, or None.
        """
        x = self.embed_tokens(ids)
        rotary = rotary_table(
            position_ids, self.config.rotary_width, self.config.rope_theta, x.dtype
        )
        for number, layer in enumerate(self.layers):
            x = layer(x, rotary, bias, number, columns)
        return self.norm(x)


class MoeNetwork(CheckpointedNetwork):
    """Run the stack `model`; the caller applies the output head `lm_head`."""

    def __init__(self, config: MoeConfig, router: Router) -> None:
        """Make a network with the sizes of `config`."""
        super().__init__()
        self.config = config
        self.model = MoeStack(config, router)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        ids: Tensor,
        position_ids: Tensor,
        bias: Tensor | None = None,
        finish: Callable[[Tensor], Tensor] | None = None,
        columns: ColumnCache | None = None,
    ) -> Tensor:
        """Return the hidden states [B, L, d] before the head, or `finish` of them.

        The other arguments are those of `MoeStack.forward`.
        """
        hidden = self.model(ids, position_ids, bias, columns)
        return hidden if finish is None else finish(hidden)
