"""Loads mixture-of-experts checkpoints: weights, and checks of the authors' configs."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.checkpoints.placement import plan_placement
from dlm_sampling.denoisers.checkpoints.weights import NameOf, load_weights
from dlm_sampling.denoisers.networks.moe import MoeConfig, MoeNetwork, Router
from dlm_sampling.denoisers.networks.transformers_blocks import is_rotary
from dlm_sampling.denoisers.registry import LoadOptions


def load_moe(
    sizes: MoeConfig, router: Router, checkpoint: Checkpoint, options: LoadOptions, name_of: NameOf
) -> MoeNetwork:
    """Build a network with a checkpoint's weights, without initialising any."""
    with torch.device("meta"):
        network = MoeNetwork(sizes, router)
    dtype = options.dtype_for(checkpoint)
    place, finish = plan_placement(network, options.device_map, dtype, ("MoeLayer",))
    load_weights(network, checkpoint, name_of, dtype=dtype, place=place, ignored=is_rotary)
    finish()
    return network


@contextmanager
def reading_sizes(checkpoint: Checkpoint) -> Generator[None]:
    """Report a size of the network that is missing or does not fit as an error of the checkpoint.

    Raises:
        CheckpointError: the block within raised KeyError, TypeError or ValueError.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.name!r}: config.json lacks a size of the network, or it does not fit "
            f"({error})."
        ) from error


def check_fixed(checkpoint: Checkpoint, fixed: Mapping[str, Any]) -> None:
    """Refuse a config whose architecture switches have values that no release uses.

    Raises:
        CheckpointError: the first such switch.
    """
    for key, value in fixed.items():
        given = checkpoint.config.get(key, value)
        if given != value:
            raise CheckpointError(
                f"{checkpoint.name!r}: config.json has {key}={given!r}; known checkpoints have "
                f"{value!r}."
            )
