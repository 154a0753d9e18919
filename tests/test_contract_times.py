"""One contract for all samplers on masks: what a time-conditioned network is told.

That is the time at which its own alpha is the share of clean tokens on the canvas that it is shown.
A sampler of a process tells the time of the process, around which the share is scattered; any other
tells the share itself.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers
from dlm_sampling.denoisers import Denoiser, wrap
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.likelihood.elbo import elbo
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.schedules import LINEAR, LOG_LINEAR, Cosine, Geometric, HalfCosine
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Schedule, Step, TokenLaw
from tests.test_contract import MASK, VOCAB, CountingToy, canvas

LENGTH, ROWS, STEPS = 64, 4, 20
OURS = [n for n, e in sorted(samplers.available().items()) if "absorbing" in e.runs_on]
GUESSES = "picard"  # it shows guesses of later canvases, with the times that those will have


class Told(CountingToy):
    """The toy of the contract, which keeps the canvases and the times that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.p = torch.randn(2 * LENGTH, VOCAB, generator=torch.Generator().manual_seed(1))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, t: Tensor
    ) -> Tensor:
        self.seen.append((input_ids.clone(), t.clone()))
        logits = super().__call__(input_ids, attention_mask)
        return logits * (0.5 + t.to(logits.dtype))[:, None, None]

    def errors(self, schedule: Schedule, width: int = LENGTH) -> Tensor:
        """Share of masks in the last `width` columns less 1 - alpha(told t), one per canvas."""
        parts = [
            (x[:, -width:] == MASK).double().mean(1) - (1.0 - schedule.alpha(t))
            for x, t in self.seen
        ]
        return torch.cat(parts)


def timed(schedule: Schedule | None) -> tuple[Told, Denoiser]:
    told = Told()
    facts: dict[str, Any] = {"vocab_size": VOCAB, "mask_token_id": MASK, "honours_padding": True}
    return told, wrap(told, schedule=schedule, **facts)


def run(denoiser: Denoiser, sampler: Any, prompt: int = 0, **options: Any) -> SampleOutput:
    tokens = torch.full((ROWS, prompt + LENGTH), 3)
    editable = (torch.arange(prompt + LENGTH) >= prompt).expand_as(tokens)
    law = TokenLaw(temperature=0.9)
    given = {"steps": STEPS, "seeds": range(ROWS), "law": law, **options}
    return sample(denoiser, sampler, tokens, editable, **given)


@pytest.mark.parametrize("name", [n for n in OURS if n != GUESSES])
def test_the_time_says_how_much_is_masked(name: str) -> None:
    schedule, sampler = Geometric(), samplers.create(name)
    told, denoiser = timed(schedule)
    run(denoiser, sampler)
    errors = told.errors(schedule)
    if "schedule" in {field.name for field in fields(sampler)}:  # the time of a process
        assert errors.abs().mean() < 0.06, errors.abs().mean()
    else:
        assert errors.abs().max() < 1.01e-3, errors.abs().max()  # alpha(0) is 0.999


@pytest.mark.parametrize("schedule", [LINEAR, LOG_LINEAR, Cosine(0.0), HalfCosine(), None], ids=str)
@pytest.mark.parametrize("name", ["llada", "remdm-loop", "ancestral"])
def test_on_any_schedule(name: str, schedule: Schedule | None) -> None:
    """A network that states none counts time as the share of noise."""
    told, denoiser = timed(schedule)
    run(denoiser, samplers.create(name))
    errors = told.errors(LINEAR if schedule is None else schedule).abs()
    assert errors.mean() < (0.05 if name == "ancestral" else 1.01e-3)


@pytest.mark.parametrize("name", ["llada", "remdm-loop", "first-hitting", "ancestral"])
def test_other_blocks_are_counted_and_prompts_are_not(name: str) -> None:
    """Later blocks are masks that the network sees; within the block alone t falls to 0 each time.

    With causal blocks it sees none of them, and the time is that of the block.
    """
    schedule = Cosine(0.0)
    told, denoiser = timed(schedule)
    run(denoiser, samplers.create(name), prompt=20, block_length=16)
    errors = told.errors(schedule).abs()
    assert errors.mean() < 0.06
    assert "schedule" in samplers.available()[name].parameters or errors.max() < 1e-9
    told, denoiser = timed(schedule)
    run(denoiser, samplers.create(name), prompt=20, block_length=16, causal_blocks=True)
    shares = [(x[:, -16:] == MASK).double().mean(1) for x, _ in told.seen]
    found = [1.0 - schedule.alpha(t) for _, t in told.seen]
    assert (torch.cat(shares) - torch.cat(found)).abs().mean() < 0.13


@pytest.mark.parametrize("name", ["llada", "ancestral", "theta-trapezoidal"])
def test_a_row_is_told_the_same_alone_and_among_longer_ones(name: str) -> None:
    """Also where others have more blocks: the tokens are those of the row alone, bit for bit."""
    rows = [([1, 2], 14), ([7], 4), ([], 9)]
    for schedule in (LOG_LINEAR, Cosine(0.0)):
        options: dict[str, Any] = {"steps": 7, "block_length": 4, "law": TokenLaw()}
        tokens, editable, attention = canvas(rows)
        together = sample(
            timed(schedule)[1], samplers.create(name), tokens, editable, attention_mask=attention,
            seeds=[1, 2, 3], **options,
        )  # fmt: skip
        for b, row in enumerate(rows):
            tokens, editable, attention = canvas([row])
            alone = sample(
                timed(schedule)[1], samplers.create(name), tokens, editable,
                attention_mask=attention, seeds=[b + 1], **options,
            )  # fmt: skip
            assert torch.equal(together.tokens[b, -len(tokens[0]) :], alone.tokens[0])


def test_a_bound_of_the_likelihood_and_a_sampler_are_told_alike() -> None:
    """What is trained by `elbo` and what samples meet the same times: one per number of masks."""

    def times(told: Told) -> dict[int, float]:
        pairs = [
            (int((x == MASK).sum()), float(s))
            for xs, t in told.seen
            for x, s in zip(xs, t, strict=True)
        ]
        found = dict(pairs)
        assert all(abs(time - found[masks]) < 1e-12 for masks, time in pairs)
        return found

    told, denoiser = timed(Cosine())
    out = run(denoiser, samplers.LLaDA(), steps=LENGTH)
    sampled = times(told)
    told.seen.clear()
    elbo(denoiser, out.tokens, editable=torch.ones_like(out.tokens).bool(), n=16, seed=0)
    scored = times(told)
    assert len(sampled) == LENGTH and len(scored) > LENGTH / 3
    for masks, time in scored.items():
        assert time == pytest.approx(sampled[masks], abs=1e-12)


@dataclass(frozen=True)
class Half(SamplerBase[None]):
    """Writes the first half of the canvas only, so that the loop has to fill the rest."""

    schedule: Schedule = HalfCosine()  # noqa: RUF009

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        first = canvas.editable & (torch.arange(LENGTH) < LENGTH // 2)
        tokens = canvas.tokens.masked_fill(first, 1)
        return None, Step(tokens, canvas.unknown & ~first, torch.zeros(tokens.shape))


def test_the_fill_of_an_unfinished_block_is_told_its_share() -> None:
    told, denoiser = timed(Cosine(0.0))
    run(denoiser, Half(), steps=2)
    assert len(told.seen) == 1
    assert told.errors(Cosine(0.0)).abs().max() < 1e-9
