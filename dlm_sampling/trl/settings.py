"""Check TRL's settings for diffusion models, and read the token law from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

LAW = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p")
"""Arguments of `generate` that the `GRPOConfig` holds."""

OWN = {
    "seed": "a seed per row follows from GRPOConfig(seed=)",
    "num_return_sequences": "TRL repeats the prompts: GRPOConfig(num_generations=)",
    "return_rollout": "it is always on",
    "progress": "the trainer has its own",
}
"""Arguments of `generate` that the trainer sets."""

REFUSED = {
    "use_vllm": "vLLM's engine does not run the samplers",
    "use_transformers_continuous_batching": "it generates from left to right",
    "sync_ref_model": "train in rounds, each with its own reference",
}
"""Settings of TRL that must be off, and why."""


def check_settings(args: Any, generation: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check the settings of a trainer.

    Raises:
        TypeError: there is no GRPOConfig.
        ValueError: a setting does not apply to diffusion models, or is given in two places.
    """
    if args is None:
        raise TypeError("args is missing: give a GRPOConfig with max_completion_length.")
    for name in LAW:
        if name in generation:
            field = "max_completion_length" if name == "max_new_tokens" else name
            raise ValueError(f"generation[{name!r}]: set it in GRPOConfig({field}=).")
    for name, why in OWN.items():
        if name in generation:
            raise ValueError(f"generation[{name!r}]: {why}.")
    settings = cast("dict[str, Any]", vars(args))
    for name, why in REFUSED.items():
        if settings.get(name):
            raise ValueError(f"{name}=True: must be False for diffusion models; {why}.")
    if not args.temperature > 0.0:
        raise ValueError(
            f"temperature={args.temperature}: must be above 0; an argmax has no gradient, and the "
            "texts of a prompt would be equal."
        )
    if settings.get("repetition_penalty", 1.0) != 1.0:
        raise ValueError("repetition_penalty: must be 1.0; no sampler draws with one.")
    for name in ("rollout_func", "tools", "environment_factory"):
        if given.get(name):
            raise ValueError(f"{name}: must be left out; texts are drawn by `generate`.")
    if settings.get("ddp_broadcast_buffers") is None:
        # Ranks need different numbers of passes, and would wait for each other's buffers.
        args.ddp_broadcast_buffers = False


def law_of(args: Any, generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `generate`: those that a GRPOConfig holds, and `generation`."""
    found: dict[str, Any] = {
        "temperature": args.temperature,
        "top_k": args.top_k or None,
        "top_p": args.top_p,
        "min_p": args.min_p,
    }
    if not generation.get("infill"):
        found["max_new_tokens"] = args.max_completion_length
    if args.chat_template_kwargs:
        found["chat_template_kwargs"] = args.chat_template_kwargs
    return {**found, **generation}
