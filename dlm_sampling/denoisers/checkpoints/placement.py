"""Choose the device and the type of a checkpoint's weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from dlm_sampling.denoisers.checkpoints.checkpoint import CheckpointError

logger = logging.getLogger("dlm_sampling")

DeviceMap = str | int | torch.device | Mapping[str, Any] | None
AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")
DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
}


def single_device(device_map: DeviceMap) -> torch.device | None:
    """Return the device if `device_map` names one device for everything, else None.

    None means the current GPU if there is one, else the CPU.

    Raises:
        ValueError: not a device, or one that this machine lacks.
    """
    if isinstance(device_map, Mapping):
        places = set(device_map.values())
        return single_device(places.pop()) if set(device_map) == {""} else None
    if device_map in AUTOMATIC:
        return None
    if device_map is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = (
            torch.device("cuda", device_map)
            if isinstance(device_map, int)
            else torch.device(device_map)
        )
    except RuntimeError as error:
        raise ValueError(
            f"device_map={device_map!r}: must be a device such as 'cpu' or 'cuda:0', one of "
            f"{', '.join(AUTOMATIC)}, or a mapping."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"Device {device_map!r}: torch sees {torch.cuda.device_count()} GPUs on this machine. "
            "Use 'cpu', or leave device_map (--device) out."
        )
    return device


def resolve_dtype(
    dtype: torch.dtype | str | None, stored: torch.dtype, device: torch.device | None
) -> torch.dtype:
    """Choose the type of the weights: the one asked for, else the checkpoint's.

    On a CPU a 16-bit checkpoint becomes float32, since 16-bit matrix products are many times slower
    there.

    Raises:
        ValueError: an unknown type name.
    """
    asked = parse_dtype(dtype)
    if asked is not None:
        return asked
    if device is not None and device.type == "cpu" and stored.itemsize == 2:
        logger.info("16-bit weights are widened to float32 on the CPU; pass dtype= to keep them.")
        return torch.float32
    return stored


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Find a floating-point type by name; None and "auto" give None.

    Raises:
        ValueError: an unknown name, or no floating-point type.
    """
    if dtype is None or dtype == "auto":
        return None
    kind = DTYPES.get(str(dtype).removeprefix("torch."))
    if kind is None:
        raise ValueError(f"dtype={dtype!r}: must be 'auto' or one of {', '.join(DTYPES)}.")
    return kind


def plan_placement(
    module: nn.Module, device_map: DeviceMap, dtype: torch.dtype, whole: tuple[str, ...]
) -> tuple[Callable[[str], torch.device], Callable[[], None]]:
    """Plan the device of each tensor, and a function to call once all are there.

    Args:
        module: the module, still on the meta device.
        device_map: a device, or a plan over several devices, which needs accelerate.
        dtype: type that the tensors will have.
        whole: class names of submodules that must stay on one device.

    Raises:
        CheckpointError: several devices are asked for and accelerate is not installed, or the plan
            offloads to disk.
    """
    device = single_device(device_map)
    if device is not None:
        return lambda key: device, lambda: None
    if find_spec("accelerate") is None:
        raise CheckpointError(
            f"device_map={device_map!r} spreads the model over several devices, which needs "
            "accelerate: "
            "pip install accelerate, or name one device such as device_map='cuda'."
        )
    plan = make_plan(module, device_map, dtype, whole)
    if "disk" in plan.values():
        raise CheckpointError(
            f"device_map={device_map!r}: the model does not fit in memory. Use a machine with "
            "more, or dtype='bfloat16'."
        )

    def dispatch() -> None:
        accelerate: Any = import_module("accelerate")
        accelerate.dispatch_model(module, plan, skip_keys=["past_key_values"])

    return lambda key: place_of(plan, key), dispatch


def make_plan(
    module: nn.Module, device_map: DeviceMap, dtype: torch.dtype, whole: tuple[str, ...]
) -> dict[str, Any]:
    """Map each submodule to its device, by accelerate's rules."""
    if isinstance(device_map, Mapping):
        return dict(device_map)
    accelerate: Any = import_module("accelerate")
    options: dict[str, Any] = {"dtype": dtype, "no_split_module_classes": list(whole)}
    memory: Any = None
    if device_map not in ("sequential", None):
        memory = accelerate.utils.get_balanced_memory(
            module, low_zero=device_map == "balanced_low_0", **options
        )
    return dict(accelerate.infer_auto_device_map(module, max_memory=memory, **options))


def place_of(plan: Mapping[str, Any], key: str) -> torch.device:
    """Find the device of the longest prefix of `key` in the plan.

    Raises:
        ValueError: the plan has no entry for the tensor.
    """
    parts = key.split(".")
    for end in range(len(parts), -1, -1):
        place = plan.get(".".join(parts[:end]))
        if place is not None:
            return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
    raise ValueError(f"device_map has no entry for {key}: add one, or '' for everything else.")
