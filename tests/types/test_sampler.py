"""The contract of a sampler: `SamplerBase` has every member, with the default that it names."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import torch

from dlm_sampling import processes, schedules
from dlm_sampling.samplers import SamplerBase
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Sampler, Step, TokenLaw


@dataclass(frozen=True)
class Stays(SamplerBase[None]):
    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        zero = torch.zeros(canvas.tokens.shape)
        return None, Step(canvas.tokens, canvas.unknown, zero)


MEMBERS = {name: value for name, value in vars(Sampler).items() if not name.startswith("_")}
TOKENS = torch.tensor([[3, 3, 1]])
CANVAS = Canvas(TOKENS, TOKENS == 3, TOKENS == 3, torch.tensor([0]), 3)
CLOCK = Clock(torch.tensor([0]), torch.tensor([2]))


def test_the_base_has_every_member_but_step_and_no_other_that_the_loop_could_read() -> None:
    assert {name for name in MEMBERS if not hasattr(SamplerBase, name)} == set()
    assert SamplerBase.__abstractmethods__ == {"step"}


def test_every_member_names_its_default() -> None:
    for name, member in MEMBERS.items():
        text = inspect.getdoc(member) or ""
        found = re.search("No default" if name == "step" else r"Default:\s", text)
        assert found, f"Sampler.{name} names no default"


def test_the_defaults_are_those_that_the_contract_names() -> None:
    sampler: Sampler[Any] = Stays()
    assert sampler.law == TokenLaw()
    assert sampler.runs_on == ("absorbing",)
    assert sampler.recorded_on == ("absorbing", "uniform")
    assert sampler.schedule == schedules.LINEAR
    assert (sampler.looks_ahead, sampler.revises, sampler.exact) == (False, False, True)
    assert sampler.constrainable
    assert (sampler.own_steps, sampler.passes_per_step) == (None, 1)
    assert sampler.schedule_length(7) == 7
    assert sampler.patience(10) == 4 * 10 + 64
    assert sampler.init(CANVAS) is None
    assert sampler.finished(None, CANVAS, CLOCK) is None
    masks, uniform = processes.Absorbing(3), processes.Uniform()
    assert sampler.canvas_process(masks) is masks
    assert sampler.canvas_process(uniform) is None
