"""Build the attention masks of block diffusion: full inside a block and to all earlier blocks.

Arriola et al. 2025, Block Diffusion, arXiv:2503.09573, section 3 and appendix B.6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.denoisers.columns import Queried


def block_causal_bias(asked: Queried, block_length: int, dtype: torch.dtype) -> Tensor:
    """Make the additive bias [B or 1, 1, q, K]: query i sees real token j iff block(i) >= block(j).

    block = position // block_length, positions counted from the row's first real token, so that a
    padded row equals the row alone.

    Args:
        asked: positions of the queries and of the keys, and the keys that may be seen.
        block_length: columns per block.
        dtype: type of the bias.
    """
    of_queries, of_keys = asked.positions // block_length, asked.key_positions // block_length
    seen = of_queries[:, :, None] >= of_keys[:, None, :]
    if asked.keys is not None:
        seen = seen & asked.keys[:, None, :]
    return as_bias(seen, dtype)


def noised_clean_bias(length: int, block_length: int, like: Tensor) -> Tensor:
    """Make the additive bias [1, 1, 2 L, 2 L] for the canvas [x_t | x_0] of training.

    A noised query sees its own noised block and the earlier clean blocks; a clean query sees the
    clean blocks up to its own.

    Args:
        length: L.
        block_length: columns per block.
        like: a tensor with the type and device of the bias.
    """
    columns = torch.arange(2 * length, device=like.device)
    clean, block = columns >= length, columns % length // block_length
    q_clean, k_clean, q, k = clean[:, None], clean[None], block[:, None], block[None]
    seen = torch.where(k_clean, torch.where(q_clean, q >= k, q > k), ~q_clean & (q == k))
    return as_bias(seen[None], like.dtype)


def as_bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn bool [B, Q, K] into a bias [B, 1, Q, K]: 0 where True, else the lowest of `dtype`.

    The lowest finite number, not -inf, so that a row of padding alone gives no NaN.
    """
    bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return bias.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def check_block_length(block_length: int) -> int:
    """Check that a block length is at least 1, and return it.

    Raises:
        ValueError: it is not.
    """
    if block_length < 1:
        raise ValueError(
            f"block_length={block_length}: must be at least 1; released models use 4 to 64."
        )
    return block_length
