"""The layers of a stock decoder with full attention, called outside of a model."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from dlm_sampling.denoisers.networks.transformers_blocks import FullAttention


class Decoder(NamedTuple):
    model: Any


def run_layers(
    stack: Any, embeds: Tensor, position_ids: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Hidden states [B, L, d] after the final norm of a transformers decoder, from `embeds`
    [B, L, d] and an additive attention bias that broadcasts to [B, heads, L, keys]."""
    return FullAttention.forward(Decoder(stack), embeds, bias, position_ids, full_attention=True)
