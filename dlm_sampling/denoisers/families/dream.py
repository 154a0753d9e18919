"""Load and run Dream, Dream-Coder and DiffuCoder: Qwen2 blocks whose logits are shifted by one.

Ye et al. 2025, Dream 7B, arXiv:2508.15487; Gong et al. 2025, DiffuCoder, arXiv:2506.20639.  The
networks keep the alignment of the causal model they were made from, so each state is moved one
place right here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.qwen_checkpoint import qwen_config, qwen_keys, stock_config
from dlm_sampling.denoisers.networks.transformers_blocks import StockDenoiser, load_stock
from dlm_sampling.denoisers.registry import Family, LoadOptions, register

MASK_TOKEN_ID = 151666
"""Mask id of the released checkpoints (default of the authors' config class)."""


class DreamDenoiser(StockDenoiser):
    """Run a Dream network: no time input, states shifted so that position i scores token i.

    Args:
        model: stock Qwen2 modules; used with full attention, never modified.
        mask_token_id: the mask id.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.
    """

    family = "dream"
    shift = 1

    def authors_config(self) -> dict[str, Any]:
        """Write the config under the authors' keys."""
        return {
            **qwen_config(self, ()),
            "architectures": ["DreamModel"],
            "model_type": "Dream",
        }


def load(checkpoint: Checkpoint, options: LoadOptions) -> DreamDenoiser:
    """Build the denoiser of a Dream checkpoint."""
    from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

    config = stock_config(Qwen2Config, checkpoint, ())
    mask_token_id = options.mask_id(checkpoint, MASK_TOKEN_ID, config.vocab_size)
    return DreamDenoiser(
        load_stock(Qwen2ForCausalLM, config, checkpoint, options),
        mask_token_id=mask_token_id,
        **options.text(checkpoint),
    )


def matches(config: Mapping[str, Any]) -> bool:
    """Match Dream and its descendants, which write the model type with a capital letter."""
    return str(config.get("model_type", "")).lower() == "dream"


register(Family("dream", matches, load, keys=qwen_keys({})))
