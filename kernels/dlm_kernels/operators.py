"""Collect the operators of this package under the names of their twins in `dlm_sampling.ops`.

`head_draw` is `draw` over a fused output head; `unmask_` chooses positions and writes there.
"""

from dlm_kernels.categorical.launch import draw
from dlm_kernels.divergence.launch import divergence
from dlm_kernels.head.launch import head_draw
from dlm_kernels.log_probs.launch import log_prob_of, log_probs
from dlm_kernels.positions.launch import (
    Noise,
    Written,
    budget_positions,
    stochastic_positions,
    threshold_positions,
    top_k_positions,
    unmask_,
)

__all__ = [
    "Noise",
    "Written",
    "budget_positions",
    "divergence",
    "draw",
    "head_draw",
    "log_prob_of",
    "log_probs",
    "stochastic_positions",
    "threshold_positions",
    "top_k_positions",
    "unmask_",
]
