"""GPU kernels in Triton that share the random bits of the torch specification in dlm_sampling.ops.

Importing this package needs neither triton nor a GPU; the kernels are loaded when first asked for.

No GPU has run these kernels yet: they have been run by Triton's interpreter on the CPU and compiled
ahead of time for NVIDIA GPUs.  kernels/STATUS.md says what has been checked and what is left.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

CONFIRMED_ON_A_GPU = False
"""Whether the kernels have passed on a device; until then a caller must ask for them."""

_HOME = {
    "Noise": "dlm_kernels.positions.launch",
    "Written": "dlm_kernels.positions.launch",
    "budget_positions": "dlm_kernels.positions.launch",
    "divergence": "dlm_kernels.divergence.launch",
    "draw": "dlm_kernels.categorical.launch",
    "head_draw": "dlm_kernels.head.launch",
    "log_prob_of": "dlm_kernels.log_probs.launch",
    "log_probs": "dlm_kernels.log_probs.launch",
    "obstacle": "dlm_kernels.common.support",
    "stochastic_positions": "dlm_kernels.positions.launch",
    "threshold_positions": "dlm_kernels.positions.launch",
    "top_k_positions": "dlm_kernels.positions.launch",
    "unmask_": "dlm_kernels.positions.launch",
}


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in _HOME:
        raise AttributeError(f"dlm_kernels has no kernel {name!r}: it has {sorted(_HOME)}.")
    found: Callable[..., Any] = getattr(importlib.import_module(_HOME[name]), name)
    return found
