"""GPU kernels in Triton with the random bits of the torch specification in `dlm_sampling.ops`.

Importing this package needs neither triton nor a GPU: it says whether the kernels can run.
Importing `dlm_kernels.operators`, which holds them, needs triton.

No GPU has run these kernels yet: they have been run by Triton's interpreter on the CPU and compiled
ahead of time for NVIDIA GPUs.  kernels/STATUS.md says what has been checked and what is left.
"""

from typing import Any

CONFIRMED_ON_A_GPU = False
"""Whether the kernels have passed on a device; until then a caller must ask for them."""

__all__ = ["CONFIRMED_ON_A_GPU", "obstacle"]


def __getattr__(name: str) -> Any:
    """Load `obstacle` when it is first asked for, so that importing the package loads no torch."""
    if name != "obstacle":
        raise AttributeError(f"module 'dlm_kernels' has no attribute '{name}'")
    from dlm_kernels.common.support import obstacle

    return obstacle
