"""One contract for all samplers: `replay` gives what was sampled, or refuses the run by its name.

Also: torch's default dtype has no say in tokens or log-probabilities.
"""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from torch import Tensor

from dlm_sampling import Rollout, replay, samplers
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.types import Drawn, TokenLaw
from tests.test_contract import CountingToy, canvas, denoiser, made, on_every_noise

LAWS = (TokenLaw(), TokenLaw(0.7, top_p=0.8, suppressed=(2,)))
REFUSED = {
    ("diffusion-gemma", "uniform"),  # two draws per step, renoised where the entropy says so
    ("gillespie", "uniform"),  # positions by the rates of the model
    ("picard", "absorbing"),
    ("picard", "matrix"),
    ("picard", "uniform"),  # many steps at once, drawn again until nothing changes
    ("planned", "uniform"),
    ("planned-adaptive", "uniform"),
    ("planned-gillespie", "uniform"),
    ("planned-greedy", "uniform"),  # positions by a planner
    ("planned-self", "absorbing"),
    ("rdm", "uniform"),
    ("rdm-conditional", "uniform"),  # positions by confidence, the rest fresh noise
    ("theta-rk2", "absorbing"),
    ("theta-rk2", "matrix"),
    ("theta-rk2", "uniform"),  # the canvas of stage 1 is no part of the record
}


@cache
def sampled(name: str, kind: str, law: TokenLaw, block: int | None = None) -> SampleOutput:
    tokens, editable, attention = canvas([([], 6), ([1, 2], 5), ([4], 3)] * 2)
    return sample(
        denoiser(CountingToy(), kind), made(name), tokens, editable, law=law,
        attention_mask=attention, seeds=range(len(tokens)), return_trajectory=True, steps=4,
        block_length=block,
    )  # fmt: skip


def drawn_in_all_steps(out: SampleOutput, kind: str) -> Tensor:
    """Sum of what the events say, over all tokens drawn."""
    assert out.trajectory is not None
    total = torch.zeros(len(out.tokens)).double()
    for event in out.trajectory.events:
        still = event.unknown if kind == "absorbing" else torch.zeros_like(event.unknown)
        total[event.rows] += event.logprob.masked_fill(still, 0.0).sum(1).double()
    return total


@on_every_noise
def test_replay_is_what_was_sampled_or_is_refused_by_name(name: str, kind: str) -> None:
    refused = (name, kind) in REFUSED
    for law, block in zip(LAWS[: 1 if refused else 2], (None, 4), strict=False):
        out = sampled(name, kind, law, block)
        toy, rollout = denoiser(CountingToy(), kind), Rollout.from_output(out)
        if refused:
            known = re.escape(type(samplers.create(name)).__name__)
            with pytest.raises(ValueError, match=f"run was sampled by {known}, "):
                replay(toy, out)
            continue
        found, total = replay(toy, out), drawn_in_all_steps(out, kind)
        assert (found.logprob - out.logprob).abs().max() < 1e-5
        assert (found.total - total).abs().max() < 1e-4
        assert bool((found.total < -0.2).all())
        assert rollout.step_logprob.shape == found.step_logprob.shape
        assert (rollout.step_logprob - found.step_logprob).abs().max() < 1e-4
        assert torch.equal(rollout.tokens, out.tokens)
        assert (rollout.logprob - out.logprob).abs().max() < 1e-6
        if block is None:
            continue
        # A rollout says the same, its rows in any order and any company.
        order = torch.tensor([4, 0, 5, 1])
        mixed = replay(toy, rollout.select(order), batch_size=2)
        assert (mixed.logprob - found.logprob[order]).abs().max() < 1e-5
        assert (mixed.total - rollout.total[order]).abs().max() < 1e-4


@on_every_noise
def test_a_rollout_holds_every_step(name: str, kind: str) -> None:
    """Canvases, positions and log-probabilities are rebuilt from the changes alone."""
    out = sampled(name, kind, LAWS[0])
    assert out.trajectory is not None
    rebuilt = list(Rollout.from_output(out).events())
    assert len(rebuilt) == len(out.trajectory.events)
    for event, wanted in zip(rebuilt, out.trajectory.events, strict=True):
        for field in ("rows", "before", "tokens", "unknown", "written", "block", "step", "drawn"):
            assert torch.equal(getattr(event, field), getattr(wanted, field)), field
        new = wanted.written
        assert (event.logprob - wanted.logprob)[new].abs().sum() == 0.0


@on_every_noise
def test_events_say_how_every_written_token_was_drawn(name: str, kind: str) -> None:
    out = sampled(name, kind, LAWS[0])
    assert out.trajectory is not None
    for event in out.trajectory.events:
        assert event.drawn is not None
        assert torch.equal(event.drawn != Drawn.NOT, event.written)
        certain = (event.drawn == Drawn.ARGMAX) & ~event.unknown
        assert bool((event.logprob[certain] == 0.0).all())


@on_every_noise
def test_the_default_dtype_has_no_say(name: str, kind: str) -> None:
    first = sampled(name, kind, LAWS[0])
    torch.set_default_dtype(torch.bfloat16)
    try:
        second = sampled.__wrapped__(name, kind, LAWS[0])
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.logprob, second.logprob)
    assert first.logprob.dtype == second.logprob.dtype == torch.float32
