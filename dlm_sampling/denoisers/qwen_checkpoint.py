"""Checkpoints of Qwen blocks under the authors' own model type: Dream and SDAR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dlm_sampling.denoisers.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.placement import parse_dtype
from dlm_sampling.denoisers.stock import StockDenoiser, rope_theta, tied_names
from dlm_sampling.denoisers.text import save_tokenizer
from dlm_sampling.denoisers.weights import save_weights, write_json

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
    """The stock Qwen config of an authors' config.

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


def save_qwen(
    denoiser: StockDenoiser,
    folder: str | Path,
    identity: Mapping[str, Any],
    further: tuple[str, ...],
    *,
    dtype: torch.dtype | str | None,
) -> None:
    """Write config.json, safetensors and tokenizer as the authors publish them.

    Args:
        denoiser: with stock modules.
        folder: created if needed.
        identity: `architectures`, `model_type`, and what only this model's config has.
        further: as in `stock_config`.
        dtype: type of the written weights, such as "bfloat16"; None: as they are.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    config: Any = denoiser.model.config
    tied = tied_names(config)
    save_weights(denoiser.model, target, lambda key: key, dtype=parse_dtype(dtype), tied=tied)
    authors = {
        **identity,
        **{key: getattr(config, key) for key in (*SHARED, *further)},
        "rope_theta": rope_theta(config),
        "rope_scaling": None,
        "use_sliding_window": False,
        "mask_token_id": denoiser.mask_token_id,
        "eos_token_id": denoiser.eos_token_id,
        "pad_token_id": denoiser.pad_token_id,
    }
    write_json(target / "config.json", authors)
    save_tokenizer(denoiser.tokenizer, target)
