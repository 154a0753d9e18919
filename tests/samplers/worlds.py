"""Exact worlds and a network of noise, for the tests of learned solvers and of learning them."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.denoisers import wrap
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.testing import EnumerableDenoiser

LENGTH, SYMBOLS = 3, 3


def world(seed: int = 1, scale: float = 1.5) -> EnumerableDenoiser:
    weights = torch.randn([SYMBOLS] * LENGTH, generator=torch.Generator().manual_seed(seed))
    return EnumerableDenoiser((scale * weights.double()).flatten().softmax(0).view_as(weights))


def noisy(size: int = 5) -> Denoiser:
    """A network of uniform noise: logits that depend on every token."""
    generator = torch.Generator().manual_seed(3)
    e, p = torch.randn(size, size, generator=generator), torch.randn(64, size, generator=generator)

    def logits(input_ids: Tensor) -> Tensor:
        seen = e[input_ids]
        return p[: input_ids.shape[1]] + seen.mean(1, keepdim=True) + seen

    return wrap(logits, vocab_size=size, mask_token_id=None)
