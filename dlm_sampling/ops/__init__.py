"""The arithmetic: random numbers, exact categorical sampling, choosing positions."""

from dlm_sampling.ops._dispatch import why_no_kernels
from dlm_sampling.ops.asking import any_of, may_ask, unasked
from dlm_sampling.ops.categorical import draw
from dlm_sampling.ops.divergence import divergence
from dlm_sampling.ops.graded import graded_log_prob_of
from dlm_sampling.ops.log_law import filtered_log_law, log_prob_of, log_probs
from dlm_sampling.ops.pairs import Guided, Pair, Remainder
from dlm_sampling.ops.philox import RANDOM_STREAM, Rng, Stream, fresh_seed, row_seeds
from dlm_sampling.ops.rows import TILE, LogitRows, Source, head_rows
from dlm_sampling.ops.select import (
    budget_positions,
    stochastic_positions,
    threshold_positions,
    top_k_positions,
)

__all__ = [
    "RANDOM_STREAM",
    "TILE",
    "Guided",
    "LogitRows",
    "Pair",
    "Remainder",
    "Rng",
    "Source",
    "Stream",
    "any_of",
    "budget_positions",
    "divergence",
    "draw",
    "filtered_log_law",
    "fresh_seed",
    "graded_log_prob_of",
    "head_rows",
    "log_prob_of",
    "log_probs",
    "may_ask",
    "row_seeds",
    "stochastic_positions",
    "threshold_positions",
    "top_k_positions",
    "unasked",
    "why_no_kernels",
]
