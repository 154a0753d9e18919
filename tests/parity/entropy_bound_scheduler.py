"""`EntropyBoundScheduler` in its pipeline: accepted positions at given steps of the schedule."""

from __future__ import annotations

from typing import Any

import torch

from dlm_sampling.samplers.diffusion_gemma import DiffusionGemma
from dlm_sampling.testing import FixtureToy
from dlm_sampling.types import Clock
from tests.parity.common import Replay, toy_of
from tests.parity.entropy_bound_accept_canvas import candidates


def run(case: dict[str, Any], toys: dict[str, FixtureToy]) -> Replay:
    """Replay one case."""
    args = case["args"]
    rule = DiffusionGemma(args["entropy_bound"], args["t_max"], args["t_min"])
    canvas = torch.tensor(case["inputs"]["logits_canvas"])
    accepted: list[list[list[int]]] = []
    for step in args["timesteps"]:
        clock = Clock(torch.tensor([step]), torch.tensor([args["num_inference_steps"]]))
        draw = candidates(toy_of(case, toys), canvas, float(rule.temperature(clock)[0]))
        accepted.append(rule.accept(draw.entropy, torch.ones_like(canvas).bool()).long().tolist())
    return Replay([], [], case["nfe"], {"accepted_index": accepted})
