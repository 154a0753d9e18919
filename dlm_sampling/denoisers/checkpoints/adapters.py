"""Merge low-rank adapters into a network's weights, at loading and at saving.

    W  <-  W + s B A,   s = alpha / r, or alpha / sqrt(r) with rank-stabilised scaling

Hu et al. 2021, LoRA, arXiv:2106.09685.  The files are those of PEFT, which need not be installed:
a folder with adapter_config.json and adapter_model.safetensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from dlm_sampling.denoisers.checkpoints.checkpoint import CheckpointError, open_tensors, read_json
from dlm_sampling.denoisers.checkpoints.value_kinds import (
    FLAG,
    POSITIVE,
    SIZE,
    TEXT,
    check_kinds,
    short,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
HOLDERS = re.compile(
    r"\b(base_layer|original_module)\.|\bparametrizations\.(?=\w+\.original)|(?<=\w)\.original$"
)
"""Parts of names under which a layer with an adapter keeps what it was made from."""
KINDS = {
    "base_model_name_or_path": TEXT,
    "lora_alpha": POSITIVE,
    "peft_type": TEXT,
    "r": SIZE,
    "revision": TEXT,
    "use_rslora": FLAG,
}
"""Keys that are read, with the kind of their values."""
ONLY: Mapping[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (),
    "alpha_pattern": ({},),
    "arrow_config": (),
    "bias": ("none",),
    "corda_config": (),
    "enable_lora": (),
    "ensure_weight_tying": (False,),
    "fan_in_fan_out": (False,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
    "kasa_config": (),
    "layer_replication": (),
    "loftq_config": ({},),
    "lora_bias": (False,),
    "lora_ga_config": (),
    "megatron_config": (),
    "modules_to_save": ([],),
    "monteclora_config": (),
    "peft_type": ("LORA",),
    "rank_pattern": ({},),
    "target_parameters": ([],),
    "trainable_token_indices": (),
    "use_bdlora": (),
    "use_dora": (False,),
    "use_qalora": (False,),
    "velora_config": (),
}
"""Keys that change what the files mean, with the values at which they are a plain product.

Null is always one of them.  The values of `init_lora_weights` that are left out begin from weights
of the base that they also change, so that the factors do not belong to the base as it is stored.
"""
WITHOUT_EFFECT = frozenset(
    {
        *("auto_mapping", "eva_config", "exclude_modules", "inference_mode", "layers_pattern"),
        *("layers_to_transform", "lora_dropout", "megatron_core", "merge_weights", "peft_version"),
        *("qalora_group_size", "runtime_config", "target_modules", "task_type"),
    }
)
"""Keys of training, of notes, and of the choice of layers, which the file of the factors tells."""


def read_adapter(folder: Path, name: str) -> dict[str, Any]:
    """Read the config of an adapter.

    Raises:
        CheckpointError: it is malformed, no plain low-rank adapter, or has keys that are not known.
    """
    given = read_json(folder / CONFIG, name)
    config = {key: value for key, value in given.items() if value is not None}
    check_kinds(name, CONFIG, config, KINDS)
    remedy = "Merge it with PEFT's merge_and_unload(), and load the merged folder."
    for key, values in ONLY.items():
        found = config.get(key)
        if found is not None and not is_one_of(found, values):
            allowed = ", ".join(map(repr, (*values, None)))
            raise CheckpointError(
                f"{name!r}: {CONFIG} has {key}={short(found)}; only {allowed} can be merged here. "
                f"{remedy}"
            )
    if unknown := sorted(config.keys() - {*KINDS, *ONLY, *WITHOUT_EFFECT}):
        listed = ", ".join(f"{key}={short(config[key])}" for key in unknown)
        raise CheckpointError(
            f"{name!r}: {CONFIG} has {listed}, which may change what the adapter does and is not "
            f"known here. {remedy}"
        )
    if not config.get("r") or not config.get("lora_alpha"):
        raise CheckpointError(f"{name!r}: {CONFIG} lacks r or lora_alpha. Download it again.")
    return config


def is_one_of(value: object, allowed: tuple[Any, ...]) -> bool:
    """Return whether a value of a JSON file is one of a few; 0 and 1 are no false and true."""
    return any(type(value) is type(each) and value == each for each in allowed)


def base_of(folder: Path, name: str) -> tuple[str, str | None]:
    """Return the folder or hub name of the model that an adapter belongs to, and its revision.

    Raises:
        CheckpointError: the adapter does not say, or it is an adapter as well.
    """
    config = read_adapter(folder, name)
    base = config.get("base_model_name_or_path")
    if not base:
        raise CheckpointError(
            f"{name!r}: {CONFIG} names no base_model_name_or_path: write it there, as a folder or "
            "a hub name."
        )
    beside = folder / str(base)
    base = str(beside) if beside.is_dir() else str(base)
    if (Path(base) / CONFIG).is_file() and not (Path(base) / "config.json").is_file():
        raise CheckpointError(
            f"{name!r}: its base {base!r} is an adapter too: load that one, save it merged with "
            "save_pretrained, and name the new folder as the base."
        )
    return base, config.get("revision")


@torch.no_grad()
def merge_adapter(
    module: nn.Module, folder: Path, name: str, authors_name: Callable[[str], str]
) -> None:
    """Add an adapter's product to the weights that it names, under our names or the authors'.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another shape.
    """
    config = read_adapter(folder, name)
    root = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{name!r} has no {WEIGHTS}: download the adapter again.")
    weights: dict[str, nn.Parameter] = {}
    for key, weight in module.named_parameters():
        for label in {key, authors_name(key)}:
            weights[label.removesuffix(".weight")] = weight
    with open_tensors(folder / WEIGHTS) as tensors:
        left = {str(key) for key in tensors.keys()}  # noqa: SIM118
        for key in sorted(key for key in left if key.endswith(".lora_A.weight")):
            place = key.removesuffix(".lora_A.weight")
            weight = weights.get(place.removeprefix(PREFIX))
            other = f"{place}.lora_B.weight"
            if weight is None or other not in left:
                continue
            a, b = tensors.get_tensor(key), tensors.get_tensor(other)
            if (b.shape[0], a.shape[1]) != tuple(weight.shape) or a.shape[0] != b.shape[1]:
                raise CheckpointError(
                    f"{name!r}: {place} has factors {tuple(b.shape)} and {tuple(a.shape)}, and the "
                    f"base has {tuple(weight.shape)}: it belongs to another model."
                )
            if len(a) != config["r"]:
                raise CheckpointError(
                    f"{name!r}: {place} has factors of rank {len(a)}, and {CONFIG} has "
                    f"r={config['r']}, which says how they are scaled. Download it again."
                )
            change = b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)
            weight.add_((change * (config["lora_alpha"] / root)).to(weight.dtype))
            left -= {key, other}
    if left:
        raise CheckpointError(
            f"{name!r}: {len(left)} tensors of the adapter have no place in the base model, first "
            f"{min(left)}: it belongs to another model."
        )


@runtime_checkable
class Adapted(Protocol):
    """Describe a layer of PEFT that holds another one, `base_layer`, and changes what it computes.

    Most add a product to its weight; some turn it, scale it, or add to its bias.
    """

    @property
    def disable_adapters(self) -> bool:
        """Return whether the layer computes what its base does."""
        ...

    @property
    def merged(self) -> bool:
        """Return whether the change is in the weights of the base."""
        ...

    def merge(self) -> None:
        """Put the changes that are active into the weights of the base."""
        ...

    def unmerge(self) -> None:
        """Take the changes out of the weights of the base."""
        ...


@runtime_checkable
class Replaced(Protocol):
    """Describe a wrapper of PEFT around a part that is trained whole, or in some rows."""

    @property
    def disable_adapters(self) -> bool:
        """Return whether the original part is called."""
        ...

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return the part that is called in place of the original."""
        ...


@torch.no_grad()
def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's tensors with its adapters merged, under the names without adapters.

    They are those of the network as it runs: with the adapters that are active, and without any
    where they are disabled.  Parametrisations of torch are merged as well.

    Raises:
        TypeError: an adapter that cannot be merged.
    """
    state: dict[str, Tensor] = module.state_dict()
    network: Any = module
    parts: dict[str, nn.Module] = dict(network.named_modules())
    merged: list[str] = []
    for path, part in parts.items():
        if any(path.startswith(prefix) for prefix in merged) or not is_adapted(part):
            continue
        try:
            own = plain_state(deepcopy(part))
        except (RuntimeError, TypeError, ValueError) as error:
            raise cannot_merge(f"{path}: {error}") from error
        prefix = f"{path}."
        state = {key: value for key, value in state.items() if not key.startswith(prefix)}
        state |= {f"{prefix}{key}": value for key, value in own.items()}
        merged.append(prefix)
    marks = (".base_layer.", ".original_module.", "lora_", "parametrizations.")
    strange = [key for key in state if any(mark in key for mark in marks)]
    if strange:
        raise cannot_merge(strange[0])
    check_ties(module.state_dict(), state)
    return state


def is_adapted(part: nn.Module) -> bool:
    """Return whether a part of a network has an adapter of a kind that merges itself."""
    holds = "base_layer" in dict(part.named_children())
    return (
        isinstance(part, Replaced) or is_parametrized(part) or (holds and isinstance(part, Adapted))
    )


def plain_state(part: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a part without adapters that computes what this one does.

    Args:
        part: with adapters, which are merged in it.

    Raises:
        TypeError, RuntimeError, ValueError: they cannot be merged.
    """
    held = dict(part.named_children())
    if isinstance(part, Replaced):
        if not part.disable_adapters:
            return plain_state(part.unload_and_optionally_merge_module(True, False, None))
        if "modules_to_save" not in held:
            raise TypeError("it is disabled")
        return plain_state(held["original_module"])
    if is_parametrized(part):
        inside = "parametrizations"
        names = dict(part.get_submodule(inside).named_children())
        state = {k: v for k, v in part.state_dict().items() if not k.startswith(f"{inside}.")}
        return state | {name: getattr(part, name).detach() for name in names}
    if not (isinstance(part, Adapted) and "base_layer" in held):
        return part.state_dict()
    if any(map(is_parametrized, held["base_layer"].modules())):
        raise TypeError("its base has a parametrisation, which no adapter can be added to")
    plain_state(held["base_layer"])  # first, as this one changes what that one gives
    if not part.disable_adapters and not part.merged:
        part.merge()
    elif part.disable_adapters and part.merged:
        part.unmerge()
    return plain_state(part.get_submodule("base_layer"))  # which some replace as they merge


def check_ties(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Refuse adapters that part two names of one tensor, as it would be loaded as one again.

    Args:
        before: the tensors of a network with adapters.
        after: its tensors with the adapters merged.

    Raises:
        TypeError: two names that shared a tensor have different values.
    """
    names: dict[tuple[int, torch.Size], str] = {}
    for key, value in before.items():
        name = HOLDERS.sub("", key)
        if name not in after or not value.data_ptr():
            continue
        first = names.setdefault((value.data_ptr(), value.shape), name)
        if after[first] is not after[name] and not torch.equal(after[first], after[name]):
            raise cannot_merge(f"{first} and {name} are one tensor, and no longer would be")


def cannot_merge(what: str) -> TypeError:
    """Return the error for an adapter that cannot be merged."""
    return TypeError(
        f"module has an adapter that cannot be merged ({what}): merge it with the library that "
        "made it, such as PEFT's merge_and_unload(), and save again."
    )
