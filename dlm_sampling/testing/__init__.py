"""Hold denoisers with known answers, and the exact laws of samplers on them, for tests.

With three symbols and two positions a masked chain has 16 states, so the law of any sampler whose
step factorises over positions is a product of matrices, and a sampler can be tested against its own
law rather than against the data law, which it only reaches with infinitely many steps.

S is the number of data symbols and V = S + 1 with the mask; states are enumerated in C order (the
last position runs fastest).
"""

from dlm_sampling.testing import oracles
from dlm_sampling.testing.denoisers import (
    EnumerableDenoiser,
    FixtureToy,
    SupportDenoiser,
    load_toys,
)
from dlm_sampling.testing.laws import (
    ChiSquare,
    all_states,
    chi_square,
    count_states,
    exact_chain_law,
    final_draw,
    product_law,
    tv,
)
from dlm_sampling.testing.noisy import NoisyEnumerableDenoiser

__all__ = [
    "ChiSquare",
    "EnumerableDenoiser",
    "FixtureToy",
    "NoisyEnumerableDenoiser",
    "SupportDenoiser",
    "all_states",
    "chi_square",
    "count_states",
    "exact_chain_law",
    "final_draw",
    "load_toys",
    "oracles",
    "product_law",
    "tv",
]
