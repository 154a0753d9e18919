"""Load and run the planner of DDPD, which tells how likely each token of a canvas is noise.

Liu et al. 2024, Think while You Generate: Discrete Diffusion with Planned Denoising,
arXiv:2410.06264, released code github.com/liusulin/DDPD.  Its denoiser is a SEDD network, which
`AutoDenoiser` loads as such.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlm_sampling.denoisers.base import check_shapes, device_of
from dlm_sampling.denoisers.checkpoints.authors_format import save_published
from dlm_sampling.denoisers.checkpoints.checkpoint import CheckpointError, open_checkpoint
from dlm_sampling.denoisers.checkpoints.config_keys import check_keys
from dlm_sampling.denoisers.checkpoints.dit_checkpoint import (
    HEAD,
    load_dit,
    read_sizes,
    rows_of,
    training_config,
)
from dlm_sampling.denoisers.checkpoints.hub import Savable
from dlm_sampling.denoisers.checkpoints.placement import DeviceMap
from dlm_sampling.denoisers.columns import positions_of
from dlm_sampling.denoisers.families.sedd import KEYS
from dlm_sampling.denoisers.networks.dit import Dit
from dlm_sampling.denoisers.networks.transformers_blocks import key_bias
from dlm_sampling.denoisers.registry import LoadOptions

EMBEDDING = "vocab_embed.embedding"


class DDPDPlanner(Savable):
    """Run a planner network: `planner(input_ids)` gives the logit that each token is noise.

    Args:
        network: the diffusion transformer with one output column.
        max_length: length it was trained at.

    Raises:
        ValueError: the network has more than one output column.
    """

    family = "ddpd"

    def __init__(self, network: Dit, *, max_length: int | None = None) -> None:
        """Wrap the network; see the class."""
        columns: int = network.output_layer.linear.out_features
        if columns != 1:
            raise ValueError(f"network has {columns} output columns: a planner has 1.")
        self.network = network.eval()
        self.vocab_size = network.config.vocab_size
        self.max_length = max_length

    @property
    def module(self) -> nn.Module:
        """Return the network."""
        return self.network

    @property
    def device(self) -> torch.device:
        """Return the device of the network."""
        return device_of(self.network)

    def __call__(
        self, input_ids: Tensor, t: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the logit of each token's probability of being noise, [B, L] (NFE 1).

        Args:
            input_ids: int64 [B, L].
            t: not read: the released planner is given zero noise at all times.
            attention_mask: [B, L], 1 or True at real tokens; None means no padding.

        Raises:
            ValueError: shapes do not fit.
        """
        check_shapes(input_ids, attention_mask)
        ids = input_ids.to(self.device)
        seen = None if attention_mask is None else attention_mask.to(self.device, torch.bool)
        return self.at_noise(ids, torch.zeros(len(ids), device=self.device), seen)

    def at_noise(
        self, input_ids: Tensor, sigma: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the same at total noise sigma [B], for planners that were trained to see it."""
        bias = key_bias(attention_mask, self.network.vocab_embed.embedding.dtype)
        positions = positions_of(attention_mask, input_ids)
        hidden = self.network(input_ids, sigma, positions, bias)
        return self.network.output_layer.linear(hidden).squeeze(-1)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        dtype: torch.dtype | str | None = "auto",
        device_map: DeviceMap = None,
        **options: Any,
    ) -> DDPDPlanner:
        """Load a planner: config.json (the training config) and safetensors.

        Args:
            name_or_path: folder or hub name.
            dtype: type of the weights, as in `AutoDenoiser.from_pretrained`.
            device_map: device of the network, as there.
            options: `revision`, `cache_dir`, `local_files_only`.

        Raises:
            CheckpointError: the checkpoint is missing, damaged, or no planner.
        """
        checkpoint = open_checkpoint(name_or_path, **options)
        if (columns := rows_of(checkpoint, HEAD)) != 1:
            raise CheckpointError(
                f"{checkpoint.name!r} is no planner: its head has {columns} columns, not 1. "
                "Denoisers are loaded with AutoDenoiser.from_pretrained."
            )
        check_keys(checkpoint, "ddpd", KEYS)
        sizes, length = read_sizes(checkpoint, rows_of(checkpoint, EMBEDDING), columns=1)
        network = load_dit(sizes, checkpoint, LoadOptions(dtype, device_map))
        return cls(network, max_length=length)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        max_shard_size: int | str = "5GB",
    ) -> None:
        """Write config.json (the training config) and safetensors as the authors name them.

        Args:
            folder: created if needed.
            dtype: type of the written weights, such as "bfloat16"; default: as they are.
            max_shard_size: size of a file in bytes, or such as "2GB"; larger models are split.
        """
        authors = {
            "graph": {"type": "uniform"},
            "model": {**training_config(self.network, self.max_length), "scale_by_sigma": False},
            "noise": {"type": "loglinear"},
            "tokens": self.vocab_size,
        }
        save_published(self.network, folder, authors, dtype=dtype, max_shard_size=max_shard_size)
