"""Runs from a draft: its law by enumeration, what is kept, where clocks begin, and who may."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import generate, replay, sample, samplers, wrap
from dlm_sampling.engine.drafts import check_start, start_of, started
from dlm_sampling.engine.start import NO_TOKEN, Start
from dlm_sampling.likelihood.rollout import Rollout
from dlm_sampling.ops import Rng
from dlm_sampling.processes import Absorbing, RateMatrix, Uniform
from dlm_sampling.schedules import LOG_LINEAR
from dlm_sampling.testing import (
    EnumerableDenoiser,
    NoisyEnumerableDenoiser,
    all_states,
    chi_square,
    count_states,
)
from dlm_sampling.types import Canvas, Clock, TokenLaw

S, LENGTH, MASK = 3, 3, 3
JOINT = torch.rand(S, S, S, generator=torch.Generator().manual_seed(2), dtype=torch.float64) ** 3
JOINT /= JOINT.sum()
EXACT = EnumerableDenoiser(JOINT)
DRAFT = torch.tensor([2, 0, 1])
EVERY = samplers.available()


def draws(name: str, count: int, denoiser: Any = EXACT, **options: Any) -> Tensor:
    start = options.pop("start", DRAFT).expand(count, -1)
    fields = options.pop("fields", {})
    empty = torch.zeros(count, LENGTH, dtype=torch.int64)
    return sample(
        denoiser, samplers.create(name, **fields), empty, torch.ones_like(empty).bool(),
        seeds=range(count), start=start, **options,
    ).tokens  # fmt: skip


def renoised_law(alpha: float) -> Tensor:
    """Law of x0 when each token of the draft is masked with 1 - alpha and x0 follows P, [27]."""
    law = torch.zeros(S**LENGTH, dtype=torch.float64)
    states = all_states(LENGTH, S)
    for kept in all_states(LENGTH, 2).bool():
        fits = (states[:, kept] == DRAFT[kept]).all(1) * JOINT.flatten()
        weight = torch.where(kept, alpha, 1.0 - alpha).prod()
        law += weight * fits / fits.sum()
    return law


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("first-hitting", {}),
        ("gillespie", {}),
        ("llada-random", {"law": TokenLaw()}),
        ("ancestral", {"times": [0.6, *(0.6 * (1 - k / 60) for k in range(1, 60)), 0.0]}),
    ],
)
def test_a_renoised_draft_gives_the_posterior_of_what_is_left(
    name: str, options: dict[str, Any]
) -> None:
    """With exact conditionals and one token at a time the law is closed form, by enumeration."""
    if "times" not in options:
        options = {"t_start": 0.6, **options}
    else:
        options = {**options, "fields": {"noise_removal": "sample"}, "t_start": 0.6}
    count = 3000
    found = count_states(draws(name, count, **options), S)
    assert chi_square(found, renoised_law(0.4)).p > 1e-3


def test_gibbs_leaves_the_law_of_the_data_as_it_is() -> None:
    """Drafts drawn from P, two rounds of Glauber: the law stays P, and every draft is refined."""
    law, count = JOINT.flatten(), 3000
    g = torch.Generator().manual_seed(0)
    picked = torch.multinomial(law, count, replacement=True, generator=g)
    drafts = all_states(LENGTH, S)[picked]
    empty = torch.zeros(count, LENGTH, dtype=torch.int64)
    out = sample(
        EXACT, samplers.create("glauber"), empty, torch.ones_like(empty).bool(), steps=6,
        seeds=range(count), start=drafts,
    )  # fmt: skip
    assert chi_square(count_states(out.tokens, S), law).p > 1e-3
    one = sample(
        EXACT, samplers.create("glauber"), empty[:50], torch.ones_like(empty[:50]).bool(), steps=1,
        seeds=range(50), start=drafts[:50],
    )  # fmt: skip
    assert torch.equal(one.tokens[:, 1:], drafts[:50, 1:])  # one step redraws one position


def test_uniform_noise_keeps_a_token_with_probability_alpha_and_starts_there() -> None:
    """The canvas before the first step is q_t(. | draft); the clock of the solver begins at t."""
    process, rng = Uniform(), Rng.from_seeds(range(4000), device=DRAFT.device)
    rows = DRAFT.expand(4000, -1)
    x = process.noised(rows, 0.4, rng, S)
    for i in range(LENGTH):
        law = process.forward(torch.eye(S).double()[DRAFT[i]][None], torch.tensor([0.4]))[0]
        assert chi_square(torch.bincount(x[:, i], minlength=S), law).p > 1e-3
    seen: list[float] = []

    class Told(NoisyEnumerableDenoiser):
        def forward(self, inputs: Any) -> Any:
            seen.append(float(inputs.t[0]))
            return super().forward(inputs)

    told = Told(JOINT)
    draws("ancestral", 2, told, t_start=0.25, steps=4, fields={"t_end": 1e-3})
    assert seen[0] == pytest.approx(0.25, abs=1e-6)
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 5
    seen.clear()
    draws("diffusion-gemma", 2, told, t_start=0.25, steps=4)
    assert seen[0] == pytest.approx(0.25, abs=1e-3)


def test_a_matrix_process_noises_a_draft_by_its_own_law() -> None:
    rates = torch.tensor([[-1.2, 1, 0.2], [0.5, -1, 0.5], [1, 0.1, -1.1]], dtype=torch.float64)
    process = RateMatrix(rates)
    rng = Rng.from_seeds(range(4000), device=DRAFT.device)
    x = process.noised(DRAFT.expand(4000, -1), 0.4, rng, S)
    law = process.forward(torch.eye(S).double()[DRAFT], torch.full((LENGTH,), 0.4))
    for i in range(LENGTH):
        assert chi_square(torch.bincount(x[:, i], minlength=S), law[i]).p > 1e-3


def test_what_a_draft_leaves_unknown() -> None:
    """Masks and -1 are noise; fixed tokens stay; nothing is noised where nobody asks."""
    tokens = torch.tensor([[0, 2, MASK, NO_TOKEN, 1]])
    editable = torch.tensor([[False, True, True, True, True]])
    noise = torch.full_like(tokens, MASK)
    rng = Rng.from_seeds([0], device=tokens.device)
    given = (tokens, editable, noise, rng, EXACT)
    as_it_is = started(Absorbing(MASK), samplers.create("llada"), Start(), *given)
    assert as_it_is[0].tolist() == [[0, 2, MASK, MASK, 1]]
    assert as_it_is[1].tolist() == [[False, False, True, True, False]]
    told = Start(0.5, renoise=False)
    assert torch.equal(
        started(Absorbing(MASK), samplers.create("remdm-cap"), told, *given)[0], as_it_is[0]
    )
    noisy, unknown = started(Absorbing(MASK), samplers.create("llada"), Start(0.999), *given)
    assert noisy.tolist() == [[0, *[MASK] * 4]]
    assert unknown.tolist() == [[False, *[True] * 4]]
    with pytest.raises(ValueError, match=r"nothing of the draft is masked, and LLaDA never"):
        full = tokens.masked_fill(tokens != 0, 1)
        started(Absorbing(MASK), samplers.create("llada"), Start(), full, *given[1:])


NEEDS = {"lsd": "always begins with noise", "psi-loop": "always begins with noise"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_sampler_refines_a_draft_or_says_why_not(name: str) -> None:
    """Rows stand alone, no mask is left, and a run with the same seed is the same run."""
    entry = EVERY[name]
    noisy = "absorbing" not in entry.runs_on
    denoiser = NoisyEnumerableDenoiser(JOINT) if noisy else EXACT
    sampler = entry.build()
    options = {"t_start": 0.5, "steps": 4}
    if name in NEEDS:
        with pytest.raises(ValueError, match=NEEDS[name]):
            draws(name, 2, denoiser, **options)
        return
    if "uniform" in entry.runs_on and entry.runs_on == ("uniform",):
        options = {"t_start": 0.5}
    both = draws(name, 3, denoiser, **options)
    assert int(both.max()) < S
    assert torch.equal(draws(name, 1, denoiser, **options), both[:1])
    if sampler.revises:  # the whole draft, without noise
        kept = draws(name, 3, denoiser, renoise=False, **options)
        assert int(kept.max()) < S
        other = draws(name, 3, denoiser, renoise=False, **options, start=2 - DRAFT)
        # diffusion-gemma replaces by noise what its bound of entropy does not keep: here, all.
        assert name == "diffusion-gemma" or not torch.equal(kept, other)
    if sampler.clock_use != "times":
        with pytest.raises(ValueError, match=r"times=\[0.5, 0.0\]: .* leave times out"):
            check_start(sampler, Start(0.5), (0.5, 0.0))
    if sampler.clock_use != "none":
        with pytest.raises(ValueError, match=r"follows a clock, .* give t_start=0.5"):
            check_start(sampler, Start(), None)


def test_almost_nothing_of_a_draft_at_a_late_time_is_changed() -> None:
    for name in ("remdm-cap", "predictor-corrector", "p2", "rdm", "psi"):
        found = draws(name, 60, t_start=0.02, steps=4)
        assert float((found == DRAFT).double().mean()) > 0.8, name


def test_a_planner_of_itself_takes_a_draft_for_as_noisy_as_it_is_told() -> None:
    """So that its first passes read the draft: from noise they would hide all of it."""
    sampler = samplers.create("planned-self")
    editable = torch.ones(2, LENGTH, dtype=torch.bool)
    canvas = Canvas(DRAFT.expand(2, -1), editable, editable, torch.zeros(2).long(), None)
    rng, zero = Rng.from_seeds([0, 1], device=DRAFT.device), torch.zeros(2, dtype=torch.int64)
    for begin, noise in ((1.0, 1.0), (0.3, 1.0 - float(LOG_LINEAR.alpha(torch.tensor(0.3))))):
        clock, fresh = Clock(zero, zero + 6, begin), zero == 0
        plan = sampler.enter(sampler.init(canvas), canvas, clock, fresh, zero + 3, rng)
        assert plan.noise.flatten().tolist() == pytest.approx([noise] * 6)
        assert plan.level.tolist() == pytest.approx([1.0 - noise] * 2)


@pytest.mark.slow
def test_own_times_equal_to_the_grid_change_nothing() -> None:
    """And other times take the steps that they say."""
    for name in ("ancestral", "remdm-cap", "flow-matching", "theta-trapezoidal", "psi"):
        steps = 4
        empty = torch.zeros(20, LENGTH, dtype=torch.int64)
        every = torch.ones_like(empty).bool()
        plain, own = (
            sample(EXACT, samplers.create(name), empty, every, seeds=range(20), **options).tokens
            for options in (
                {"steps": steps},
                {"times": [1 - k / steps * (1 - 1e-9) for k in range(steps + 1)]},
            )
        )
        assert torch.equal(plain, own), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"times": [1.0, 0.5, 0.5, 0.0]}, "must fall from step to step"),
        ({"times": [1.0]}, "must fall from step to step"),
        ({"times": [0.5, 0.0]}, r"times\[0\]=0.5: must be 1.0, as a run from noise begins at 1"),
        ({"times": [1.0, 0.0], "steps": 3}, "steps=3: must be 1, one per interval of times"),
        ({"t_start": 0.5}, "t_start=0.5: belongs to a draft"),
        ({"renoise": False}, "renoise=False: belongs to a draft"),
    ],
)
def test_times_and_starts_that_do_not_fit_are_named(options: dict[str, Any], words: str) -> None:
    empty = torch.zeros(1, LENGTH, dtype=torch.int64)
    with pytest.raises(ValueError, match=words):
        sample(
            EXACT, samplers.create("ancestral"), empty, empty == 0, seeds=[0], **options
        )  # fmt: skip


def test_times_alone_say_where_a_draft_begins() -> None:
    assert start_of(True, None, True, [0.5, 0.0]) == Start(0.5, renoise=False)
    assert start_of(True, 0.5, True, [0.5, 0.0]) == Start(0.5)
    assert start_of(False, None, True, [1.0, 0.0]) is None


@pytest.mark.parametrize("name", ["ancestral", "glauber", "llada-random"])
def test_runs_from_drafts_are_replayed(name: str) -> None:
    empty = torch.zeros(8, LENGTH, dtype=torch.int64)
    out = sample(
        EXACT, samplers.create(name), empty, empty == 0, seeds=range(8), steps=4,
        start=DRAFT.expand(8, -1), t_start=0.7, return_trajectory=True,
    )  # fmt: skip
    for run in (out, Rollout.from_output(out)):
        found = replay(EXACT, run)
        torch.testing.assert_close(found.logprob.float(), out.logprob, atol=1e-6, rtol=1e-6)


def test_a_draft_of_text_reaches_the_canvas_of_its_prompt() -> None:
    denoiser = wrap(lambda ids: torch.zeros(*ids.shape, 8), vocab_size=8, mask_token_id=7)
    options: dict[str, Any] = {"sampler": "llada", "seed": 0}
    out = generate(denoiser, [[1], [2]], start=[[3, 7], [4, 5, 7]], max_new_tokens=3, **options)
    assert out.token_ids[0][0] == 3
    assert out.token_ids[1][:2] == [4, 5]
    assert out.nfe.tolist() == [2, 1]
    same = generate(denoiser, [[1, 7, 2]], start=[6], infill=True, t_start=1e-9, **options)
    assert same.sequences.tolist() == [[1, 6, 2]]
    for start, words in (
        ([[3], [4], [5]], "start has 3 drafts for 2 prompts"),
        ([[9], [1]], "start: 9 is no token id"),
        ([[1, 1, 1, 1], [1]], r"Prompt 0: its draft \(start\) has 4 tokens for 3 positions"),
        ("text", "a text needs a tokenizer"),
    ):
        with pytest.raises(ValueError, match=words):
            generate(denoiser, [[1], [2]], start=start, max_new_tokens=3, **options)
