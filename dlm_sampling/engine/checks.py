"""Check the canvases of a call once, and move them to the denoiser's device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import index
from typing import SupportsIndex

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import Canvases
from dlm_sampling.errors import named


def check_denoiser(denoiser: object) -> None:
    """Refuse a model that is no denoiser.

    Raises:
        TypeError: it is something else, such as a bare network.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"denoiser is {named(denoiser)}: must be a Denoiser, from AutoDenoiser.from_pretrained "
            "or, around a network of your own, wrap(...)."
        )


def _check_tensors(**given: object) -> None:
    """Refuse canvases that are no tensors."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            text = isinstance(value, str | Mapping)  # or what a tokenizer makes of one
            hint = ", for a text tokenizer(text, return_tensors='pt')[\"input_ids\"]" * text
            raise TypeError(f"{name} is {named(value)}: must be a tensor [batch, length]{hint}.")


def written_positions(tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the positions that are no padding, bool [B, L], where a caller names none.

    Raises:
        TypeError: an argument is no tensor.
    """
    if attention_mask is None:
        _check_tensors(tokens=tokens)
        return torch.ones_like(tokens, dtype=torch.bool)
    _check_tensors(tokens=tokens, attention_mask=attention_mask)
    return attention_mask.bool()


def check_canvases(
    denoiser: Denoiser,
    tokens: Tensor,
    editable: Tensor,
    attention_mask: Tensor | None,
    seeds: Iterable[SupportsIndex] | None,
) -> Canvases:
    """Check shapes, dtypes and token ids, and move the canvases to the denoiser's device.

    Args:
        denoiser: the model.
        tokens: integers [B, L]; values at editable positions are ignored.
        editable: bool [B, L].
        attention_mask: bool or 0 and 1 [B, L], or None for no padding.
        seeds: one per row; None for canvases that are scored and not sampled.

    Raises:
        TypeError: seeds are not whole numbers, or the canvases are no tensors.
        ValueError: shapes do not match, tokens are not integers, or a fixed token is outside the
            vocabulary.
    """
    _check_tensors(tokens=tokens, editable=editable)
    if attention_mask is not None:
        _check_tensors(attention_mask=attention_mask)
    if tokens.ndim != 2 or editable.shape != tokens.shape:
        raise ValueError(
            f"tokens {tuple(tokens.shape)} and editable {tuple(editable.shape)}: both must "
            "be [batch, length]."
        )
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens are {tokens.dtype}: must be token ids, int64 [batch, length].")
    listed = listed_seeds(range(len(tokens)) if seeds is None else seeds)
    if len(listed) != len(tokens):
        raise ValueError(
            f"seeds has {len(listed)} entries for {len(tokens)} rows: give one per row."
        )
    if attention_mask is not None and attention_mask.shape != tokens.shape:
        raise ValueError(
            f"attention_mask {tuple(attention_mask.shape)}: must be {tuple(tokens.shape)} "
            "like tokens."
        )
    device = denoiser.device
    attention = (
        torch.ones_like(tokens, dtype=torch.bool)
        if attention_mask is None
        else attention_mask.bool()
    )
    tokens, editable = tokens.to(device, torch.int64), editable.to(device, torch.bool)
    attention = attention.to(device)
    check_ids(denoiser, tokens, attention & ~editable)
    may_stop = torch.ones(len(tokens), dtype=torch.bool, device=device)
    return Canvases(tokens, editable, attention, listed, may_stop)


def listed_seeds(seeds: Iterable[SupportsIndex]) -> tuple[int, ...]:
    """Return the seeds as Python numbers, whatever list, range, array or tensor held them.

    Raises:
        TypeError: they are not whole numbers.
    """
    try:
        return tuple(index(seed) for seed in seeds)
    except TypeError:
        raise TypeError(
            f"seeds={seeds!r}: must be whole numbers, one per row, such as seeds=[0, 1]."
        ) from None


def check_ids(denoiser: Denoiser, tokens: Tensor, where: Tensor) -> None:
    """Check that the tokens at `where` (bool [B, L]) are inside the model's vocabulary.

    Raises:
        ValueError: one is not; the message names the first.
    """
    bad = where & ((tokens < 0) | (tokens >= denoiser.vocab_size))
    if bool(bad.any()):
        row, position = (int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"tokens[{row}, {position}] is {int(tokens[row, position])}: must be an id in "
            f"[0, {denoiser.vocab_size}); were they made with this model's tokenizer?"
        )
