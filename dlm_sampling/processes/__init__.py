"""Define noise processes and the exact laws of one step, from tables to tables."""

from dlm_sampling.processes import (
    conversions,
    flow,
    guidance,
    jumps,
    matrices,
    planned,
    psi,
    theta,
    tweedie,
)
from dlm_sampling.processes.absorbing import Absorbing
from dlm_sampling.processes.rate_matrix import MatrixChain, RateMatrix
from dlm_sampling.processes.uniform import Uniform

__all__ = [
    "Absorbing",
    "MatrixChain",
    "RateMatrix",
    "Uniform",
    "conversions",
    "flow",
    "guidance",
    "jumps",
    "matrices",
    "planned",
    "psi",
    "theta",
    "tweedie",
]
