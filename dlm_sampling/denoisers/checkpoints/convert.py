"""Convert pickled weights to safetensors, once.

    python -m dlm_sampling.denoisers.checkpoints.convert FOLDER

Unpickling may run code; here only PyTorch's restricted reader is used, which knows tensors and
plain containers and refuses everything else.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.checkpoints.checkpoint import CheckpointError, read_json
from dlm_sampling.denoisers.checkpoints.weights import write_json

INDEX = "pytorch_model.bin.index.json"


def convert(folder: str | Path) -> list[Path]:
    """Write `model*.safetensors` beside each `pytorch_model*.bin`, and the index if there is one.

    Args:
        folder: a checkpoint folder.

    Returns:
        The files written; the pickles stay.

    Raises:
        CheckpointError: no such files, or one holds more than named tensors.
    """
    place = Path(folder)
    pickles = sorted(place.glob("pytorch_model*.bin"))
    if not pickles:
        raise CheckpointError(f"{str(folder)!r} has no pytorch_model*.bin: nothing to convert.")
    save: Any = import_module("safetensors.torch")
    written: list[Path] = []
    for file in pickles:
        target = place / safe_name(file.name)
        save.save_file(read_pickle(file), target, metadata={"format": "pt"})
        target.chmod(0o644)
        written.append(target)
    if (place / INDEX).is_file():
        index = read_json(place / INDEX, str(folder))
        shards = {name: safe_name(shard) for name, shard in index["weight_map"].items()}
        write_json(place / "model.safetensors.index.json", {**index, "weight_map": shards})
        written.append(place / "model.safetensors.index.json")
    return written


def safe_name(name: str) -> str:
    """Return the name of the safetensors file that takes the place of a pickled one."""
    return name.replace("pytorch_model", "model", 1).removesuffix(".bin") + ".safetensors"


def read_pickle(file: Path) -> dict[str, Tensor]:
    """Read the named tensors of a pickled state dict, each with memory of its own."""
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file} is not a plain state dict: {reason}") from error
    if type(state).__name__ not in ("dict", "OrderedDict"):
        raise CheckpointError(f"{file} is not a plain state dict: it holds {type(state).__name__}.")
    named: dict[Any, Any] = dict(state)
    if strange := [key for key, value in named.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{file} is not a plain state dict: {strange[0]!r} is no tensor.")
    return {str(key): value.contiguous().clone() for key, value in named.items()}


def main() -> None:
    """Convert the folder named on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m dlm_sampling.denoisers.checkpoints.convert FOLDER")
    try:
        written = convert(sys.argv[1])
    except CheckpointError as error:
        raise SystemExit(str(error)) from error
    sys.stdout.write("".join(f"{file}\n" for file in written))


if __name__ == "__main__":
    main()
