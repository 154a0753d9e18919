"""Copy tensors between checkpoint files and modules; every name and shape must fit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlm_sampling.denoisers.checkpoints.adapters import merged_state
from dlm_sampling.denoisers.checkpoints.checkpoint import (
    FLOATS,
    Checkpoint,
    CheckpointError,
    open_tensors,
)

NameOf = Callable[[str], str]
SHARD_SIZE = re.compile(r"\d*[1-9]\d*[KMGT]B", re.IGNORECASE)
INDEX = "model.safetensors.index.json"
WEIGHT_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
"""Names of the files that hold a model's tensors, or list the files that do."""
SAMPLER = "sampler_config.json"


def load_weights(
    module: nn.Module,
    checkpoint: Checkpoint,
    name_of: NameOf,
    *,
    dtype: torch.dtype,
    place: Callable[[str], torch.device],
    tied: Mapping[str, str] | None = None,
    ignored: Callable[[str], bool] = lambda name: False,
) -> None:
    """Fill a module that was built on the meta device.

    Peak memory is the module plus one tensor: each tensor is read, cast and moved by itself.

    Args:
        module: the module; its non-persistent buffers stay as they are.
        checkpoint: the folder of the tensors.
        name_of: name of a tensor in the file from its name in the module.
        dtype: type of all floating-point parameters.
        place: device of a tensor from its name in the module.
        tied: tensors of the module that are the same object as another one; not read.
        ignored: names in the file that are no parameters.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another shape than the config says.
    """
    tied = tied or {}
    target_of = {name_of(key): key for key in module.state_dict() if key not in tied}
    skipped = {name_of(key) for key in tied}
    present = {name for name in checkpoint.files if name not in skipped and not ignored(name)}
    check_names(checkpoint.name, set(target_of), present)
    by_file: dict[Path, list[str]] = {}
    for name in sorted(present):
        by_file.setdefault(checkpoint.files[name], []).append(name)
    for file, names in by_file.items():
        with open_tensors(file) as tensors:
            absent = set(names) - set(tensors.keys())
            if absent:
                raise CheckpointError(
                    f"{checkpoint.name!r}: {file.name} lacks {min(absent)}, which the index "
                    "promises. Download it again."
                )
            for name in names:
                key = target_of[name]
                put(
                    module,
                    key,
                    tensors.get_tensor(name),
                    dtype,
                    place(key),
                    f"{checkpoint.name!r}: {name}",
                )
    for key, source in tied.items():
        check_tied(module, checkpoint, name_of(key), source)
        tie(module, key, source)


def check_tied(module: nn.Module, checkpoint: Checkpoint, name: str, source: str) -> None:
    """Refuse a tensor that the config ties to another one, and that is stored with other values.

    Args:
        module: the module with all other tensors.
        checkpoint: the folder of the tensors.
        name: of the tied tensor in the file.
        source: the name of the other tensor in the module.

    Raises:
        CheckpointError: it would be left out, and the logits would be others.
    """
    if name not in checkpoint.files:
        return
    other = module.get_parameter(source)
    with open_tensors(checkpoint.files[name]) as tensors:
        stored: Tensor = cast_floats(tensors.get_tensor(name), other.dtype)
    if not torch.equal(stored.to(other.device), other):
        raise CheckpointError(
            f"{checkpoint.name!r}: {name} is stored and differs from {source}, and config.json "
            "says that they are one (tie_word_embeddings, weight_tying). Say false there to load "
            "it, or remove it from the file."
        )


def check_names(checkpoint: str, wanted: set[str], present: set[str]) -> None:
    """Refuse a checkpoint whose tensor names differ from the names of the architecture."""
    if missing := sorted(wanted - present):
        raise CheckpointError(
            f"{checkpoint!r}: {len(missing)} tensors are missing, first {missing[0]}. "
            "The download is incomplete, or config.json describes another architecture."
        )
    if unexpected := sorted(present - wanted):
        raise CheckpointError(
            f"{checkpoint!r}: {len(unexpected)} unexpected tensors, first {unexpected[0]}. "
            "config.json describes another architecture."
        )


def cast_floats(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Cast a tensor to `dtype` if it is floating point."""
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def put(
    module: nn.Module, key: str, value: Tensor, dtype: torch.dtype, device: torch.device, label: str
) -> None:
    """Put a tensor in the place of the module's parameter or buffer `key`.

    Parameters take `dtype`; buffers keep the type that the module gave them, which may matter
    (rotary frequencies).
    """
    path, _, leaf = key.rpartition(".")
    owner = module.get_submodule(path)
    old: Tensor = getattr(owner, leaf)
    if old.shape != value.shape:
        raise CheckpointError(
            f"{label} has shape {tuple(value.shape)}, config.json says {tuple(old.shape)}."
        )
    if old.is_floating_point() and value.dtype not in FLOATS.values():
        raise packed_error(label, str(value.dtype).removeprefix("torch."))
    if isinstance(old, nn.Parameter):
        setattr(
            owner,
            leaf,
            nn.Parameter(cast_floats(value, dtype).to(device), requires_grad=old.requires_grad),
        )
    else:
        setattr(owner, leaf, value.to(device, old.dtype))


def packed_error(label: str, kind: str) -> CheckpointError:
    """Make the error of a weight that is stored in a type that no network computes in."""
    return CheckpointError(
        f"{label} is stored as {kind}: the weights are packed by a quantisation that config.json "
        "does not name. Load the checkpoint they were made from, with quantize= if it is too large."
    )


def tie(module: nn.Module, key: str, source: str) -> None:
    """Make parameter `key` the same object as parameter `source`."""
    path, _, leaf = key.rpartition(".")
    setattr(module.get_submodule(path), leaf, module.get_parameter(source))


def check_shard_size(size: object) -> None:
    """Check the argument `max_shard_size`.

    Raises:
        TypeError: it is neither a whole number nor a text.
        ValueError: it is no size of at least one byte.
    """
    if isinstance(size, bool) or not isinstance(size, int | str):
        raise TypeError(f"max_shard_size={size!r}: must be bytes, or a text such as '2GB'.")
    if size < 1 if isinstance(size, int) else SHARD_SIZE.fullmatch(size) is None:
        raise ValueError(
            f"max_shard_size={size!r}: must be at least 1 byte, as a whole number, or as a whole "
            "number of KB, MB, GB or TB, such as '2GB'."
        )


def save_weights(
    module: nn.Module,
    folder: Path,
    name_of: NameOf,
    *,
    dtype: torch.dtype | None = None,
    tied: Mapping[str, str] | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write a module's tensors as safetensors under the authors' names; in shards if large.

    Files are replaced only when complete, so that a folder can be saved onto itself.  Weights that
    an earlier save left there are removed: an old index would be read before the new file.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    writer: Any = import_module("safetensors.torch")
    state = {
        name_of(key): cast_floats(value.detach(), dtype).cpu().contiguous()
        for key, value in merged_state(module).items()
        if key not in (tied or {})
    }
    split = split_torch_state_dict_into_shards(state, max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        unfinished = folder / f"{file}.part"
        writer.save_file(
            {name: state[name] for name in names}, unfinished, metadata={"format": "pt"}
        )
        unfinished.chmod(0o644)  # written as 600, which would hide a shared model from its users
        os.replace(unfinished, folder / file)
    written = set(split.filename_to_tensors)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / INDEX, index)
        written.add(INDEX)
    remove_weights(folder, written)


def remove_weights(folder: Path, kept: Collection[str] = ()) -> None:
    """Remove the files of a model's tensors from a folder, but for those of these names."""
    for path in list(folder.glob("model*")):
        if WEIGHT_FILES.fullmatch(path.name) and path.name not in kept:
            path.unlink()


def save_defaults(defaults: Mapping[str, Any], folder: Path) -> None:
    """Write the sampler that a checkpoint brings along, so that the saved one brings it too."""
    if defaults:
        write_json(folder / SAMPLER, defaults)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, indented and with sorted keys."""
    file.write_text(json.dumps(dict(value), indent=1, sort_keys=True) + "\n", encoding="utf-8")
