"""Tell by which method the weights of a checkpoint were quantised before they were stored.

Models that transformers itself loads are read as they are stored, where the method's library is
installed and the machine will do; others are refused by the method's name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError, read_json
from dlm_sampling.denoisers.checkpoints.settings import is_mapping

SECTIONS = ("quantization_config", "compression_config")
"""Keys of config.json under which libraries say how they have packed the weights."""
BESIDE = {"quantize_config.json": "gptq", "hf_quant_config.json": "modelopt"}
"""Files beside config.json that say so, and the library that writes each."""
OLD_KEYS = ("load_in_4bit", "load_in_8bit")
"""Keys of bitsandbytes in sections that name no method yet."""
READABLE = ("bitsandbytes", "torchao")
"""Methods whose weights in safetensors transformers reads by a library that runs without a GPU."""


def stored_method(checkpoint: Checkpoint) -> str | None:
    """Return the method by which the stored weights were quantised; None: they were not."""
    for key in SECTIONS:
        section: object = checkpoint.config.get(key)
        if section:
            return method_in(section) if is_mapping(section) else str(section)
    for file, method in BESIDE.items():
        if (checkpoint.folder / file).is_file():
            inside = read_json(checkpoint.folder / file, checkpoint.name)
            return str(inside.get("quant_method") or method)
    return None


def method_in(section: Mapping[str, Any]) -> str:
    """Return the method that a section of a config names."""
    old = any(section.get(key) for key in OLD_KEYS)
    return str(section.get("quant_method") or ("bitsandbytes" if old else "an unnamed method"))


def check_stored(checkpoint: Checkpoint, readable: Collection[str]) -> str | None:
    """Return the method of the stored weights, or refuse it by its name.

    Args:
        checkpoint: any checkpoint.
        readable: methods that its family reads.

    Raises:
        CheckpointError: the family does not read the method, or its library is not installed.
    """
    method = stored_method(checkpoint)
    if method is None:
        return None
    other = "Load the checkpoint it was made from, with quantize= if it is too large."
    if method not in readable:
        raise CheckpointError(
            f"{checkpoint.name!r} is quantised with {method}, which is not read here. {other}"
        )
    if find_spec(method) is None:
        raise CheckpointError(
            f"{checkpoint.name!r} is quantised with {method}: pip install {method}. Or: {other}"
        )
    return method
