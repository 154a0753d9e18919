"""Uniformization: when the next candidate comes, its law, and what is drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.samplers import Uniformization
from dlm_sampling.schedules import LOG_LINEAR, LogLinear
from dlm_sampling.testing import (
    EnumerableDenoiser,
    NoisyEnumerableDenoiser,
    chi_square,
    count_states,
)
from tests.processes.enumerated import filled, ratios, uniform_noise
from tests.processes.random_laws import SIZE, laws, number, same
from tests.samplers.parts.test_event_clock import SYMBOLS, joint, run


def with_numbers(monkeypatch: pytest.MonkeyPatch, u: list[float]) -> ops.Rng:
    def uniform(self: ops.Rng, stream: int, like: Tensor, sub: int = 0) -> Tensor:
        return torch.tensor(u, dtype=torch.float64)

    monkeypatch.setattr(ops.Rng, "uniform", uniform)
    return ops.Rng.from_seeds([0])


def test_the_integral_of_the_bound_up_to_the_next_candidate_is_its_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    u, positions = [0.9, 0.5, 0.01, 0.5], torch.tensor([1, 2, 3, 0])
    t = torch.tensor([1.0, 0.6, 0.3, 0.6], dtype=torch.float64)
    for process in (Absorbing(SIZE - 1), Uniform()):
        for schedule in (LOG_LINEAR, LogLinear(0.05)):
            sampler = Uniformization(schedule, 0.1)
            rng = with_numbers(monkeypatch, u)
            s, ending = sampler.next_event(process, t, positions, SIZE, rng)
            wait = -torch.tensor(u, dtype=torch.float64).log() / positions.clamp_min(1)
            left = process.exit_integral(schedule.alpha(t), schedule.alpha(number(0.1)), SIZE)
            assert ending.tolist() == (left <= wait).tolist()
            gone = process.exit_integral(schedule.alpha(t), schedule.alpha(s), SIZE)
            torch.testing.assert_close(gone, torch.where(ending, left, wait), rtol=1e-9, atol=1e-9)
            assert {True, False} == set(ending.tolist())


def test_a_candidate_jumps_with_its_rate_over_the_bound() -> None:
    loo, x = laws(41)
    sampler, u = Uniformization(LOG_LINEAR), torch.full(x.shape, 0.4).double()
    alpha, slope = LOG_LINEAR.alpha(u), LOG_LINEAR.rate(u)
    score = ratios(loo, x, uniform_noise(SIZE), float(alpha[0, 0]))
    bound = slope / (1 - alpha) + slope / alpha * (1 - 1 / SIZE)
    rates = (slope / alpha / SIZE).unsqueeze(-1) * score
    same(sampler.next_law(Uniform(), score, x, u), filled(rates / bound.unsqueeze(-1), x))
    # Ratios that break the bound count as the bound.
    large = 1e6 * score
    share = filled(large, x) * (torch.arange(SIZE) != x.unsqueeze(-1))
    wanted = share / share.sum(-1, keepdim=True)
    torch.testing.assert_close(sampler.next_law(Uniform(), large, x, u), wanted)
    masks = torch.full_like(x, SIZE - 1)
    p = torch.nn.functional.pad(laws(42, SIZE - 1)[0], (0, 1))
    same(sampler.next_law(Absorbing(SIZE - 1), p, masks, u), p)


def test_draws_have_the_law_of_the_data() -> None:
    out = run(EnumerableDenoiser(joint(3)), Uniformization(), 800, 3)
    assert chi_square(count_states(out.tokens, SYMBOLS), joint(3).flatten()).p > 1e-4
    assert int(out.nfe.max()) == 3
    out = run(NoisyEnumerableDenoiser(joint()), Uniformization(), 500)
    assert chi_square(count_states(out.tokens, SYMBOLS), joint().flatten()).p > 1e-4
    assert 30 < float(out.nfe.double().mean()) < 45
    ends = run(NoisyEnumerableDenoiser(joint()), Uniformization(t_end=0.7), 800)
    assert chi_square(count_states(ends.tokens, SYMBOLS), joint().flatten()).p < 1e-4


def test_without_a_mask_events_must_end() -> None:
    with pytest.raises(ValueError, match=r"t_end=0\.0: must be above 0"):
        Uniformization(t_end=0.0).canvas_process(Uniform())
    masks = Absorbing(3)
    assert Uniformization(t_end=0.0).canvas_process(masks) is masks
    assert isinstance(Uniformization().canvas_process(Uniform()), Uniform)
