"""Hold denoisers with known answers, and the exact laws of samplers on them, for tests."""

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
