"""Train a denoiser with TRL's GRPO: the texts of `generate`, and the likelihood of drawing them."""

from dlm_sampling.trl.likelihoods import (
    CoupledLikelihood,
    MeanFieldLikelihood,
    RunLikelihood,
    TokenLikelihood,
    TokenScores,
)
from dlm_sampling.trl.mixin import DiffusionGRPOMixin
from dlm_sampling.trl.release import grpo_trainer
from dlm_sampling.trl.rollouts import rollout_func

__all__ = [
    "CoupledLikelihood",
    "DiffusionGRPOMixin",
    "MeanFieldLikelihood",
    "RunLikelihood",
    "TokenLikelihood",
    "TokenScores",
    "grpo_trainer",
    "rollout_func",
]
