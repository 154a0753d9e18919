"""Name the keys of configs that transformers itself reads.

A key is read if the class of the config has it as a field or attribute, takes it from the further
keys that it is given, or the model asks for it with a default.  Any other key cannot change the
network that transformers builds, so that a checkpoint with it is of another network.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from functools import cache
from itertools import chain
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

GONE: Mapping[str, Any] = {"position_embedding_type": "absolute"}
"""Switches that older releases of transformers read, at the value that newer ones build."""
HARMLESS = frozenset(
    {
        *("classifier_activation", "classifier_bias", "classifier_pooling"),
        *("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
        *("pooler_size_per_head", "pooler_type", "sinusoidal_pos_embds", "tie_weights_"),
        *("deterministic_flash_attn", "reference_compile", "sparse_pred_ignore_index"),
        *("sparse_prediction", "output_past"),
    }
)
"""Keys of released masked language models about heads for further tasks, speed, and old classes."""

TAKEN = re.compile(
    r"""kwargs\.(?:pop|get)\(\s*"(\w+)" | "(\w+)"\ (?:not\ )?in\ kwargs | self\.(\w+)\ =\ """,
    re.VERBOSE,
)
"""Keys in the source of a config class: taken from the further keys, or computed and saved."""
ASKED = re.compile(r'getattr\(\s*(?:self\.)?config,\s*"(\w+)"')
"""Keys in the source of a model."""
TIED = "tie_word_embeddings"
PLAIN = (bool, int, float, str)
"""Types of class attributes that a key of their name replaces."""


def transformers_keys(
    model_class: type,
    config: Mapping[str, Any],
    section: str = "",
    *,
    fixed: Mapping[str, Any] | None = None,
    unused: tuple[str, ...] = (),
) -> ConfigKeys:
    """Name the keys of a config that a model class of transformers reads.

    Args:
        model_class: the class that is loaded.
        config: the config.
        section: the object in it that describes the network, such as "text_config"; "": itself.
        fixed: switches of the network that must have one value.
        unused: objects that describe parts of the model that are not run.
    """
    owner: Any = model_class
    outer: Any = owner.config_class
    network: Any = outer.sub_configs[section] if section else outer
    words = keys_taken(network) | keys_asked(model_class)
    outer_words = keys_taken(outer) if section else words
    prefix = f"{section}." if section else ""
    names = list(section_of(config, section))
    return ConfigKeys(
        {
            **{key: ANY for key in config if key in outer_words and key != section},
            **{prefix + name: KINDS.get(name, ANY) for name in names if name in words},
        },
        (f"{prefix}vocab_size",),
        {
            **{prefix + key: value for key, value in (fixed or {}).items()},
            **{prefix + key: value for key, value in GONE.items() if key not in words},
        },
        {*HARMLESS, *unused},
        {
            *keys_with_value(outer),
            *(prefix + key for key in keys_with_value(network)),
        },
        lambda config: section_of(config, section).get("vocab_size"),
    )


def section_of(config: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """Return an object of a config; "": the config itself, and empty if there is none."""
    inner: object = config.get(section) if section else config
    return inner if is_mapping(inner) else {}


@cache
def keys_with_value(config_class: type) -> frozenset[str]:
    """List the fields of a config class whose type allows no null and whose default is none."""
    found: dict[str, bool] = {}
    for each in reversed(config_class.__mro__):
        for name, kind in inspect.get_annotations(each).items():
            nullable = "None" in str(kind) or "Optional" in str(kind) or "Any" in str(kind)
            found[name] = not nullable and vars(each).get(name) is not None
    return frozenset(name for name in found if found[name])


@cache
def keys_taken(config_class: type) -> frozenset[str]:
    """List the keys that a config class of transformers reads of a config.json."""
    from transformers.configuration_utils import PretrainedConfig

    owner: Any = config_class
    base: Any = PretrainedConfig
    own: list[Any] = [each for each in owner.__mro__ if issubclass(each, base) and each is not base]
    spaces: list[Mapping[str, Any]] = [vars(each) for each in own]
    plain = {key for space in spaces for key in space if isinstance(space[key], PLAIN)}
    found = {key for key in plain if not key.startswith("__")}
    found.update(owner.attribute_map, *(inspect.get_annotations(each) for each in own))
    arguments = (inspect.signature(each.__init__).parameters for each in own)  # transformers 4
    shared = {*inspect.signature(base.__init__).parameters}
    found |= set(chain.from_iterable(arguments)) - shared
    found |= shared & {TIED}  # which transformers 4 reads for every model
    source = "".join(map(inspect.getsource, own))
    if "rope_parameters" in found:  # older layouts are read by this method, which some replace
        source += inspect.getsource(owner.convert_rope_params_to_dict)
    return frozenset(found.union(*TAKEN.findall(source)) - {"", "args", "kwargs"})


@cache
def keys_asked(model_class: type) -> frozenset[str]:
    """List the keys that the module of a model class asks for with a default."""
    return frozenset(ASKED.findall(inspect.getsource(sys.modules[model_class.__module__])))
