"""Train a small model for a few updates, on one process or on several, and print what came out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"


def main(folder: Path) -> None:
    import trl
    from datasets import Dataset

    from dlm_sampling import AutoDenoiser
    from dlm_sampling.trl import grpo_trainer
    from tests.tiny import save_tiny_llada

    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    policy = AutoDenoiser.from_pretrained(save_tiny_llada(folder / f"model-{rank}-{ranks}"))
    drawn: list[str] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        drawn.extend(str(ids) for ids in completion_ids)
        return [float(len(text) + text.count("e")) for text in completions]

    args = trl.GRPOConfig(
        str(folder / "out"), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, seed=3,
        save_strategy="no", num_generations=4, per_device_train_batch_size=8 // ranks,
        max_completion_length=8, num_iterations=2, max_steps=4, learning_rate=1e-2, beta=0.1,
    )  # fmt: skip
    trainer = grpo_trainer()(
        policy, reward, args, generation={"sampler": "llada-random", "steps": 4},
        train_dataset=Dataset.from_dict({"prompt": ["abc", "Hello", "a", "bb cc"]}),
    )  # fmt: skip
    trainer.train()
    assert policy.module is not None
    norm = torch.cat([p.detach().flatten().double() for p in policy.module.parameters()]).norm()
    print(f"rank {rank}:{norm:.9f}:{''.join(drawn[: 8 // ranks])}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
