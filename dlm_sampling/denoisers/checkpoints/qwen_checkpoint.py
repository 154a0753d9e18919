"""Translates configs of Qwen blocks under the authors' own model types: Dream and SDAR."""

from __future__ import annotations

from typing import Any

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.networks.transformers_blocks import StockDenoiser, rope_theta

SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
    "tie_word_embeddings",
)
"""Config keys that mean the same in the authors' configs and in Qwen2's and Qwen3's."""


def stock_config(maker: Any, checkpoint: Checkpoint, name: str, further: tuple[str, ...]) -> Any:
    """Make the stock Qwen config of an authors' config.

    Args:
        maker: transformers' config class.
        checkpoint: with the authors' config.
        name: of the model, for the message.
        further: keys that are shared beyond `SHARED`.

    Raises:
        CheckpointError: sliding windows or scaled rotary embeddings, which no release uses.
    """
    given = checkpoint.config
    for key in ("use_sliding_window", "rope_scaling"):
        if given.get(key):
            raise CheckpointError(
                f"{checkpoint.name!r}: config.json has {key}={given[key]!r}; {name} checkpoints "
                "have none."
            )
    return maker(
        **{key: given[key] for key in (*SHARED, *further) if key in given},
        rope_theta=given.get("rope_theta", 10000.0),
        use_sliding_window=False,
        bos_token_id=given.get("bos_token_id"),
        eos_token_id=given.get("eos_token_id"),
        pad_token_id=given.get("pad_token_id"),
    )


def qwen_config(denoiser: StockDenoiser, further: tuple[str, ...]) -> dict[str, Any]:
    """Write the keys of the authors' config that Dream and SDAR share.

    Args:
        denoiser: with stock modules.
        further: as in `stock_config`.
    """
    config: Any = denoiser.model.config
    return {
        **{key: getattr(config, key) for key in (*SHARED, *further)},
        "rope_theta": rope_theta(config),
        "rope_scaling": None,
        "use_sliding_window": False,
        "mask_token_id": denoiser.mask_token_id,
        "eos_token_id": denoiser.eos_token_id,
        "pad_token_id": denoiser.pad_token_id,
    }
