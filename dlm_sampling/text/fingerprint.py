"""Collect all that decides the tokens of a row beside its prompt and its seed."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.caches import policy_of
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.denoisers.quantisation import plain_parts
from dlm_sampling.ops import RANDOM_STREAM
from dlm_sampling.text.options import GenerateOptions, Job
from dlm_sampling.viewers.safe_text import json_line

SAMPLED_VALUES = 64  # of each weight
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
RUN = 2**18  # words that are summed at once, which a CPU keeps near
MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64  # odd, with bits everywhere


def settings(job: Job) -> dict[str, Any]:
    """Return the options of a call and digests of its model, as values for JSON.

    Files may be moved and copied: all weights count, and config.json, which has constants that are
    no weights, but no name, size or time of a file.
    """
    request, denoiser = job.request, job.denoiser
    cache = request.cache
    exact = cache in ("auto", "none") or (policy_of(cache).exact and not denoiser.time_conditioned)
    return {
        **({} if exact else {"cache": repr(policy_of(cache))}),
        **({} if request.constraint is None else {"constraint": request.constraint.name}),
        "sampler": repr(request.sampler),
        "law": repr(request.law),
        "blocks": asdict(request.blocks),
        "guidance_scale": request.guidance_scale,
        "eos": job.eos,
        "stop_token_ids": list(request.stop_token_ids),
        "stop": sorted({text for texts in job.stop for text in texts}),
        "every_step": request.every_step,
        "weights": contents_digest(denoiser),
        "config": digest(dict(denoiser.checkpoint_config)),
        "dtype": str(denoiser.dtype),
        "random_stream": RANDOM_STREAM,
        **_start(job),
    }


def _start(job: Job) -> dict[str, Any]:
    """Return the drafts of a call and its times, as values for JSON; nothing without them."""
    request = job.request
    drafts = sorted({row.draft for row in job.prompts if row.draft is not None})
    guidance = None if request.guidance is None else repr(request.guidance)
    found = {
        "start": request.start and asdict(request.start),
        "times": request.times,
        "guidance": guidance,
        "max_nfe": request.max_nfe,
        "watermark": request.watermark and f"{request.watermark.name}, {request.watermark}",
    }
    return {name: value for name, value in {**found, "drafts": drafts}.items() if value}


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
    """Hash the names, shapes and types of all weights, and up to 64 values of each.

    Of weights that `fully_shard` shards the values are those of the rank's own shard.
    """
    found = hashlib.blake2b(digest_size=8)
    weights = {} if denoiser.module is None else denoiser.module.state_dict()
    for name, weight in weights.items():
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        for part in plain_parts(weight):
            if part.numel():
                values = part.reshape(-1)[:: -(-part.numel() // SAMPLED_VALUES)]
                found.update(values.double().cpu().numpy().tobytes())
    return found.hexdigest()


def contents_digest(denoiser: Denoiser) -> str:
    """Hash the names, shapes and types of all weights, and every bit of them, on their device."""
    found = hashlib.blake2b(digest_size=8)
    weights = {} if denoiser.module is None else denoiser.module.state_dict()
    for name, weight in weights.items():
        sums = [checksum(part) for part in plain_parts(weight)]
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype} {sums}".encode())
    return found.hexdigest()


def checksum(values: Tensor) -> int:
    """Return a number of 64 bits that any change of one value changes, and of order as well.

        c = sum over runs r of m^(R - r) * sum over places i of w_{r,i} k_i   mod 2^64

    with the words w of the values, which are whole numbers, and odd m and k_i; so the sum is exact
    in any order and on any device, at the speed of the memory.
    """
    words = values.detach().reshape(-1)
    if words.is_complex():
        words = torch.view_as_real(words).reshape(-1)
    words = words.view(WORDS[words.element_size()])
    run = min(RUN, max(words.numel(), 1))
    odd = torch.arange(1, run + 1, device=words.device) * MULTIPLIER | 1
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for start in range(0, words.numel(), run):
        part = words[start : start + run].to(torch.int64)
        total = total * MULTIPLIER + (part * odd[: len(part)]).sum()
    return int(total.item())
