"""Train diffusion language models with rewards: losses and likelihood estimators in plain torch."""

from dlm_sampling.likelihood.branching import branch
from dlm_sampling.rl.estimators import (
    coupled_logprob,
    level_of_iteration,
    mean_field_logprob,
    one_level_logprob,
    upper_bound,
)
from dlm_sampling.rl.losses import GRPOLoss, group_advantages, grpo_loss, k3_divergence
from dlm_sampling.rl.preferences import d3po_loss, dpo_loss, vrpo_loss
from dlm_sampling.rl.reference import as_reference
from dlm_sampling.rl.sandwich import spg_loss
from dlm_sampling.rl.weighted import wd1_loss

__all__ = [
    "GRPOLoss",
    "as_reference",
    "branch",
    "coupled_logprob",
    "d3po_loss",
    "dpo_loss",
    "group_advantages",
    "grpo_loss",
    "k3_divergence",
    "level_of_iteration",
    "mean_field_logprob",
    "one_level_logprob",
    "spg_loss",
    "upper_bound",
    "vrpo_loss",
    "wd1_loss",
]
