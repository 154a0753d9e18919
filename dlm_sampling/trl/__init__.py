"""Train a denoiser with TRL's GRPO: the texts of `generate`, and the likelihood of drawing them.

    from dlm_sampling.trl import grpo_trainer

    policy = AutoDenoiser.from_pretrained("GSAI-ML/LLaDA-8B-Instruct")
    trainer = grpo_trainer()(
        policy,
        reward_funcs=reward,
        args=GRPOConfig(output_dir, max_completion_length=128, num_iterations=2, beta=0.04),
        generation={"sampler": "llada-random", "steps": 64, "block_length": 32},
        train_dataset=prompts,
        peft_config=LoraConfig(target_modules="all-linear"),
    )
    trainer.train()
    policy.save_pretrained(folder)  # loads with AutoDenoiser; TRL's own checkpoints only resume

TRL's own trainer recomputes log-probabilities as those of a causal model, which a denoiser is not.
Needs the extra `[rl]`.
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
