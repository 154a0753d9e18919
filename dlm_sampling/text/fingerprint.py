"""Collect all that decides the tokens of a row beside its prompt and its seed."""

from __future__ import annotations

import hashlib
from typing import Any

from dlm_sampling.caches import policy_of
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.denoisers.quantisation import plain_parts
from dlm_sampling.ops import RANDOM_STREAM
from dlm_sampling.text.options import GenerateOptions, Job
from dlm_sampling.viewers.safe_text import json_line

SAMPLED_VALUES = 64  # of each weight


def settings(job: Job) -> dict[str, Any]:
    """Return the options of a call and a digest of its model, as values for JSON."""
    request, denoiser = job.request, job.denoiser
    cache = request.cache
    exact = cache in ("auto", "none") or policy_of(cache).exact
    return {
        **({} if exact else {"cache": repr(policy_of(cache))}),
        "sampler": repr(request.sampler),
        "law": repr(request.law),
        "blocks": repr(request.blocks),
        "guidance_scale": request.guidance_scale,
        "eos": job.eos,
        "stop_token_ids": list(request.stop_token_ids),
        "stop": sorted({text for texts in job.stop for text in texts}),
        "every_step": request.every_step,
        "weights": weights_digest(denoiser),
        "dtype": str(denoiser.dtype),
        "random_stream": RANDOM_STREAM,
    }


def encoding_of(options: GenerateOptions) -> dict[str, Any]:
    """Return the options that decide how prompts become token ids, as values for JSON."""
    template = options.chat_template_kwargs or {}
    return {
        "add_special_tokens": options.add_special_tokens,
        "chat_template_kwargs": {
            name: value if isinstance(value, str | int | float | None) else repr(value)
            for name, value in template.items()
        },
    }


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits of the hash of a value for JSON."""
    return hashlib.blake2b(json_line(value).encode(), digest_size=8).hexdigest()


def weights_digest(denoiser: Denoiser) -> str:
    """Hash the names, shapes and types of all weights, and up to 64 values of each."""
    found = hashlib.blake2b(digest_size=8)
    weights = {} if denoiser.module is None else denoiser.module.state_dict()
    for name, weight in weights.items():
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        for part in plain_parts(weight):
            if part.numel():
                values = part.reshape(-1)[:: -(-part.numel() // SAMPLED_VALUES)]
                found.update(values.double().cpu().numpy().tobytes())
    return found.hexdigest()
