"""Load and describe checkpoints of diffusion transformers, in either of their config layouts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError, open_tensors
from dlm_sampling.denoisers.checkpoints.config_keys import ConfigKeys
from dlm_sampling.denoisers.checkpoints.placement import plan_placement
from dlm_sampling.denoisers.checkpoints.tokenizers import TokenizerSource, gpt2, gpt2_with_mask
from dlm_sampling.denoisers.checkpoints.value_kinds import LAYERS, SIZE, Kind
from dlm_sampling.denoisers.checkpoints.weights import load_weights
from dlm_sampling.denoisers.networks.dit import Dit, DitConfig
from dlm_sampling.denoisers.networks.transformers_blocks import is_rotary
from dlm_sampling.denoisers.registry import LoadOptions

GPT2_END, GPT2_SIZE = 50256, 50257
PREFIX = "backbone."
"""Prefix that the hub's wrapper classes put before the network's tensor names."""
HEAD = "output_layer.linear.weight"

SIZE_KEYS: Mapping[str, Kind] = {
    "cond_dim": SIZE,
    "hidden_dim": SIZE,
    "model_length": SIZE,
    "n_blocks": LAYERS,
    "n_heads": SIZE,
    "model.cond_dim": SIZE,
    "model.hidden_size": SIZE,
    "model.length": SIZE,
    "model.n_blocks": LAYERS,
    "model.n_heads": SIZE,
    "vocab_size": SIZE,
}
NAMES = {
    "cond_dim": "cond_dim",
    "hidden_size": "hidden_dim",
    "length": "model_length",
    "n_blocks": "n_blocks",
    "n_heads": "n_heads",
}
"""Sizes in the object `model` of a training config, and their names in a hub config."""
FIXED: Mapping[str, Any] = {
    "causal": False,
    "model.tie_word_embeddings": False,
    "model.type": "ddit",
    "tie_word_embeddings": False,
}
TRAINING = frozenset(
    {
        *("T", "attn_backend", "model.name", "model.scale_by_sigma", "model.vocab_lookup"),
        *("callbacks", "checkpointing", "data", "ema", "eval", "hydra", "loader", "lr_scheduler"),
        *("mode", "neptune", "ngpus", "optim", "prior", "sampling", "seed", "strategy"),
        *("trainer", "training", "wandb", "wandb_name", "work_dir"),
    }
)
"""Keys of the authors' training configs, and of their hub configs, that change no logits."""


def gpt2_or_more(config: Mapping[str, Any]) -> object:
    """Return the number of columns of a network with a mask, by default GPT-2's and the mask."""
    return config.get("vocab_size", GPT2_SIZE + 1)


def dit_keys(
    read: Mapping[str, Kind],
    fixed: Mapping[str, Any],
    harmless: Collection[str] = (),
    columns: Callable[[Mapping[str, Any]], object] = gpt2_or_more,
) -> ConfigKeys:
    """Name the keys of a family's configs, beside the keys of all diffusion transformers."""
    return ConfigKeys(
        {**SIZE_KEYS, **read},
        fixed={**FIXED, **fixed},
        harmless={*TRAINING, *harmless},
        columns=columns,
    )


def is_gpt2(columns: int, mask_token_id: int | None) -> bool:
    """Tell whether a network's columns are GPT-2's tokens; one more may be the mask, or unused."""
    return columns == GPT2_SIZE + 1 or (mask_token_id is None and columns == GPT2_SIZE)


def gpt2_tokenizer(columns: int, mask_token_id: int | None) -> TokenizerSource | None:
    """Return a loader of GPT-2's tokenizer, with a mask if the network has one; else None."""
    if not is_gpt2(columns, mask_token_id):
        return None
    return gpt2 if mask_token_id is None else gpt2_with_mask


def read_sizes(
    checkpoint: Checkpoint, vocab_size: int, *, adaln: bool = True, columns: int | None = None
) -> tuple[DitConfig, int | None]:
    """Read sizes and training length from the nested training config or the flat hub config.

    Raises:
        CheckpointError: a size is missing.
    """
    given = checkpoint.config
    nested: Mapping[str, Any] = given.get("model") or {}
    flat: dict[str, Any] = {}
    for key, name in NAMES.items():
        flat[key] = nested.get(key, given.get(name))
        if given.get(name, flat[key]) != flat[key]:
            raise CheckpointError(
                f"{checkpoint.name!r}: config.json has {name}={given[name]!r} and "
                f"model.{key}={flat[key]!r}: they are the same size."
            )
    try:
        sizes = DitConfig(
            vocab_size=vocab_size,
            hidden_size=int(flat["hidden_size"]),
            n_blocks=int(flat["n_blocks"]),
            n_heads=int(flat["n_heads"]),
            cond_dim=int(flat["cond_dim"]),
            adaln=adaln,
            columns=columns,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.name!r}: config.json lacks a size of the network, or it is not a "
            f"number ({error})."
        ) from error
    return sizes, flat["length"]


def prefix_of(checkpoint: Checkpoint) -> str:
    """Return `backbone.` if the tensors' names begin with it, else the empty string."""
    return PREFIX if any(name.startswith(PREFIX) for name in checkpoint.files) else ""


def rows_of(checkpoint: Checkpoint, name: str) -> int:
    """Read the first dimension of the network's tensor `name` from the file's header.

    Raises:
        CheckpointError: the checkpoint lacks it.
    """
    stored = prefix_of(checkpoint) + name
    if stored not in checkpoint.files:
        raise CheckpointError(
            f"{checkpoint.name!r}: {stored} is missing. The download is incomplete, or "
            "config.json describes another architecture."
        )
    with open_tensors(checkpoint.files[stored]) as tensors:
        return int(tensors.get_slice(stored).get_shape()[0])


def load_dit(
    sizes: DitConfig,
    checkpoint: Checkpoint,
    options: LoadOptions,
    ignored: Callable[[str], bool] = is_rotary,
) -> Dit:
    """Build a network with a checkpoint's weights, without initialising any."""
    with torch.device("meta"):
        network = Dit(sizes)
    prefix, dtype = prefix_of(checkpoint), options.dtype_for(checkpoint)
    place, finish = plan_placement(network, options.device_map, dtype, ("DitBlock", "DitOutput"))
    load_weights(
        network, checkpoint, lambda key: prefix + key, dtype=dtype, place=place, ignored=ignored
    )
    finish()
    return network


def training_config(network: Dit, length: int | None) -> dict[str, Any]:
    """Write the `model` section of the authors' training configs."""
    sizes = network.config
    return {
        "type": "ddit",
        "hidden_size": sizes.hidden_size,
        "cond_dim": sizes.cond_dim,
        "n_blocks": sizes.n_blocks,
        "n_heads": sizes.n_heads,
        "length": length,
    }


def hub_config(network: Dit, length: int | None) -> dict[str, Any]:
    """Write sizes and training length under the keys of the authors' flat hub configs."""
    sizes = network.config
    return {
        "vocab_size": sizes.vocab_size,
        "hidden_dim": sizes.hidden_size,
        "cond_dim": sizes.cond_dim,
        "n_blocks": sizes.n_blocks,
        "n_heads": sizes.n_heads,
        "model_length": length,
    }
