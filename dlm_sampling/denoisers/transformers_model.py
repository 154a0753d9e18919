"""Make a denoiser of a model of transformers that is loaded already."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.checkpoints.settings import listed_ids, setting
from dlm_sampling.denoisers.families.diffusion_gemma import DiffusionGemmaDenoiser
from dlm_sampling.denoisers.families.masked_lm import MaskedLMDenoiser
from dlm_sampling.denoisers.wrap import wrap
from dlm_sampling.errors import named

CANVAS = "diffusion_gemma"
"""Model type of the networks that revise a canvas of uniform noise behind a prompt."""


def denoiser_of(
    model: Any,
    *,
    mask_token_id: int | None = None,
    shifted: bool = False,
    generation_config: object = None,
) -> Denoiser:
    """Make a denoiser of a loaded model whose attention is bidirectional.

    One pass over two rows of two tokens, which NFE does not count, looks whether a token changes
    the logits of the position before it.

    Args:
        model: of transformers, or with its interface: `config`, and a forward whose output has
            `.logits` [B, L, V].
        mask_token_id: default: that of the generation config, else of the model's config.
        shifted: whether the logits at position i score token i + 1, as in Dream's own code.
        generation_config: gives special ids; default: the model's.

    Raises:
        ValueError: the mask id is unknown, or the model attends causally.
    """
    generation = generation_config
    if generation is None:
        generation = setting(model, "generation_config", object)
    sources: tuple[object, ...] = (generation, model.config)

    def first(name: str) -> int | None:
        return next((i for source in sources for i in listed_ids(source, name)), None)

    ends, pad = first("eos_token_id"), first("pad_token_id")
    if model.config.model_type == CANVAS:
        return DiffusionGemmaDenoiser(model, eos_token_id=ends, pad_token_id=pad)
    mask = first("mask_token_id") if mask_token_id is None else mask_token_id
    if mask is None:
        raise ValueError(
            "mask_token_id=None: neither the generation config nor the model's config says which "
            "token is the mask; give mask_token_id=, such as tokenizer.mask_token_id."
        )
    if is_causal(model, mask):
        raise ValueError(
            f"model is {named(model)} that attends causally: no token changes the logits "
            "before it. A diffusion sampler needs a bidirectional network, such as LLaDA, Dream or "
            "a masked language model (a BERT with is_decoder=False)."
        )
    if not shifted and "position_ids" in inspect.signature(model.forward).parameters:
        return MaskedLMDenoiser(model, mask_token_id=mask, eos_token_id=ends, pad_token_id=pad)
    return wrap(
        model,
        vocab_size=model.config.vocab_size,
        mask_token_id=mask,
        eos_token_id=ends,
        pad_token_id=pad,
        max_length=setting(model.config, "max_position_embeddings", int),
        shifted=shifted,
    )


@torch.no_grad()
def is_causal(model: Any, mask_token_id: int) -> bool:
    """Return whether the second of two tokens leaves the logits of the first as they are."""
    other = 0 if mask_token_id else 1
    rows = torch.tensor([[mask_token_id, mask_token_id], [mask_token_id, other]])
    first = model(input_ids=rows.to(model.device)).logits[:, 0]
    return torch.equal(first[0], first[1])
