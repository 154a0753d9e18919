"""Run the operators of `dlm_sampling.ops` as Triton kernels, with the same random bits.

Importing this package loads nothing.  `dlm_kernels.common.support` says whether the kernels can run
and needs neither triton nor a GPU; `dlm_kernels.operators`, which holds them, needs triton.

No GPU has run these kernels yet: they have been run by Triton's interpreter on the CPU and compiled
ahead of time for NVIDIA GPUs.  kernels/STATUS.md says what has been checked and what is left.
"""

CONFIRMED_ON_A_GPU = False
"""Whether the kernels have passed on a device; until then a caller must ask for them."""
