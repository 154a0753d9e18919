"""Compute random numbers, exact categorical samples, log-probabilities and top positions."""

from dlm_sampling.ops._dispatch import why_no_kernels
from dlm_sampling.ops.categorical import draw, draw_lazily
from dlm_sampling.ops.combined import Guided, Pair, Remainder
from dlm_sampling.ops.divergence import divergence
from dlm_sampling.ops.grad import (
    differentiable_entropy,
    differentiable_log_prob_of,
    remade,
)
from dlm_sampling.ops.host_sync import any_or_assume, sync_allowed, without_sync
from dlm_sampling.ops.log_probs import filtered_log_law, log_prob_of, log_probs
from dlm_sampling.ops.philox import RANDOM_STREAM, Rng, Stream, fresh_seed, row_seeds
from dlm_sampling.ops.positions import (
    budget_positions,
    stochastic_positions,
    threshold_positions,
    top_k_positions,
)
from dlm_sampling.ops.reads import Reads
from dlm_sampling.ops.reshape import Adjust
from dlm_sampling.ops.sources import LogitRows, Source, head_rows
from dlm_sampling.ops.vocabulary import TILE

__all__ = [
    "RANDOM_STREAM",
    "TILE",
    "Adjust",
    "Guided",
    "LogitRows",
    "Pair",
    "Reads",
    "Remainder",
    "Rng",
    "Source",
    "Stream",
    "any_or_assume",
    "budget_positions",
    "differentiable_entropy",
    "differentiable_log_prob_of",
    "divergence",
    "draw",
    "draw_lazily",
    "filtered_log_law",
    "fresh_seed",
    "head_rows",
    "log_prob_of",
    "log_probs",
    "remade",
    "row_seeds",
    "stochastic_positions",
    "sync_allowed",
    "threshold_positions",
    "top_k_positions",
    "why_no_kernels",
    "without_sync",
]
