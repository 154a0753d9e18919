"""One contract for all samplers: `replay` gives what was sampled, or refuses the run by its name.

Also: torch's default dtype has no say in tokens or log-probabilities.
"""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch

from dlm_sampling import Rollout, replay, samplers
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.types import Drawn, TokenLaw
from tests.test_contract import CASES, CountingToy, canvas, denoiser, made, on_every_noise

LAWS = (TokenLaw(), TokenLaw(0.7, top_p=0.8, suppressed=(2,)))
REFUSED = {  # on masks; the others can be replayed there
    "ccd-average",
    "dinfer-credit",
    "first-hitting-correction",
    "first-hitting-extrapolation",
    "glauber",
    "picard",
    "planned-self",
    "theta-rk2",
    "theta-trapezoidal",
}
"""Means over steps, laws that are moved, several stages, sweeps of steps, second rounds."""


@cache
def sampled(name: str, kind: str, law: TokenLaw, block: int | None = None) -> SampleOutput:
    tokens, editable, attention = canvas([([], 9), ([1, 2], 7), ([4], 5)] * 2)
    return sample(
        denoiser(CountingToy(), kind), made(name), tokens, editable, law=law,
        attention_mask=attention, seeds=range(len(tokens)), return_trajectory=True, steps=6,
        block_length=block,
    )  # fmt: skip


@on_every_noise
def test_replay_is_what_was_sampled_or_is_refused_by_name(name: str, kind: str) -> None:
    refused = kind != "absorbing" or name in REFUSED
    for law, block in zip(LAWS[: 1 if refused else 2], (None, 4), strict=False):
        out = sampled(name, kind, law, block)
        assert out.trajectory is not None
        toy = denoiser(CountingToy(), kind)
        if refused:
            known = re.escape(type(samplers.create(name)).__name__)
            with pytest.raises(ValueError, match=f"run was sampled by {known}, which drew"):
                replay(toy, out, law=law)
            continue
        found, total = replay(toy, out, law=law), torch.zeros(len(out.tokens)).double()
        assert (found.logprob - out.logprob).abs().max() < 1e-5
        for event in out.trajectory.events:
            new = event.written & ~event.unknown
            total[event.rows] += (event.logprob * new).sum(1).double()
        assert (found.total - total).abs().max() < 1e-4
        assert bool((found.total < -1.0).all())


@pytest.mark.parametrize("name", [n for n, kind in CASES if kind == "absorbing"])
def test_a_rollout_scores_as_the_run_does(name: str) -> None:
    """A sampler that writes no token twice; the others have no such form."""
    law = LAWS[0]
    out = sampled(name, "absorbing", law)
    try:
        rollout = Rollout.from_output(out)
    except ValueError as error:
        assert re.search("more than once|run was sampled by", str(error))
        return
    assert name not in REFUSED
    found = replay(denoiser(CountingToy()), rollout, law=law)
    assert (found.logprob - out.logprob).abs().max() < 1e-5


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
