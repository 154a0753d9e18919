"""Estimate log-likelihoods of answers for policy gradients, each as its paper defines it."""

from dlm_sampling.rl.estimators.coupled import coupled_logprob
from dlm_sampling.rl.estimators.mean_field import mean_field_logprob
from dlm_sampling.rl.estimators.one_level import level_of_iteration, one_level_logprob
from dlm_sampling.rl.estimators.upper_bound import upper_bound

__all__ = [
    "coupled_logprob",
    "level_of_iteration",
    "mean_field_logprob",
    "one_level_logprob",
    "upper_bound",
]
