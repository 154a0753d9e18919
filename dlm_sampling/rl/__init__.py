"""Train diffusion language models with rewards: losses and likelihood estimators in plain torch."""

from dlm_sampling.rl.losses import GRPOLoss, group_advantages, grpo_loss, k3_divergence
from dlm_sampling.rl.preferences import d3po_loss, dpo_loss, vrpo_loss
from dlm_sampling.rl.reference import as_reference

__all__ = [
    "GRPOLoss",
    "as_reference",
    "d3po_loss",
    "dpo_loss",
    "group_advantages",
    "grpo_loss",
    "k3_divergence",
    "vrpo_loss",
]
