"""Solvers under uniform noise: what `sample` draws has the exact law of its own chain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import (
    Ancestral,
    Euler,
    FlowMatching,
    LLaDA,
    Psi,
    TauLeaping,
    Tweedie,
    create,
)
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.samplers.parts.grid_move import Interval
from dlm_sampling.schedules import LOG_LINEAR, Cosine, Geometric, LogLinear, Schedule, grid_time
from dlm_sampling.testing import (
    NoisyEnumerableDenoiser,
    chi_square,
    count_states,
    exact_chain_law,
    product_law,
    tv,
)
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import Canvas, PredictionKind

LENGTH, SYMBOLS, ROWS, P_LIMIT = 2, 3, 8_000, 1e-4
KINDS: tuple[PredictionKind, ...] = ("posterior", "leave_one_out", "log_score")
SOLVERS: list[GridSampler] = [
    Ancestral(noise_removal="sample"),
    Ancestral(Cosine(), 1e-3, "argmax"),
    Euler(),
    Tweedie(Geometric(1e-3, 5.0), 1e-2),
    TauLeaping(LOG_LINEAR),
    TauLeaping(LogLinear(0.0), 0.1, "sample", "reject"),
    TauLeaping(Geometric(1e-3, 3.0), 0.1, "sample", "displace"),
]


def joint(seed: int = 3, scale: float = 1.2) -> Tensor:
    weights = torch.randn([SYMBOLS] * LENGTH, generator=torch.Generator().manual_seed(seed))
    return (scale * weights.double()).flatten().softmax(0).view_as(weights)


def table(toy: NoisyEnumerableDenoiser, states: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """The toy's own prediction at the level that `schedule` has at t."""
    alpha = schedule.alpha(t)
    return toy(states, t=toy.times.time_of(alpha).expand(len(states))).values.exp()


def exact_law(toy: NoisyEnumerableDenoiser, sampler: GridSampler, steps: int) -> Tensor:
    """The chain propagated over all states, predictions converted from leave-one-out laws."""
    process, schedule = toy.process, sampler.schedule
    total = torch.tensor(steps)

    def step(states: Tensor, k: int) -> Tensor:
        t, s = (grid_time(torch.tensor(i), total, sampler.t_end) for i in (k, k + 1))
        alpha, loo = schedule.alpha(t), table(toy, states, t, schedule)
        if k < steps:
            reads = sampler.reads(process)
            values = process.convert(loo, states, alpha, "leave_one_out", reads)
            return sampler.next_law(process, values, states, t, s)
        last = process.reverse(loo, states, alpha, torch.ones_like(alpha))
        if sampler.noise_removal == "argmax":
            return torch.nn.functional.one_hot(last.argmax(-1), SYMBOLS).double()
        return last

    start = torch.full((SYMBOLS**LENGTH,), 1.0 / SYMBOLS**LENGTH)
    return exact_chain_law(step, steps + 1, length=LENGTH, vocab_size=SYMBOLS, start=start)


def draws(toy: Any, sampler: Any, steps: int, rows: int = ROWS) -> Tensor:
    tokens = torch.zeros(rows, LENGTH, dtype=torch.int64)
    out = sample(
        toy,
        sampler,
        tokens,
        torch.ones_like(tokens).bool(),
        seeds=ops.row_seeds(steps, rows),
        steps=steps,
    )
    assert bool((out.nfe == steps + 1).all())
    return count_states(out.tokens, SYMBOLS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SOLVERS, ids=lambda s: f"{type(s).__name__}-{s.noise_removal}")
def test_the_sampled_law_is_the_propagated_law(sampler: GridSampler, kind: PredictionKind) -> None:
    """Whatever the network predicts and on whatever schedule it was trained."""
    toy = NoisyEnumerableDenoiser(joint(), kind=kind, schedule=LOG_LINEAR)
    exact = NoisyEnumerableDenoiser(joint(), kind="leave_one_out", schedule=LOG_LINEAR)
    law = exact_law(exact, sampler, 3)
    assert chi_square(draws(toy, sampler, 3), law).p > P_LIMIT


def test_a_wrong_kind_is_far_from_the_right_law() -> None:
    """Negative control: posterior probabilities declared to be leave-one-out."""
    toy = NoisyEnumerableDenoiser(joint(), kind="posterior")
    toy.kind = "leave_one_out"
    toy._predict = lambda x, a: NoisyEnumerableDenoiser(joint(), kind="posterior")._predict(x, a)  # type: ignore[method-assign]
    exact = NoisyEnumerableDenoiser(joint())
    sampler = Ancestral(noise_removal="sample")
    assert chi_square(draws(toy, sampler, 8), exact_law(exact, sampler, 8)).p < 1e-12


def test_many_steps_reach_the_data_law_from_every_kind() -> None:
    exact = NoisyEnumerableDenoiser(joint())
    errors = [
        tv(exact_law(exact, Ancestral(noise_removal="sample"), n), joint().flatten())
        for n in (8, 64)
    ]
    assert errors[1] < errors[0] / 6
    assert errors[1] < 5e-3


def test_the_first_canvas_is_uniform_and_the_same_for_a_seed() -> None:
    toy = NoisyEnumerableDenoiser(joint())
    tokens = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    editable = torch.tensor([True, False]).expand(ROWS, 2)
    seeds = ops.row_seeds(1, ROWS)
    out = sample(toy, Ancestral(), tokens, editable, seeds=seeds, steps=1, return_trajectory=True)
    assert out.trajectory is not None
    first = out.trajectory.initial
    assert bool((first[:, 1] == 0).all()) and bool((out.tokens[:, 1] == 0).all())
    counts = torch.bincount(first[:, 0], minlength=SYMBOLS)
    assert chi_square(counts, torch.ones(SYMBOLS)).p > P_LIMIT


def test_infilling_has_the_law_of_the_clamped_chain() -> None:
    """The context stays what it is in every step; that law is near, not at, P(x_1 | x_0).

    A network of uniform noise takes clean context for possible noise, so clamping is an
    approximation for every sampler of such models.
    """
    toy, sampler, steps = NoisyEnumerableDenoiser(joint()), Ancestral(noise_removal="sample"), 8
    tokens = torch.ones(ROWS, LENGTH, dtype=torch.int64)
    editable = torch.tensor([False, True]).expand(ROWS, 2)
    out = sample(toy, sampler, tokens, editable, seeds=ops.row_seeds(2, ROWS), steps=steps)
    fixed = torch.nn.functional.one_hot(torch.tensor(1), SYMBOLS).double()

    def step(states: Tensor, k: int) -> Tensor:
        t, s = (grid_time(torch.tensor(i), torch.tensor(steps), sampler.t_end) for i in (k, k + 1))
        alpha_t, alpha_s = sampler.schedule.alpha(t), sampler.schedule.alpha(s)
        loo = table(toy, states, t, sampler.schedule)
        q = toy.process.reverse(loo, states, alpha_t, alpha_s if k < steps else torch.ones(()))
        return torch.stack((fixed.expand(len(q), -1), q[:, 1]), 1)

    start = product_law(torch.stack((fixed, torch.full_like(fixed, 1 / SYMBOLS))).unsqueeze(0))[0]
    law = exact_chain_law(step, steps + 1, length=LENGTH, vocab_size=SYMBOLS, start=start)
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p > P_LIMIT
    truth = joint()[1] / joint()[1].sum()
    assert 0.01 < tv(law.view(SYMBOLS, SYMBOLS)[1], truth) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_displacements_equal_a_direct_simulation_of_poisson_counts(kind: PredictionKind) -> None:
    """clamp(x + sum k_y (y - x)) against counts drawn one by one."""
    from dlm_sampling.processes.jumps import displacement_law

    generator = torch.Generator().manual_seed(1)
    rates = torch.rand(5, generator=generator).double() * 3
    x = torch.tensor(KINDS.index(kind) + 1)
    law = displacement_law(rates, x, torch.tensor(0.4))
    leave = rates.clone()
    leave[x] = 0.0
    k = torch.poisson((0.4 * leave).expand(ROWS, 5), generator=generator)
    moved = (x + (k * (torch.arange(5) - x)).sum(1)).clamp(0, 4).long()
    assert chi_square(torch.bincount(moved, minlength=5), law).p > P_LIMIT
    torch.testing.assert_close(law.sum(), torch.tensor(1.0).double())


def test_ratios_that_say_nothing_are_refused() -> None:
    toy = NoisyEnumerableDenoiser(joint())
    tokens = torch.zeros(1, LENGTH, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"alpha\(1\) = 0"):
        sample(toy, Tweedie(LogLinear(0.0)), tokens, tokens == 0, seeds=[0])


def test_a_schedule_given_by_its_name_is_refused() -> None:
    with pytest.raises(TypeError, match="schedule='linear': must be a Schedule, such as"):
        create("tweedie", schedule="linear")
    assert create("tweedie", schedule=LogLinear(0.1)) == Tweedie(LogLinear(0.1))


def test_samplers_of_masks_are_refused_by_name() -> None:
    toy = NoisyEnumerableDenoiser(joint())
    tokens = torch.zeros(1, LENGTH, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"LLaDA is for absorbing noise.*ancestral"):
        sample(toy, LLaDA(), tokens, tokens == 0, seeds=[0])


def test_guidance_needs_a_mask() -> None:
    toy = NoisyEnumerableDenoiser(joint())
    tokens = torch.zeros(1, LENGTH, dtype=torch.int64)
    with pytest.raises(ValueError, match="guidance_scale"):
        sample(toy, Ancestral(), tokens, tokens == 0, seeds=[0], guidance_scale=1.0)


def test_suppressed_tokens_never_survive() -> None:
    toy = wrap(
        lambda input_ids: torch.zeros(*input_ids.shape, SYMBOLS),
        vocab_size=SYMBOLS,
        mask_token_id=None,
        suppressed=(1,),
    )
    for sampler in SOLVERS[:5]:
        tokens = torch.zeros(400, LENGTH, dtype=torch.int64)
        out = sample(toy, sampler, tokens, tokens == 0, seeds=ops.row_seeds(0, 400), steps=4)
        assert not bool((out.tokens == 1).any()), type(sampler).__name__


def test_the_sum_of_log_probabilities_is_that_of_the_transitions() -> None:
    """Step by step log q(x_s | x_t) of what was drawn, stays included."""
    toy, sampler, steps = NoisyEnumerableDenoiser(joint()), Ancestral(noise_removal="sample"), 3
    tokens = torch.zeros(50, LENGTH, dtype=torch.int64)
    seeds = ops.row_seeds(9, 50)
    out = sample(
        toy, sampler, tokens, tokens == 0, seeds=seeds, steps=steps, return_trajectory=True
    )
    assert out.trajectory is not None
    for k, event in enumerate(out.trajectory.events):
        t, s = (grid_time(torch.tensor(i), torch.tensor(steps), sampler.t_end) for i in (k, k + 1))
        loo = table(toy, event.before, t, sampler.schedule)
        alpha = [sampler.schedule.alpha(t), sampler.schedule.alpha(s)]
        if k == steps:
            alpha[1] = torch.ones_like(alpha[1])
        q = toy.process.reverse(loo, event.before, *alpha)
        drawn = q.gather(-1, event.tokens.unsqueeze(-1)).squeeze(-1).log()
        torch.testing.assert_close(event.logprob.double(), drawn, atol=1e-5, rtol=1e-5)


def test_states_enumerate_the_toy() -> None:
    """The toy itself: its posterior is Bayes' rule, position by position, from the joint of all."""
    toy = NoisyEnumerableDenoiser(joint(), kind="posterior")
    states, t = all_states(LENGTH, SYMBOLS), torch.full((SYMBOLS**LENGTH,), 0.4).double()
    kernel = toy.kernel(toy.times.alpha(t))[0]
    both = joint().flatten().unsqueeze(1) * product_law(kernel[states])  # p(x0) q(x_t | x0)
    for i in range(LENGTH):
        law = torch.stack([both[states[:, i] == v].sum(0) for v in range(SYMBOLS)], 1)
        law = law / law.sum(1, keepdim=True)
        torch.testing.assert_close(toy(states, t=t).values.exp()[:, i], law, atol=1e-12, rtol=0)


@pytest.mark.parametrize("sampler", SOLVERS[:5], ids=lambda s: f"{type(s).__name__}")
def test_transition_probs_are_the_law_of_a_step_with_fixed_positions_kept(
    sampler: GridSampler,
) -> None:
    """The public table of one step: `next_law` where the block is open, the token elsewhere."""
    toy, states = NoisyEnumerableDenoiser(joint()), torch.tensor([[0, 1], [2, 2], [1, 0]])
    t, s = torch.tensor([[0.6]]).double(), torch.tensor([[0.5]]).double()
    process, alpha = toy.process, sampler.schedule.alpha(t)
    loo = toy(states, t=toy.times.time_of(alpha).expand(3, 1).squeeze(1)).values.exp()
    values = process.convert(loo, states, alpha, "leave_one_out", sampler.reads(process))
    editable = torch.tensor([[True, False], [True, True], [False, True]])
    canvas = Canvas(states, editable, editable, torch.zeros(3).long(), None)
    table_ = sampler.transition_probs(canvas, values.log(), t, s)
    law = sampler.next_law(process, values, states, t.expand(3, 2), s.expand(3, 2))
    torch.testing.assert_close(table_[editable], law[editable], atol=1e-12, rtol=0)
    kept = torch.nn.functional.one_hot(states, SYMBOLS).double()
    assert torch.equal(table_[~editable], kept[~editable])


@pytest.mark.parametrize("sampler", [FlowMatching(), Psi()], ids=lambda s: type(s).__name__)
def test_transition_probs_of_samplers_that_revise(sampler: FlowMatching | Psi) -> None:
    """On masks and without one: rows are laws, a token of the prompt stays."""
    step = torch.tensor([[0.6]]).double(), torch.tensor([[0.5]]).double()
    interval = Interval(*step, torch.tensor([[0.4]]).double())
    editable = torch.tensor([[True, False], [True, True]])
    states = torch.tensor([[0, 1], [3, 1]])
    log_p = torch.rand(2, 2, SYMBOLS + 1, generator=torch.Generator().manual_seed(0)).double()
    for mask in (None, SYMBOLS):
        if mask is not None:
            log_p[..., mask] = -torch.inf
        log_p = log_p.log_softmax(-1)
        canvas = Canvas(states, states == SYMBOLS, editable, torch.zeros(2).long(), mask)
        law = sampler.transition_probs(canvas, log_p, interval)
        torch.testing.assert_close(law.sum(-1), torch.ones(2, 2).double())
        assert bool((law >= 0).all()) and float(law[0, 1, 1]) == 1.0
        assert float(law[1, 0].max()) < 1.0
