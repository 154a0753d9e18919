"""Load and run BD3-LM: the diffusion transformer with block-causal attention and masks.

Arriola et al. 2025, Block Diffusion: Interpolating Between Autoregressive and Diffusion Language
Models, arXiv:2503.09573, released code github.com/kuleshov-group/bd3lms.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.dit_checkpoint import (
    GPT2_SIZE,
    PREFIX,
    dit_keys,
    gpt2_tokenizer,
    hub_config,
    load_dit,
    prefix_of,
    read_sizes,
)
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts
from dlm_sampling.denoisers.checkpoints.value_kinds import FLAG, SIZE
from dlm_sampling.denoisers.columns import Queried, positions_of
from dlm_sampling.denoisers.networks.block_causal import (
    block_causal_bias,
    check_block_length,
    noised_clean_bias,
)
from dlm_sampling.denoisers.networks.dit import Dit
from dlm_sampling.denoisers.networks.dit_denoiser import DitDenoiser
from dlm_sampling.denoisers.networks.total_noise import clipped_noise
from dlm_sampling.denoisers.networks.transformers_blocks import is_rotary
from dlm_sampling.denoisers.registry import Family, LoadOptions, register
from dlm_sampling.types import Pass

SCHEDULE_BUFFERS = ("sampling_eps_min", "sampling_eps_max")
"""Tensors that hold the bounds of the clipped training schedule; sampling does not read them."""


class BD3LMDenoiser(DitDenoiser):
    """Run a BD3-LM network: logits in place, each block sees itself and all earlier blocks.

    Args:
        network: the diffusion transformer, with or without adaLN.
        block_length: columns per block; blocks count from a row's first real token.
        mask_token_id: the mask id, by default the last column.
        max_length: length it was trained at.
        time_conditioned: whether the network sees the noise level; otherwise it always sees 0.
        text: tokenizer, eos_token_id, pad_token_id; see `DitDenoiser`.

    Raises:
        ValueError: `block_length` below 1.
    """

    family = "bd3lm"

    def __init__(
        self,
        network: Dit,
        *,
        block_length: int,
        mask_token_id: int | None = None,
        max_length: int | None = None,
        time_conditioned: bool = False,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the network; see the class."""
        last = network.config.vocab_size - 1
        super().__init__(
            network,
            mask_token_id=last if mask_token_id is None else mask_token_id,
            max_length=max_length,
            time_conditioned=time_conditioned,
            schedule=None,
            noise=clipped_noise,
            **text,
        )
        self.block_length = check_block_length(block_length)

    def attention_bias(self, asked: Queried) -> Tensor:
        """Return the block-causal bias."""
        return block_causal_bias(asked, self.block_width, self.network.vocab_embed.embedding.dtype)

    def training_logits(self, noised: Tensor, clean: Tensor, t: Tensor | None = None) -> Tensor:
        """Compute logits [B, L, V] of all noised blocks, each after clean earlier blocks (NFE 1).

        Public toolbox: training and its likelihoods read them; no sampler here does.

        Args:
            noised: x_t, int64 [B, L].
            clean: x_0, int64 [B, L].
            t: noise level of each row, [B]; read by time-conditioned networks only.
        """
        length = noised.shape[1]
        table = self.network.vocab_embed.embedding
        bias = noised_clean_bias(length, self.block_width, table)
        positions = positions_of(None, noised).repeat(1, 2)
        both = torch.cat((noised, clean), dim=1)
        columns = torch.arange(length, device=noised.device).expand_as(noised)
        finish = partial(self.headed, inputs=Pass(both, columns=columns))
        return self.call_module(both, self.sigma(noised, t), positions, bias, finish)

    @property
    def block_width(self) -> int:
        """Return the block length, which this family always has."""
        assert self.block_length is not None
        return self.block_length

    def authors_config(self) -> dict[str, Any]:
        """Write the flat config of the hub, under the authors' keys."""
        return {
            **hub_config(self.network, self.max_length),
            "architectures": ["BD3LM"],
            "model_type": "bd3lm",
            "adaln": self.network.config.adaln,
            "block_size": self.block_length,
            "cross_attn": True,
            "time_conditioning": self.time_conditioned,
            "var_min": False,
            "mask_token_id": self.mask_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }

    @staticmethod
    def authors_name(key: str) -> str:
        """Put `backbone.` before a tensor's name, as in the authors' files."""
        return PREFIX + key


def load(checkpoint: Checkpoint, options: LoadOptions) -> BD3LMDenoiser:
    """Build the denoiser of a BD3-LM checkpoint; its tensors tell whether it has adaLN."""
    given = checkpoint.config
    vocab_size = given.get("vocab_size", GPT2_SIZE + 1)
    adaln = prefix_of(checkpoint) + "sigma_map.mlp.0.weight" in checkpoint.files
    sizes, length = read_sizes(checkpoint, vocab_size, adaln=adaln)
    mask_token_id = options.mask_id(checkpoint, vocab_size - 1, vocab_size)
    return BD3LMDenoiser(
        load_dit(sizes, checkpoint, options, ignored=is_no_weight),
        block_length=options.extra.get("block_length", given.get("block_size", length)),
        mask_token_id=mask_token_id,
        max_length=length,
        time_conditioned=bool(given.get("time_conditioning", False)),
        **options.text(checkpoint, gpt2_tokenizer(vocab_size, mask_token_id)),
    )


def is_no_weight(name: str) -> bool:
    """Tell whether a tensor in a file is a rotary table or a bound of the training schedule."""
    return is_rotary(name) or name in SCHEDULE_BUFFERS


def matches(config: Mapping[str, Any]) -> bool:
    """Match the authors' hub config."""
    return config.get("model_type") == "bd3lm"


KEYS = dit_keys(
    read={"block_size": SIZE, "time_conditioning": FLAG},
    fixed={"cross_attn": True},
    harmless={*SCHEDULE_BUFFERS, "adaln", "var_min"},  # the tensors tell about adaLN
)

register(Family("bd3lm", matches, load, frozenset({"block_length"}), keys=KEYS))
