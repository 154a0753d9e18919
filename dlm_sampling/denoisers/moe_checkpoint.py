"""Mixture-of-experts checkpoints as denoisers: the call, loading and saving."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser, positions_of
from dlm_sampling.denoisers.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.families import LoadOptions
from dlm_sampling.denoisers.moe import MoeConfig, MoeNetwork, Router
from dlm_sampling.denoisers.placement import parse_dtype, plan_placement
from dlm_sampling.denoisers.stock import is_rotary, key_bias
from dlm_sampling.denoisers.text import save_tokenizer
from dlm_sampling.denoisers.weights import NameOf, load_weights, save_weights, write_json
from dlm_sampling.types import DenoiserOutput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class MoeDenoiser(Denoiser):
    """Base of the mixture-of-experts denoisers: no time input, logits in place."""

    capturable = False

    def __init__(self, network: MoeNetwork, **facts: Any) -> None:
        """Wrap the network; `facts` are those of `Denoiser`."""
        sizes = network.config
        super().__init__(
            vocab_size=sizes.vocab_size,
            max_length=sizes.max_length,
            module=network.eval(),
            **facts,
        )
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None, t: Tensor | None, carry: Any
    ) -> DenoiserOutput:
        """Hidden states and the output head."""
        bias = self.attention_bias(input_ids, attention_mask)
        hidden = self.network.model(input_ids, positions_of(attention_mask, input_ids), bias)
        return DenoiserOutput(hidden, self.network.lm_head)

    def attention_bias(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        """Additive bias [B or 1, 1, L, L], or None; here what hides padded keys."""
        return key_bias(attention_mask, self.network.lm_head.weight.dtype)


def load_moe(
    sizes: MoeConfig, router: Router, checkpoint: Checkpoint, options: LoadOptions, name_of: NameOf
) -> MoeNetwork:
    """A network with a checkpoint's weights, built without initialising any."""
    with torch.device("meta"):
        network = MoeNetwork(sizes, router)
    dtype = options.dtype_for(checkpoint)
    place, finish = plan_placement(network, options.device_map, dtype, ("MoeLayer",))
    load_weights(network, checkpoint, name_of, dtype=dtype, place=place, ignored=is_rotary)
    finish()
    return network


def save_moe(
    network: MoeNetwork,
    folder: str | Path,
    config: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None,
    name_of: NameOf,
    dtype: torch.dtype | str | None,
) -> None:
    """Write config.json, safetensors and tokenizer; makes the folder."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    save_weights(network, target, name_of, dtype=parse_dtype(dtype))
    write_json(target / "config.json", config)
    save_tokenizer(tokenizer, target)


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
