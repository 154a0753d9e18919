"""Which implementation of an op runs: torch, which is the specification, or a GPU kernel."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_CHOICES = ("auto", "triton", "torch")

_log = logging.getLogger("dlm_sampling")


def kernel(name: str, tensor: Tensor, **facts: Any) -> Callable[..., Any] | None:
    """The kernel called `name` that should run for `tensor`, or None for the torch implementation.

    The environment variable DLM_KERNELS decides: "auto" (default) takes a kernel for CUDA tensors
    when one can run and the kernels have been confirmed on a GPU, "torch" never does, "triton"
    insists.  float64 logits and whole-number scores are torch's, whatever is chosen: rules over
    tables make them, and there are no kernels for them.

    Args:
        name: of the op.
        tensor: tells the device.
        facts: what else decides whether the kernel can run; see `dlm_kernels.obstacle`.

    Raises:
        ValueError: DLM_KERNELS has another value.
        RuntimeError: DLM_KERNELS=triton and the kernel cannot run; the message says why.
    """
    choice = os.environ.get("DLM_KERNELS", "auto")
    if choice not in _CHOICES:
        raise ValueError(f"DLM_KERNELS={choice!r}: must be one of {', '.join(_CHOICES)}.")
    if choice == "torch" or (choice == "auto" and not tensor.is_cuda) or _left_to_torch(**facts):
        return None
    found, problem = _find(name, tensor.device, facts, confirmed=choice == "auto")
    if found is None and choice == "triton":
        raise RuntimeError(
            f"DLM_KERNELS=triton, but the kernel {name!r} cannot run: {problem}. "
            "Set DLM_KERNELS=auto to let torch take over."
        )
    if found is None:
        _say_once(name, problem)
    return found


def _left_to_torch(
    dtype: torch.dtype | None = None, score: torch.dtype | None = None, **_: Any
) -> bool:
    return dtype == torch.float64 or (score is not None and not score.is_floating_point)


def why_no_kernels(device: torch.device) -> str | None:
    """Why CUDA tensors would not go to the kernels, in words, or None if they do."""
    choice = os.environ.get("DLM_KERNELS", "auto")
    if choice == "torch":
        return "DLM_KERNELS=torch turns them off"
    return _find("draw", device, {}, confirmed=choice == "auto")[1] or None


def _find(
    name: str, device: torch.device, facts: dict[str, Any], *, confirmed: bool
) -> tuple[Callable[..., Any] | None, str]:
    """The kernel, or None and why there is none."""
    try:
        package = importlib.import_module("dlm_kernels")
        if confirmed and not package.CONFIRMED_ON_A_GPU:
            return None, "no GPU has run the kernels yet; DLM_KERNELS=triton uses them"
        problem: str | None = package.obstacle(device, **facts)
        return (getattr(package, name), "") if problem is None else (None, problem)
    except (ImportError, AttributeError) as error:
        return None, f"it cannot be loaded ({error})"


@cache
def _say_once(name: str, problem: str) -> None:
    _log.info("torch runs %s on the GPU, without a kernel: %s", name, problem)
