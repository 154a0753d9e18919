"""Compute rotary position embeddings for the library's own networks.

Su et al. 2021, RoFormer, arXiv:2104.09864 (rotary positions, here with the halves of a head as the
two components of each pair).
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(
    position_ids: Tensor, width: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines of position / theta^(2i / width), each [B, 1, L, width].

    The second half of the channels repeats the first.
    """
    pairs = torch.arange(0, width, 2, device=position_ids.device, dtype=torch.float32)
    angles = position_ids[..., None].float() * theta ** (-pairs / width)
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate queries or keys [B, heads, L, channels]; pair i is (x[i], x[i + width / 2]).

    Channels beyond the width of the table stay as they are.
    """
    cos, sin = rotary
    width = cos.shape[-1]
    turned = x[..., :width]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), dim=-1)
