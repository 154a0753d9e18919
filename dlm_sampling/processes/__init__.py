"""Define noise processes and the exact laws of one step, from tables to tables.

A process holds the noise that a model was trained on, and the loop runs it: `Absorbing` (masks),
`Uniform`, `RateMatrix` and `MatrixChain` (any matrix).  The modules are a toolbox of laws over one
position, as tables [..., V], without a model and without random numbers:

    conversions  one kind of prediction (posterior, leave-one-out law, score) from another
    flow         the velocity of discrete flow matching, and its jumps
    guidance     laws tilted towards a condition, by a second model or by a classifier
    jumps        the law of one step from rates: Euler, tau-leaping, displacements
    matrices     the transition and rate matrices of the literature
    planned      planned denoising: which position is noise, and how far a canvas is
    psi          mixtures of the reverse step and of fresh noise
    theta        rates of the second stage of theta-trapezoidal and theta-RK-2
    tweedie      the exact reverse step from a score
"""

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
