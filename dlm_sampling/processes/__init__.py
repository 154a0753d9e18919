"""Noise processes and exact one-step laws: tables in, tables out, no randomness, no model."""

from dlm_sampling.processes import conversions, jumps, matrix, theta, tweedie
from dlm_sampling.processes.absorbing import Absorbing
from dlm_sampling.processes.rate_matrix import MatrixChain, RateMatrix
from dlm_sampling.processes.uniform import Uniform

__all__ = [
    "Absorbing",
    "MatrixChain",
    "RateMatrix",
    "Uniform",
    "conversions",
    "jumps",
    "matrix",
    "theta",
    "tweedie",
]
