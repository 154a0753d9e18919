"""Translate configs of Qwen blocks under the authors' own model types: Dream, SDAR and others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.config_keys import ConfigKeys, reading_config
from dlm_sampling.denoisers.checkpoints.value_kinds import (
    FLAG,
    LAYERS,
    POSITIVE,
    SIZE,
    TEXT,
    Kind,
    listing,
    one_of,
)
from dlm_sampling.denoisers.networks.transformers_blocks import StockDenoiser, rope_theta

SHARED: Mapping[str, Kind] = {
    "vocab_size": SIZE,
    "hidden_size": SIZE,
    "intermediate_size": SIZE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": SIZE,
    "num_key_value_heads": SIZE,
    "max_position_embeddings": SIZE,
    "rms_norm_eps": POSITIVE,
    "hidden_act": TEXT,
    "tie_word_embeddings": FLAG,
}
"""Config keys that mean the same in the authors' configs and in Qwen2's and Qwen3's."""

THETA, SCHEME = "rope_parameters.rope_theta", "rope_parameters.rope_type"
"""Where transformers 5 writes the base of the rotary frequencies, and how they are scaled."""


def qwen_keys(read: Mapping[str, Kind], harmless: Collection[str] = ()) -> ConfigKeys:
    """Name the keys of a family's configs, beside the keys that all of them share."""
    return ConfigKeys(
        {
            **SHARED,
            "layer_types": listing(one_of("full_attention"), "a list of 'full_attention'"),
            "rope_theta": POSITIVE,
            THETA: POSITIVE,
            **read,
        },
        ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"),
        {"rope_scaling": None, SCHEME: "default", "use_sliding_window": False},
        {"max_window_layers", "sliding_window", *harmless},
    )


def stock_config(maker: Any, checkpoint: Checkpoint, further: tuple[str, ...]) -> Any:
    """Make the stock Qwen config of an authors' config.

    Args:
        maker: transformers' config class.
        checkpoint: with the authors' config.
        further: keys that are shared beyond `SHARED`.

    Raises:
        CheckpointError: the sizes do not fit each other.
    """
    from transformers.activations import ACT2FN

    given = checkpoint.config
    scheme: Mapping[str, Any] = given.get("rope_parameters") or {}
    bases = {each["rope_theta"] for each in (given, scheme) if "rope_theta" in each}
    with reading_config(checkpoint):
        if given.get("hidden_act", "silu") not in ACT2FN:
            raise ValueError(f"hidden_act={given['hidden_act']!r} is no function of transformers")
        if len(bases) > 1:
            raise ValueError(
                f"rope_theta={given['rope_theta']} beside {scheme['rope_theta']} in rope_parameters"
            )
        layers, kinds = given["num_hidden_layers"], given.get("layer_types")
        if kinds is not None and len(kinds) != layers:
            raise ValueError(f"num_hidden_layers={layers} beside {len(kinds)} layer_types")
        return maker(
            **{key: given[key] for key in (*SHARED, *further) if key in given},
            rope_theta=min(bases, default=10000.0),
            use_sliding_window=False,
            bos_token_id=given.get("bos_token_id"),
            eos_token_id=given.get("eos_token_id"),
            pad_token_id=given.get("pad_token_id"),
        )


def qwen_config(denoiser: StockDenoiser, further: tuple[str, ...]) -> dict[str, Any]:
    """Write the keys of the authors' config that these families share.

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
