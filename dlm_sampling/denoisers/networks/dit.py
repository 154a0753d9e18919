"""Implement the diffusion transformer of the SEDD, MDLM, Duo and BD3-LM releases, in plain torch.

Peebles & Xie 2023, arXiv:2212.09748 (adaLN-zero blocks); Lou et al. 2024, arXiv:2310.16834, and
Sahoo et al. 2024, arXiv:2406.07524, released code.  Parameter names are those of the released
checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlm_sampling.denoisers.modes import CheckpointedLayer, CheckpointedNetwork
from dlm_sampling.denoisers.networks.rotary import rotary_table, rotate
from dlm_sampling.types import ColumnCache

FREQUENCIES = 256
MAX_PERIOD = 10000.0


@dataclass(frozen=True)
class DitConfig:
    """Hold the sizes of the network.

    Args:
        vocab_size: embedding rows.
        hidden_size: width d.
        n_blocks: number of blocks.
        n_heads: attention heads.
        cond_dim: width of the noise-level embedding.
        mlp_ratio: width of the MLP over d.
        adaln: whether the noise level modulates the blocks; without, it has no weights at all.
        columns: output columns; None means `vocab_size`.
    """

    vocab_size: int
    hidden_size: int
    n_blocks: int
    n_heads: int
    cond_dim: int
    mlp_ratio: int = 4
    adaln: bool = True
    columns: int | None = None

    def __post_init__(self) -> None:
        """Refuse heads that cannot be rotated."""
        if self.hidden_size % (2 * self.n_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size}: must be a multiple of 2 * n_heads = "
                f"{2 * self.n_heads}."
            )


class ScaleNorm(nn.Module):
    """Normalise the last axis in float32 (layer norm, eps 1e-5), with a scale and no shift."""

    def __init__(self, width: int) -> None:
        """Scale of `width` ones."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, in the type of x."""
        return (F.layer_norm(x.float(), x.shape[-1:]) * self.weight.float()).to(x.dtype)


class TokenEmbedding(nn.Module):
    """Look up rows of an embedding matrix."""

    def __init__(self, rows: int, width: int) -> None:
        """Make an uninitialised [rows, width] table."""
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of `ids`, [..., width]."""
        return F.embedding(ids, self.embedding)


class TimestepEmbedder(nn.Module):
    """Embed a noise level, [B] -> [B, cond_dim]: 256 sines and cosines, Linear, SiLU, Linear."""

    def __init__(self, width: int) -> None:
        """Two layers of `width` units."""
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: Tensor) -> Tensor:
        """Embed each noise level, in the type of the weights."""
        half = FREQUENCIES // 2
        rates = torch.exp(
            -math.log(MAX_PERIOD)
            * torch.arange(half, device=sigma.device, dtype=torch.float32)
            / half
        )
        angles = sigma.float()[:, None] * rates
        features = torch.cat((angles.cos(), angles.sin()), dim=-1)
        kind = self.mlp.get_parameter("0.bias").dtype  # a quantised weight has another type
        return self.mlp(features.to(kind))


class DitBlock(CheckpointedLayer):
    """Apply attention and MLP, each shifted, scaled and gated by the noise-level embedding."""

    def __init__(self, config: DitConfig) -> None:
        """Make a block with the sizes of `config`."""
        super().__init__()
        d, wide = config.hidden_size, config.mlp_ratio * config.hidden_size
        self.n_heads = config.n_heads
        self.norm1 = ScaleNorm(d)
        self.attn_qkv = nn.Linear(d, 3 * d, bias=False)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.norm2 = ScaleNorm(d)
        self.mlp = nn.Sequential(
            nn.Linear(d, wide), nn.GELU(approximate="tanh"), nn.Linear(wide, d)
        )
        self.adaLN_modulation = nn.Linear(config.cond_dim, 6 * d) if config.adaln else None

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        condition: Tensor | None,
        bias: Tensor | None,
        layer: int,
        columns: ColumnCache | None,
    ) -> Tensor:
        """Return the output [B, q, d] of block number `layer`.

        `condition` is [B, cond_dim], None without adaLN.
        """
        if self.adaLN_modulation is None:
            x = x + self.attend(self.norm1(x), rotary, bias, layer, columns)
            return x + self.mlp(self.norm2(x))
        parts = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        shifted = modulate(self.norm1(x), shift1, scale1)
        x = x + gate1 * self.attend(shifted, rotary, bias, layer, columns)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))

    def attend(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        bias: Tensor | None,
        layer: int,
        columns: ColumnCache | None,
    ) -> Tensor:
        """Attend from [B, q, d] to all columns that the additive bias shows."""
        qkv = self.attn_qkv(x).unflatten(-1, (3, self.n_heads, -1))
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(dim=2))
        query, key = rotate(query, rotary), rotate(key, rotary)
        if columns is not None:
            key, value = columns.update(key, value, layer)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.attn_out(mixed.transpose(1, 2).flatten(-2))


class DitOutput(nn.Module):
    """Apply the final modulated norm, and hold the linear output head."""

    def __init__(self, config: DitConfig) -> None:
        """Make the last layers with the sizes of `config`."""
        super().__init__()
        self.norm_final = ScaleNorm(config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, config.columns or config.vocab_size)
        self.adaLN_modulation = (
            nn.Linear(config.cond_dim, 2 * config.hidden_size) if config.adaln else None
        )

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Return the input of the head, [B, L, d]."""
        if self.adaLN_modulation is None:
            return self.norm_final(x)
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        return modulate(self.norm_final(x), shift, scale)


class Dit(CheckpointedNetwork):
    """Run the network; `forward` stops before the output head `output_layer.linear`."""

    def __init__(self, config: DitConfig) -> None:
        """Make a network with the sizes of `config`."""
        super().__init__()
        self.config = config
        self.vocab_embed = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.sigma_map = TimestepEmbedder(config.cond_dim) if config.adaln else None
        self.blocks = nn.ModuleList(DitBlock(config) for _ in range(config.n_blocks))
        self.output_layer = DitOutput(config)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        position_ids: Tensor,
        bias: Tensor | None = None,
        finish: Callable[[Tensor], Tensor] | None = None,
        columns: ColumnCache | None = None,
    ) -> Tensor:
        """Return the hidden states before the head, or `finish` of them.

        Args:
            x: token ids, int64 [B, L], or embeddings [B, L, d], such as mixtures of the table's
                rows.
            sigma: total noise of each row, [B]; not read without adaLN.
            position_ids: int64 [B, L] or [1, L].
            bias: additive attention bias, broadcastable to [B, heads, L, keys], or None.
            finish: applied to the hidden states [B, L, d] inside the call.
            columns: keys and values of other columns, or None; x is then that of their query.

        Returns:
            [B, L, d], or what `finish` makes of it.
        """
        if not x.is_floating_point():
            x = self.vocab_embed(x)
        condition = None if self.sigma_map is None else F.silu(self.sigma_map(sigma))
        width = self.config.hidden_size // self.config.n_heads
        rotary = rotary_table(position_ids, width, MAX_PERIOD, x.dtype)
        for number, block in enumerate(self.blocks):
            x = block(x, rotary, condition, bias, number, columns)
        hidden = self.output_layer(x, condition)
        return hidden if finish is None else finish(hidden)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift x: x (1 + scale) + shift."""
    return x * (1 + scale) + shift
