"""Diffusion transformers with random weights, for tests of denoisers."""

from __future__ import annotations

from typing import Any

import torch

from dlm_sampling.denoisers.networks.dit import Dit, DitConfig


@torch.no_grad()
def random_dit(std: float = 0.2, **sizes: Any) -> Dit:
    """Normal weights, the same in every call; scales of norms lie around 1."""
    network, generator = Dit(DitConfig(**sizes)), torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        parameter.normal_(0.0, std, generator=generator)
        if name.endswith(("norm1.weight", "norm2.weight", "norm_final.weight")):
            parameter.add_(1.0)
    return network
