"""Name the keys of configs that transformers itself reads.

A key is read if the source of the model or of its config names it; one that neither names cannot
change the network that transformers builds, so that a checkpoint with it is of another network.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from dlm_sampling.denoisers.checkpoints.config_keys import ConfigKeys
from dlm_sampling.denoisers.checkpoints.settings import is_mapping
from dlm_sampling.denoisers.checkpoints.value_kinds import (
    ANY,
    COUNT,
    LAYERS,
    POSITIVE,
    SIZE,
    TEXT,
    Kind,
)

KINDS: Mapping[str, Kind] = {
    "hidden_act": TEXT,
    "hidden_size": SIZE,
    "intermediate_size": SIZE,
    "layer_norm_eps": POSITIVE,
    "max_position_embeddings": SIZE,
    "num_attention_heads": SIZE,
    "num_hidden_layers": LAYERS,
    "rms_norm_eps": POSITIVE,
    "type_vocab_size": COUNT,
    "vocab_size": SIZE,
}
"""Kinds of the keys that mean the same in all configs of transformers."""

FIXED: Mapping[str, Any] = {"is_decoder": False}
"""A decoder would attend to the left only."""
GONE: Mapping[str, Any] = {"position_embedding_type": "absolute"}
"""Switches that older releases of transformers read, at the value that newer ones build."""
HARMLESS = frozenset({"tie_weights_", "sinusoidal_pos_embds"})


def transformers_keys(
    model_class: type, config: Mapping[str, Any], section: str = "", unused: tuple[str, ...] = ()
) -> ConfigKeys:
    """Name the keys of a config that a model class of transformers reads.

    Args:
        model_class: the class that is loaded.
        config: the config.
        section: the object in it that describes the network, such as "text_config"; "": itself.
        unused: objects that describe parts of the model that are not run.
    """
    words = source_words(model_class)
    inner: Any = config.get(section) if section else config
    prefix = f"{section}." if section else ""
    names: list[str] = list(inner) if is_mapping(inner) else []
    return ConfigKeys(
        {
            **{key: ANY for key in config if key in words and key != section},
            **{prefix + name: KINDS.get(name, ANY) for name in names if name in words},
        },
        (f"{prefix}vocab_size",),
        {
            **{prefix + key: value for key, value in FIXED.items()},
            **{prefix + key: value for key, value in GONE.items() if key not in words},
        },
        {*HARMLESS, *unused},
    )


@cache
def source_words(model_class: type) -> frozenset[str]:
    """List the words in the source of a model class's module, and of its config's."""
    owner: Any = model_class
    modules = (owner.__module__, owner.config_class.__module__)
    source = "".join(inspect.getsource(sys.modules[name]) for name in modules)
    return frozenset(re.findall(r"\w+", source))
