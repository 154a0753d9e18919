"""Run a network once, without dropout, and prove that it honours padding where it says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.modes import evaluating
from dlm_sampling.errors import SamplingWarning
from dlm_sampling.types import DenoiserOutput, Pass
from dlm_sampling.types.rows import select_rows

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest difference of logits that counts as rounding, in units of their standard deviation."""
HALF_TOLERANCE = 0.1


def run_quietly(denoiser: Denoiser, inputs: Pass) -> DenoiserOutput:
    """Run one forward pass in evaluation mode, and give the network its mode back (NFE 1)."""
    with evaluating(denoiser.module):
        output = denoiser.forward(inputs)
    head = output.head
    if isinstance(head, nn.Module) and any(head.children()):
        return output._replace(head=partial(apply_quietly, head))
    return output


def runner(denoiser: Denoiser) -> Callable[[Pass], DenoiserOutput]:
    """Return the function that runs a forward pass: the denoiser's own where nothing trains."""
    if denoiser.module is not None:
        grad = torch.is_grad_enabled()
        for part in denoiser.module.modules():
            if part.training or (grad and vars(part).get("gradient_checkpointing")):
                return partial(run_quietly, denoiser)
    return denoiser.forward


def apply_quietly(head: nn.Module, values: Tensor) -> Tensor:
    """Apply an output head that has parts of its own, such as an adapter, in evaluation mode."""
    with evaluating(head):
        return head(values)


def prove_padding(denoiser: Denoiser, tokens: Tensor, attention: Tensor) -> None:
    """Prove that padding is honoured, on canvases int64 [B, L] about to be run, at time 1."""
    time = torch.ones(len(tokens), dtype=torch.float64, device=tokens.device)
    if not denoiser.padding_proven:
        prove_on_pass(denoiser, Pass(tokens, time, attention, time))


@torch.no_grad()
def prove_on_pass(denoiser: Denoiser, inputs: Pass) -> None:
    """Compare a padded row with the row alone, once per denoiser; neither pass is counted.

    Where they differ, `honours_padding` becomes False, so that rows of different padding run
    separately from now on, and a warning says so.

    Args:
        denoiser: its `padding_proven` becomes True.
        inputs: a pass with padding; its first padded row is the one that is compared.
    """
    attention = inputs.attention
    assert attention is not None
    padded = (~attention).any(1) & attention.any(1)
    if not denoiser.honours_padding or not bool(padded.any()):
        return
    denoiser.padding_proven = True
    row = padded.nonzero()[:1, 0]
    real = attention[row[0]]
    bare = inputs._replace(carry=None, columns=None, rows=None)
    whole = select_rows(bare, row)
    alone = whole._replace(tokens=whole.tokens[:, real], attention=None)
    run = runner(denoiser)
    together, single = (_logits(run(part)) for part in (whole, alone))
    together = together[:, real]
    gap = float((together - single).abs().nan_to_num().max())
    allowed = TOLERANCES.get(together.dtype, HALF_TOLERANCE) * max(
        1.0, float(single.nan_to_num(posinf=0.0, neginf=0.0).std())
    )
    if gap > allowed:
        denoiser.honours_padding = False
        warnings.warn(
            "attention_mask does not make a padded row equal to the row alone "
            f"({denoiser.family}): padding moves its logits by up to {gap:.1e}, as where the mask "
            "is not used, or positions count from the first column. Rows of different padding run "
            "separately from now on; honours_padding=False says so at once.",
            SamplingWarning,
            stacklevel=2,
        )


def _logits(output: DenoiserOutput) -> Tensor:
    """Return the logits of one row, [1, L, V]."""
    values: Any = output.values
    return values if output.head is None else output.head(values.flatten(0, 1))[None]
