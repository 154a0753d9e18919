"""Mixture-of-experts checkpoints as denoisers: the call, and what loading and saving share."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Unpack

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import at_columns, positions_of, refuse_cache
from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.checkpoints.placement import plan_placement
from dlm_sampling.denoisers.checkpoints.published import PublishedDenoiser
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts, with_special_ids
from dlm_sampling.denoisers.checkpoints.weights import NameOf, load_weights
from dlm_sampling.denoisers.networks.moe import MoeConfig, MoeNetwork, Router
from dlm_sampling.denoisers.networks.transformers_blocks import is_rotary, key_bias
from dlm_sampling.denoisers.registry import LoadOptions
from dlm_sampling.types import DenoiserOutput, Pass


class MoeDenoiser(PublishedDenoiser):
    """Base of the mixture-of-experts denoisers: no time input, logits in place.

    Args:
        network: the decoder.
        mask_token_id: the mask id.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.
    """

    capturable = False

    def __init__(
        self,
        network: MoeNetwork,
        *,
        mask_token_id: int,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the network; see the class."""
        sizes = network.config
        super().__init__(
            vocab_size=sizes.vocab_size,
            mask_token_id=mask_token_id,
            max_length=sizes.max_length,
            module=network.eval(),
            **with_special_ids(text),
        )
        self.network = network

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return hidden states of the columns asked for, and the output head."""
        refuse_cache(inputs)
        places = positions_of(inputs.attention, inputs.tokens)
        hidden = self.network.model(inputs.tokens, places, self.attention_bias(inputs))
        values = at_columns(hidden, inputs.columns)
        return DenoiserOutput(values, self.network.lm_head, columns=inputs.columns)

    def attention_bias(self, inputs: Pass) -> Tensor | None:
        """Return the additive bias [B or 1, 1, L, L], or None; here it hides padded keys."""
        return key_bias(inputs.attention, self.network.lm_head.weight.dtype)

    def shared_config(self) -> dict[str, Any]:
        """The keys that mean the same in the authors' configs of all these families."""
        sizes = self.network.config
        return {
            "vocab_size": sizes.vocab_size,
            "hidden_size": sizes.hidden_size,
            "num_hidden_layers": len(sizes.dense_layers),
            "num_attention_heads": sizes.n_heads,
            "num_key_value_heads": sizes.n_kv_heads,
            "num_experts": sizes.n_experts,
            "partial_rotary_factor": sizes.rotary_width / sizes.head_dim,
            "rope_theta": sizes.rope_theta,
            "rms_norm_eps": sizes.eps,
            "max_position_embeddings": sizes.max_length,
            "mask_token_id": self.mask_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }


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
