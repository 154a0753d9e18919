"""Say on which tensors the kernels can run; import neither triton nor the kernels."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

_HAS_TRITON = find_spec("triton") is not None  # looked up once: torch.compile does not trace it
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST_VOCABULARY = 1 << 20

FASTER_BELOW: dict[int, int] = {}
"""Maps the width of an output head to the most rows for which the fused head was faster than the
head in blocks.  No GPU has measured it, so it is empty; a test holds the entries against
kernels/benchmarks/results/head.json."""


def obstacle(
    device: torch.device,
    dtype: torch.dtype | None = None,
    *,
    vocab: int = 0,
    score: torch.dtype | None = None,
) -> str | None:
    """Return why the kernels cannot take tensors like these, in words, or None if they can.

    Args:
        device: of the tensors.
        dtype: of the logits, or None if there are none or it is not known before they are made.
        vocab: columns of the logits.
        score: dtype of the scores [B, L], or None if there are none.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    obstacles = {
        "triton is not installed": not _HAS_TRITON,
        f"the tensors are on {device.type}, the kernels run on CUDA devices": (
            device.type != "cuda" and not interpreted
        ),
        "the GPU's compute capability is below 8.0": (
            device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
        ),
        f"the logits are {dtype}, the kernels read float32, float16 and bfloat16": (
            dtype is not None and dtype not in DTYPES
        ),
        f"the scores are {score}, the kernels read floating point": (
            score is not None and not score.is_floating_point
        ),
        f"the vocabulary of {vocab} is above {LARGEST_VOCABULARY}": vocab > LARGEST_VOCABULARY,
    }
    return next((text for text, found in obstacles.items() if found), None)


def refuse(problem: str | None) -> None:
    """Raise TypeError if there is an obstacle."""
    if problem is not None:
        raise TypeError(f"No kernel can run: {problem}. Set DLM_KERNELS=auto or torch.")
