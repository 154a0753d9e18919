"""`EntropyBoundSampler.accept_canvas`: accepted positions take the argmax, others stay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.samplers.diffusion_gemma import DiffusionGemma
from dlm_sampling.testing import FixtureToy
from dlm_sampling.types import DrawRecord, TokenLaw
from tests.parity.common import Replay, toy_of


def candidates(toy: FixtureToy, canvas: Tensor, temperature: float) -> DrawRecord:
    """Argmax and entropy of the tempered law at every position, [B, L]."""
    logits = (toy.logits(canvas) / temperature).flatten(0, 1)
    zeros = torch.zeros(len(logits), dtype=torch.int64)
    flat = ops.draw(logits, keys=zeros, positions=zeros, steps=zeros, law=TokenLaw(temperature=0.0))
    return DrawRecord(*(value.view(canvas.shape) for value in flat))


def run(case: dict[str, Any], toys: dict[str, FixtureToy]) -> Replay:
    """Replay one case."""
    rule, toy = DiffusionGemma(case["args"]["entropy_bound"]), toy_of(case, toys)
    canvas = torch.tensor(case["inputs"]["logits_canvas"])
    seen: list[Tensor] = []
    accepted: list[Tensor] = []
    for temperature in case["args"]["temperatures"][: case["args"]["num_steps"]]:
        seen.append(canvas)
        draw = candidates(toy, canvas, temperature)
        accepted.append(rule.accept(draw.entropy, torch.ones_like(canvas).bool()))
        canvas = torch.where(accepted[-1], draw.token, canvas)
    expect = {"accepted_index": torch.stack(accepted).long().tolist()}
    return Replay(torch.stack(seen).tolist(), canvas.tolist(), len(seen), expect)
