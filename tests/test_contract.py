"""One contract for every registered sampler, under every kind of noise that it runs on.

A new sampler is covered by its registry entry.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers
from dlm_sampling.denoisers import wrap
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.processes import Absorbing, RateMatrix, Uniform
from dlm_sampling.processes.matrices import uniform_rates
from dlm_sampling.samplers import SamplerBase
from dlm_sampling.schedules import LogLinear
from dlm_sampling.types import Process

VOCAB, MASK, WIDTH = 13, 12, 16
PROCESSES: dict[str, Process] = {
    "absorbing": Absorbing(MASK),
    "uniform": Uniform(),
    "matrix": RateMatrix(uniform_rates(VOCAB)),
}
CASES = [
    (name, kind) for name, entry in sorted(samplers.available().items()) for kind in entry.runs_on
]
# The tests of one case run one after another, in one worker: they share runs that are kept below.
on_every_noise = pytest.mark.parametrize(("name", "kind"), CASES, scope="module")


# Fields with which a slow sampler takes fewer steps; what a contract says does not depend on them.
FEWER_STEPS: dict[str, dict[str, Any]] = {
    "gillespie": {"schedule": LogLinear(0.2), "t_end": 0.75},
    "planned-gillespie": {"t_end": 0.75},
    "remdm-llada": {"loop_steps": 3},
    "uniformization": {"schedule": LogLinear(0.2), "t_end": 0.75},
}


def made(name: str) -> SamplerBase[Any]:
    """Make a sampler with its defaults, or with fewer steps."""
    return samplers.create(name, **FEWER_STEPS.get(name, {}))


class CountingToy:
    """Logits that depend on every real token and on their row-relative place; counts its rows."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.e = torch.randn(VOCAB, VOCAB, generator=generator, dtype=torch.float32)
        self.p = torch.randn(4 * WIDTH, VOCAB, generator=generator, dtype=torch.float32)
        self.calls: list[int] = []

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.calls.append(len(input_ids))
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        place = (keep.cumsum(1) - 1).clamp_min(0)
        e = self.e[input_ids] * keep.unsqueeze(2)
        mean = e.sum(1, keepdim=True) / keep.sum(1)[:, None, None]
        before = torch.roll(e, 1, dims=1) * (place > 0).unsqueeze(2)
        return self.p[place] + mean + 0.5 * before


def denoiser(toy: CountingToy, kind: str = "absorbing") -> Any:
    process = PROCESSES[kind]
    found = wrap(
        toy,
        vocab_size=VOCAB,
        mask_token_id=process.mask_token_id,
        process=process,
        honours_padding=True,
    )
    found.padding_proven = True  # the proof is a pass of its own, which no row is charged for
    return found


def canvas(
    rows: list[tuple[list[int], int]], width: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Left-padded tokens, editable and attention of (prompt, new tokens) rows."""
    width = width or max(len(p) + n for p, n in rows)
    tokens = torch.full((len(rows), width), 3)
    editable, attention = torch.zeros(len(rows), width).bool(), torch.zeros(len(rows), width).bool()
    for b, (prompt, new) in enumerate(rows):
        first = width - len(prompt) - new
        tokens[b, first : first + len(prompt)] = torch.tensor(prompt)
        editable[b, width - new :] = True
        attention[b, first:] = True
    return tokens, editable, attention


RAGGED = [([1, 2, 3, 4, 5], 7), ([7], 7), ([MASK, 2], 6), ([4, 4, 4], 4)]
SEEDS = [1, 2, 3, 4]
EMPTY: tuple[list[int], int] = ([1, 2, 3], 0)
STEPS = 4  # two in each block


def run(
    name: str,
    rows: list[tuple[list[int], int]],
    seeds: list[int],
    kind: str,
    toy: CountingToy | None = None,
    **options: Any,
) -> SampleOutput:
    tokens, editable, attention = canvas(rows, options.pop("width", None))
    options = {"steps": STEPS, "block_length": 4, **options}
    return sample(
        denoiser(toy or CountingToy(), kind),
        made(name),
        tokens,
        editable,
        attention_mask=attention,
        seeds=seeds,
        **options,
    )


@cache
def standard(name: str, kind: str) -> tuple[SampleOutput, int]:
    """The run that several tests look at, and how many rows its forward passes had together."""
    toy = CountingToy()
    out = run(name, RAGGED, SEEDS, kind, toy=toy, return_trajectory=True)
    return out, sum(toy.calls)


@cache
def warm(name: str, kind: str) -> SampleOutput:
    """The same rows and seeds at a temperature at which no rule is greedy."""
    return run(name, RAGGED, SEEDS, kind, **warmth(name))


def warmth(name: str) -> dict[str, Any]:
    return {"law": made(name).law.__class__(temperature=0.8)}


@cache
def turned(name: str, kind: str) -> SampleOutput:
    """The warm rows, last first and behind more padding; again with other seeds; an empty row."""
    rows, seeds = [*RAGGED[::-1], *RAGGED, EMPTY], [*SEEDS[::-1], 5, 6, 7, 8, 9]
    return run(name, rows, seeds, kind, width=WIDTH, **warmth(name))


@cache
def one_by_one(name: str, kind: str) -> SampleOutput:
    return run(name, RAGGED[3:], SEEDS[3:], kind, block_length=None, steps=None)


@cache
def one_block(name: str, kind: str) -> SampleOutput:
    return run(name, RAGGED, SEEDS, kind, block_length=None)


@on_every_noise
def test_fixed_positions_stay_and_no_mask_is_left(name: str, kind: str) -> None:
    # At once; blocks of 5 and 1, and 5 steps for the row of 4 positions.
    plans = ((RAGGED, 1, None), (RAGGED[2:], 5, 5))
    runs = [
        (rows, run(name, rows, SEEDS[: len(rows)], kind, steps=steps, block_length=block))
        for rows, steps, block in plans
    ]
    runs += [(RAGGED, standard(name, kind)[0]), (RAGGED, one_block(name, kind))]
    runs += [(RAGGED[3:], one_by_one(name, kind))]
    for rows, out in runs:
        tokens, editable, _ = canvas(rows)
        assert torch.equal(out.tokens[~editable], tokens[~editable])
        if kind == "absorbing":
            assert not bool((out.tokens == MASK)[editable].any())
        assert bool(((out.tokens >= 0) & (out.tokens < VOCAB)).all())
        assert bool((out.logprob[~editable] == 0).all())
        assert bool((out.logprob <= 1e-6).all())


@on_every_noise
def test_another_seed_differs(name: str, kind: str) -> None:
    first, other = warm(name, kind), turned(name, kind)
    again = other.tokens[len(RAGGED) : -1, -first.tokens.shape[1] :]
    assert not torch.equal(first.tokens, again)


@on_every_noise
def test_a_seed_repeats_whatever_the_batch_and_the_padding(name: str, kind: str) -> None:
    """Ragged prompts equal single prompts, in tokens, log-probabilities, NFE and steps."""
    together, among, options = warm(name, kind), turned(name, kind), warmth(name)
    for b, row in enumerate(RAGGED):
        length = len(row[0]) + row[1]
        alone = run(name, [row], [b + 1], kind, **options)
        for out, index in ((together, b), (among, len(RAGGED) - 1 - b)):
            assert torch.equal(out.tokens[index, -length:], alone.tokens[0])
            torch.testing.assert_close(
                out.logprob[index, -length:], alone.logprob[0], atol=1e-5, rtol=0
            )
            assert int(out.nfe[index]) == int(alone.nfe[0])
            assert int(out.steps[index]) == int(alone.steps[0])


@on_every_noise
def test_nfe_is_the_number_of_forward_passes(name: str, kind: str) -> None:
    out, rows = standard(name, kind)
    assert int(out.nfe.sum()) == rows
    assert bool((out.nfe >= 1).all())


@on_every_noise
def test_nfe_stays_within_the_declared_schedule(name: str, kind: str) -> None:
    """One block of S steps takes at most schedule_length(S) forwards; every_step takes all."""
    sampler = made(name)
    limit, out = sampler.schedule_length(STEPS), one_block(name, kind)
    if limit is None:
        most = sampler.patience(1) if kind == "uniform" else 4 * sampler.passes_per_step
        assert bool((out.nfe <= torch.tensor([n for _, n in RAGGED]) * most).all())
        return
    assert bool((out.nfe <= limit).all())
    full = run(name, RAGGED, SEEDS, kind, block_length=None, every_step=True)
    assert bool((full.steps == limit).all())


@on_every_noise
def test_a_run_repeats_to_the_bit_and_leaves_the_global_generators(name: str, kind: str) -> None:
    import random

    import numpy as np

    first = one_by_one(name, kind)
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    again = one_by_one.__wrapped__(name, kind)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.logprob, again.logprob)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()


@on_every_noise
def test_rows_with_nothing_to_write_cost_nothing(name: str, kind: str) -> None:
    out = turned(name, kind)
    assert out.nfe[-1] == 0
    assert out.steps[-1] == 0
    assert bool((out.nfe[:-1] >= 1).all())
    assert torch.equal(out.tokens[-1, -len(EMPTY[0]) :], torch.tensor(EMPTY[0]))


@on_every_noise
def test_infilling_keeps_its_context(name: str, kind: str) -> None:
    tokens = torch.tensor([[1, 2, MASK, 4, 5, MASK, MASK, 8, 9, MASK]])
    editable = torch.zeros_like(tokens, dtype=torch.bool)
    editable[0, [2, 5, 6]] = True  # the last mask is part of the prompt
    for block in (None, 2):
        out = sample(
            denoiser(CountingToy(), kind),
            made(name),
            tokens,
            editable,
            seeds=[3],
            steps=2,
            block_length=block,
        )
        assert torch.equal(out.tokens[~editable], tokens[~editable])
        if kind == "absorbing":
            assert not bool((out.tokens[editable] == MASK).any())


@on_every_noise
def test_the_trajectory_adds_up(name: str, kind: str) -> None:
    out, _ = standard(name, kind)
    assert out.trajectory is not None
    for b in range(len(RAGGED)):
        steps = out.trajectory.steps(b)
        assert len(steps) == int(out.steps[b])
        assert torch.equal(steps[-1][0].tokens[steps[-1][1]], out.tokens[b])
        seen = len(out.trajectory.canvases(b, forwards_only=True))
        assert seen <= int(out.nfe[b]) <= seen * made(name).passes_per_step
        for (left, i), (right, j) in itertools.pairwise(steps):
            assert torch.equal(left.tokens[i], right.before[j])
        for event, i in steps:
            changed = event.tokens[i] != event.before[i]
            assert bool((event.written[i] | ~changed).all())


@pytest.mark.parametrize("name", sorted(samplers.available()))
def test_the_registry_describes_it(name: str) -> None:
    entry = samplers.available()[name]
    assert entry.summary.endswith(".")
    assert "arXiv" in entry.paper or "github" in entry.paper.lower()
    assert entry.nfe
    with pytest.raises(TypeError, match="no_such_field"):
        samplers.create(name, no_such_field=1)
