"""Load and run SDAR and descendants such as TraDo: Qwen3 blocks with block-causal attention.

Cheng et al. 2025, SDAR, arXiv:2510.06303, released code github.com/JetAstra/SDAR.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.qwen_checkpoint import qwen_config, qwen_keys, stock_config
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts
from dlm_sampling.denoisers.checkpoints.value_kinds import FLAG, SIZE
from dlm_sampling.denoisers.columns import Queried
from dlm_sampling.denoisers.networks.block_causal import block_causal_bias, check_block_length
from dlm_sampling.denoisers.networks.transformers_blocks import StockDenoiser, load_stock
from dlm_sampling.denoisers.registry import Family, LoadOptions, register

if TYPE_CHECKING:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

MASK_TOKEN_ID = 151669
"""Mask id of the released checkpoints."""
BLOCK_LENGTH = 4
"""Block length of the released chat checkpoints, where the config does not say."""

FURTHER = ("head_dim", "attention_bias")
"""Config keys that mean the same in the authors' config and in Qwen3's, beside the usual ones."""


class SDARDenoiser(StockDenoiser):
    """Run an SDAR network: no time input, logits in place; a block sees itself and earlier blocks.

    Args:
        model: stock Qwen3 modules; used with block-causal attention, never modified.
        mask_token_id: the mask id.
        block_length: columns per block; blocks count from a row's first real token.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.

    Raises:
        ValueError: `block_length` below 1.
    """

    family = "sdar"

    def __init__(
        self,
        model: Qwen3ForCausalLM,
        *,
        mask_token_id: int,
        block_length: int = BLOCK_LENGTH,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the model; see the class."""
        super().__init__(model, mask_token_id=mask_token_id, **text)
        self.block_length = check_block_length(block_length)

    def attention_bias(self, asked: Queried, dtype: torch.dtype) -> Tensor:
        """Return the block-causal bias."""
        assert self.block_length is not None
        return block_causal_bias(asked, self.block_length, dtype)

    def authors_config(self) -> dict[str, Any]:
        """Write the config under the authors' keys."""
        return {
            **qwen_config(self, FURTHER),
            "architectures": ["SDARForCausalLM"],
            "model_type": "sdar",
            "block_size": self.block_length,
        }


def load(checkpoint: Checkpoint, options: LoadOptions) -> SDARDenoiser:
    """Build the denoiser of an SDAR checkpoint."""
    from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

    config = stock_config(Qwen3Config, checkpoint, FURTHER)
    mask_token_id = options.mask_id(checkpoint, MASK_TOKEN_ID, config.vocab_size)
    own = checkpoint.config.get("block_size", BLOCK_LENGTH)
    return SDARDenoiser(
        load_stock(Qwen3ForCausalLM, config, checkpoint, options),
        mask_token_id=mask_token_id,
        block_length=options.extra.get("block_length", own),
        **options.text(checkpoint),
    )


def matches(config: Mapping[str, Any]) -> bool:
    """Match the authors' dense model type."""
    return config.get("model_type") == "sdar"


KEYS = qwen_keys(
    {"attention_bias": FLAG, "block_size": SIZE, "head_dim": SIZE},
    harmless={  # switches of training
        *("debug", "ep_size", "fuse_cross_entropy", "micro_forward", "skip_checkpoint"),
        "use_deepep",
    },
)

register(Family("sdar", matches, load, frozenset({"block_length"}), keys=KEYS))
