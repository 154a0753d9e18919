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
    "Noise": "dlm_kernels.unmask",
    "Written": "dlm_kernels.unmask",
    "budget_positions": "dlm_kernels.unmask",
    "divergence": "dlm_kernels.moved",
    "draw": "dlm_kernels.categorical",
    "head_draw": "dlm_kernels.fused_head",
    "log_prob_of": "dlm_kernels.given",
    "log_probs": "dlm_kernels.given",
    "obstacle": "dlm_kernels.limits",
    "stochastic_positions": "dlm_kernels.unmask",
    "threshold_positions": "dlm_kernels.unmask",
    "top_k_positions": "dlm_kernels.unmask",
    "unmask_": "dlm_kernels.unmask",
}


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in _HOME:
        raise AttributeError(f"dlm_kernels has no kernel {name!r}: it has {sorted(_HOME)}.")
    found: Callable[..., Any] = getattr(importlib.import_module(_HOME[name]), name)
    return found
