"""Find the installed TRL, and refuse a release whose trainer may have changed under the mixin."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dlm_sampling.trl.mixin import DiffusionGRPOMixin

TESTED = "1.16"
"""The releases of TRL that the mixin is tested with: their first two numbers."""


def check_release(found: str | None) -> None:
    """Check the release of TRL that is installed, None for none.

    Raises:
        ImportError: there is none, or the mixin, which overrides private methods of TRL's trainer,
            was not tested with it.
    """
    if found is None:
        raise ImportError("TRL is not installed: pip install 'dlm-sampling[rl]'.")
    if found.split(".")[:2] != TESTED.split("."):
        raise ImportError(
            f"TRL {found} is installed, and its trainer is tested with TRL {TESTED} only, whose "
            f"private methods it overrides: pip install 'trl=={TESTED}.*'."
        )


def installed() -> str | None:
    """Return the release of TRL that is installed, or None."""
    try:
        return version("trl")
    except PackageNotFoundError:
        return None


@cache
def grpo_trainer() -> Any:
    """Return TRL's `GRPOTrainer` with the mixin, a class; TRL is imported here.

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
            args=GRPOConfig("runs", max_completion_length=8, num_generations=4, use_cpu=True),
            generation={"sampler": "llada-random", "steps": 4},
            train_dataset=Dataset.from_dict({"prompt": ["Once", "The cat"]}),
        )
        trainer.train()
        policy.save_pretrained("trained")

    `DiffusionGRPOMixin` names the arguments.  For a trainer of your own:
    `class Mine(DiffusionGRPOMixin, MyGRPOTrainer)`.

    Raises:
        ImportError: TRL is missing, or of a release that was not tested.
    """
    check_release(installed())
    base: Any = import_module("trl").GRPOTrainer
    return type("DiffusionGRPOTrainer", (DiffusionGRPOMixin, base), {"__doc__": base.__doc__})
