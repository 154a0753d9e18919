"""Train a denoiser with TRL's GRPO: the texts of `generate`, and the likelihood of drawing them.

    from datasets import Dataset
    from trl import GRPOConfig

    from dlm_sampling import AutoDenoiser
    from dlm_sampling.trl import grpo_trainer


    def reward(completions, **_):
        return [float(text.count("e")) for text in completions]


    policy = AutoDenoiser.from_pretrained("tiny-books")
    trainer = grpo_trainer()(
        policy,
        reward_funcs=reward,
        args=GRPOConfig("runs", max_completion_length=8, num_generations=4, top_p=1.0),
        generation={"sampler": "llada-random", "steps": 4},
        train_dataset=Dataset.from_dict({"prompt": ["Once", "The cat"]}),
    )
    trainer.train()
    policy.save_pretrained("trained")

`DiffusionGRPOMixin` names the arguments.
"""

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
