"""Open a checkpoint folder: config.json and safetensors files, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch

from dlm_sampling.denoisers.checkpoints.reach import hub_in_reach, is_hub_name

READ = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
COUNTERS = ("I64", "BOOL")  # of buffers, such as the numbers of positions
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class CheckpointError(ValueError):
    """Say in one line why a checkpoint cannot be loaded, and the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """Describe one checkpoint on disk.

    Args:
        name: the name that the user gave; used in messages.
        folder: the folder of the files.
        as_read: the parsed config.json.
    """

    name: str
    folder: Path
    as_read: Mapping[str, Any]

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Return the config without its nulls: a key that is null is the same as an absent one.

        Models that transformers loads are the exception: it reads the file itself.
        """
        return without_nulls(self.as_read)

    @cached_property
    def files(self) -> dict[str, Path]:
        """Map the name of each tensor to its safetensors file.

        Raises:
            CheckpointError: no safetensors, a shard is missing, or a file is damaged.
        """
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            return self._indexed(read_json(index, self.name))
        single = self.folder / "model.safetensors"
        if not single.is_file():
            raise CheckpointError(self._no_safetensors())
        with open_tensors(single) as tensors:
            return dict.fromkeys(tensors.keys(), single)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Read the type in which the floating-point tensors are stored (that of the first one)."""
        for name, file in self.files.items():
            with open_tensors(file) as tensors:
                kind = tensors.get_slice(name).get_dtype()
            if kind in FLOATS:
                return FLOATS[kind]
        raise CheckpointError(
            f"{self.name!r} holds no floating-point tensor: it is not a network's checkpoint."
        )

    def packed(self) -> tuple[str, str] | None:
        """Find a tensor that is no plain number of a network: its name and type, or None."""
        by_file: dict[Path, list[str]] = {}
        for name, file in self.files.items():
            by_file.setdefault(file, []).append(name)
        for file, names in by_file.items():
            with open_tensors(file) as tensors:
                kinds = {name: str(tensors.get_slice(name).get_dtype()) for name in names}
            for name, kind in kinds.items():
                if kind not in FLOATS and kind not in COUNTERS:
                    return name, kind
        return None

    def _indexed(self, index: Mapping[str, Any]) -> dict[str, Path]:
        """Read an index and check that every file it names lies in the folder."""
        given: Any = index.get("weight_map")
        names = cast("dict[str, Any]", given if isinstance(given, dict) else {"": None})
        if not all(isinstance(shard, str) for shard in names.values()):
            raise CheckpointError(
                f"{self.name!r}: model.safetensors.index.json has no weight_map from tensors to "
                "files: download it again."
            )
        shards = sorted(set(names.values()))
        outside = [shard for shard in shards if Path(shard).name != shard]
        if outside or not shards:
            raise CheckpointError(
                f"{self.name!r}: model.safetensors.index.json names {outside or 'no file'}: "
                "download it again."
            )
        missing = [shard for shard in shards if not (self.folder / shard).is_file()]
        if missing:
            raise CheckpointError(
                f"{self.name!r}: {len(missing)} of {len(shards)} weight files are missing, "
                f"first {missing[0]}. "
                "Download the checkpoint again."
            )
        return {name: self.folder / shard for name, shard in names.items()}

    def _no_safetensors(self) -> str:
        pickles = sorted(file.name for file in self.folder.iterdir() if file.suffix in PICKLES)
        if pickles:
            return (
                f"{self.name!r} has only {pickles[0]}. Pickle files are not loaded. "
                f"Convert once: python -m dlm_sampling.denoisers.checkpoints.convert {self.folder}"
            )
        return (
            f"{self.name!r} has no model.safetensors: {self.folder} holds no weights. "
            "Download the checkpoint again."
        )


def without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a JSON object without the keys that are null, nor those of the objects in it."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            kept[key] = without_nulls(cast("Mapping[str, Any]", value))
        elif value is not None:
            kept[key] = value
    return kept


def open_checkpoint(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Open a folder, or download a checkpoint from the Hugging Face hub (no code files).

    Raises:
        CheckpointError: no such folder or repository, or no readable config.json.
    """
    name = str(name_or_path)
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        if folder.exists() or not is_hub_name(name):
            raise CheckpointError(
                f"{name!r} is not a checkpoint folder. Give a folder with config.json, or a hub "
                "name such as org/model."
            )
        folder = download(
            name, READ, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
        )
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{name!r} has no config.json: give the folder that holds it.")
    return Checkpoint(name, folder, read_json(folder / "config.json", name))


def download(name: str, patterns: tuple[str, ...], **options: Any) -> Path:
    """Download the top-level files of a hub repository that fit `patterns`; return the folder.

    Raises:
        CheckpointError: it cannot be reached, or it offers pickled weights only.
    """
    hub: Any = import_module("huggingface_hub")
    with hub_in_reach() as unreachable:
        try:
            folder = Path(
                hub.snapshot_download(
                    name, allow_patterns=list(patterns), ignore_patterns=["*/*"], **options
                )
            )
            if not any(folder.glob("*.safetensors")):
                refuse_pickles(name, hub.list_repo_files(name, revision=options.get("revision")))
        except CheckpointError:
            raise
        except (OSError, ValueError) as error:
            reason = unreachable or (str(error).strip() or type(error).__name__).splitlines()[0]
            reason = reason.removeprefix("Got: ")  # of huggingface_hub, which quotes the network
            raise CheckpointError(
                f"{name!r} is no local folder, and could not be downloaded: {reason.rstrip('.')}. "
                "Check the name, the network, or give a folder."
            ) from error
    return folder


def refuse_pickles(name: str, files: list[str]) -> None:
    """Say how to convert the weights of a repository that has pickled ones only."""
    pickles = sorted(file for file in files if file.endswith(PICKLES))
    if pickles:
        raise CheckpointError(
            f"{name!r} has only {pickles[0]}. Pickle files are not loaded. Convert once: hf "
            f"download {name} --local-dir FOLDER, then "
            "python -m dlm_sampling.denoisers.checkpoints.convert FOLDER"
        )


def read_json(file: Path, name: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        CheckpointError: the file is not one.
    """
    try:
        value: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{name!r}: {file.name} is not readable JSON ({error}). Download it again."
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name!r}: {file.name} is not a JSON object. Download it again.")
    return cast("dict[str, Any]", value)


@contextmanager
def open_tensors(file: Path) -> Generator[Any]:
    """Open a safetensors file for reading.

    Raises:
        CheckpointError: the file is damaged or cut short.
    """
    safetensors: Any = import_module("safetensors")

    try:
        with safetensors.safe_open(file, framework="pt") as tensors:
            yield tensors
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{file} is not a complete safetensors file ({error}). Download it again."
        ) from error
