"""Choose the implementation of an operator: torch, which is the specification, or a GPU kernel."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import torch

_CHOICES = ("auto", "triton", "torch")

_log = logging.getLogger("dlm_sampling")


class Placed(Protocol):
    """Lie on a device, as a tensor does."""

    @property
    def device(self) -> torch.device:
        """Return the device."""
        ...


def kernel(
    name: str,
    tensor: Placed,
    *,
    dtype: torch.dtype | None = None,
    vocab: int = 0,
    score: torch.dtype | None = None,
) -> Callable[..., Any] | None:
    """Return the kernel that should run for `tensor`, or None for the torch implementation.

    The environment variable DLM_KERNELS decides: "auto" (default) takes a kernel for CUDA tensors
    when one can run and the kernels have been confirmed on a GPU, "torch" never does, "triton"
    insists.  float64 logits and whole-number scores are torch's, whatever is chosen: rules over
    tables make them, and there are no kernels for them.

    Args:
        name: of the operator, as in `dlm_kernels.operators`.
        tensor: tells the device: a tensor, or anything else that has one.
        dtype: of the logits, or None where it is not known or there are none.
        vocab: columns of the logits.
        score: dtype of the scores [B, L], or None if there are none.

    Raises:
        ValueError: DLM_KERNELS has another value.
        RuntimeError: DLM_KERNELS=triton and the kernel cannot run; the message says why.
    """
    choice = os.environ.get("DLM_KERNELS", "auto")
    if choice == "torch" or (choice == "auto" and tensor.device.type != "cuda"):
        return None
    if choice not in _CHOICES:
        raise ValueError(f"DLM_KERNELS={choice!r}: must be one of {', '.join(_CHOICES)}.")
    if dtype == torch.float64 or (score is not None and not score.is_floating_point):
        return None
    found, problem = _find(name, tensor.device, dtype, vocab, score, confirmed=choice == "auto")
    if found is None and choice == "triton":
        raise RuntimeError(
            f"DLM_KERNELS=triton, but the kernel {name!r} cannot run: {problem}. "
            "Set DLM_KERNELS=auto to let torch take over."
        )
    if found is None:
        _say_once(name, problem)
    return found


def why_no_kernels(device: torch.device) -> str | None:
    """Return why CUDA tensors would not go to the kernels, in words, or None if they do."""
    choice = os.environ.get("DLM_KERNELS", "auto")
    if choice == "torch":
        return "DLM_KERNELS=torch turns them off"
    return _find("draw", device, confirmed=choice == "auto")[1] or None


def _find(
    name: str,
    device: torch.device,
    dtype: torch.dtype | None = None,
    vocab: int = 0,
    score: torch.dtype | None = None,
    *,
    confirmed: bool,
) -> tuple[Callable[..., Any] | None, str]:
    """Return the kernel and "", or None and why there is none."""
    try:
        package = importlib.import_module("dlm_kernels")
        if confirmed and not package.CONFIRMED_ON_A_GPU:
            return None, "no GPU has run the kernels yet; DLM_KERNELS=triton uses them"
        support = importlib.import_module("dlm_kernels.common.support")
        problem: str | None = support.obstacle(device, dtype, vocab=vocab, score=score)
        if problem is not None:
            return None, problem
        return getattr(importlib.import_module("dlm_kernels.operators"), name), ""
    except (ImportError, AttributeError) as error:
        return None, f"it cannot be loaded ({error})"


@cache
def _say_once(name: str, problem: str) -> None:
    _log.info("torch runs %s on the GPU, without a kernel: %s", name, problem)
