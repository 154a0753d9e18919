"""P2 `p2_sampling` with tau 0 and score logP; a planner is fed the raw proposal, as released."""

from __future__ import annotations

from typing import Any

import torch

from dlm_sampling.samplers import P2
from dlm_sampling.testing import FixtureToy
from dlm_sampling.types import DenoiserOutput, Pass
from tests.parity.common import Replay, replay, toy_of


class Planner(FixtureToy):
    """A toy that counts its forwards: the fixture's NFE are those of the model."""

    calls = 0

    def forward(self, inputs: Pass) -> DenoiserOutput:
        self.calls += 1
        return super().forward(inputs)


def run(case: dict[str, Any], toys: dict[str, FixtureToy]) -> Replay:
    """Replay one case."""
    args, planner = case["args"], None
    if "planner_toy" in args:
        toy = toys[args["planner_toy"]]
        planner = Planner(
            toy.embedding, toy.positions, case["mask_id"], case["mask_logit"], dtype=torch.float64
        )
    ties = "released" if case["quirk"] else "exact"
    sampler = P2(args["kappa"], args["eta"], planner=planner, planner_input="proposal", ties=ties)
    got = replay(case, toy_of(case, toys), sampler, steps=args["num_steps"])
    return got._replace(nfe=got.nfe - (planner.calls if planner else 0))
