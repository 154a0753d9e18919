"""Gillespie's algorithm: the law of a jump, which positions jump, when, and what is drawn."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.samplers import Gillespie
from dlm_sampling.schedules import LINEAR, LOG_LINEAR
from dlm_sampling.testing import EnumerableDenoiser, chi_square, count_states
from tests.processes.enumerated import others, ratios, uniform_noise
from tests.processes.random_laws import SIZE, laws, same
from tests.samplers.parts.test_event_clock import SYMBOLS, joint, run


def test_a_jump_has_the_law_of_the_rates_and_their_sum() -> None:
    """On the clock -ln alpha noise comes at rate 1; on that of masks they go at rate 1."""
    loo, x = laws(51)
    alpha = torch.full(x.shape, 0.4, dtype=torch.float64)
    score = ratios(loo, x, uniform_noise(SIZE), 0.4)
    leave = others(score / SIZE, x)
    law, rate = Gillespie().jumps(Uniform(), score, x, alpha)
    same(rate, leave.sum(-1))
    same(law, leave / leave.sum(-1, keepdim=True))
    p = torch.nn.functional.pad(laws(52, SIZE - 1)[0], (0, 1))
    masks = torch.full_like(x, SIZE - 1)
    masks[0] = 1
    law, rate = Gillespie().jumps(Absorbing(SIZE - 1), p, masks, alpha)
    same(rate[1:], torch.ones_like(rate[1:]))
    same(law[1:], p[1:])
    assert float(rate[0].max()) == 0.0 and bool((law[0, :, 1] == 1.0).all())


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_k_shortest_waits_happen_and_time_goes_to_the_longest_of_them(k: int) -> None:
    """Masks on the linear schedule: time is t e^-wait."""
    wait = torch.tensor(
        [[0.3, 0.1, 0.7, math.inf], [0.2, 9.0, 0.4, 0.1], [0.9, 0.8, 0.7, 0.6]], dtype=torch.float64
    )
    open_ = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    wait = wait.masked_fill(~open_, math.inf)
    t = torch.tensor([0.9, 0.5, 0.7], dtype=torch.float64)
    sampler = Gillespie(events_per_step=k, schedule=LINEAR, t_end=0.01)
    chosen, s = sampler.happen(Absorbing(3), wait, open_, 1 - t)
    first, second = [[1], [1, 0], [1, 0, 2]][k - 1], [0]
    assert chosen[0].nonzero().flatten().tolist() == sorted(first)
    assert chosen[1].nonzero().flatten().tolist() == second
    # The second position of row 1 waits beyond t_end, so with k > 1 its row ends there.
    ends = 0.5 * math.exp(-0.2) if k == 1 else 0.01
    times = [0.9 * math.exp(-[0.1, 0.3, 0.7][k - 1]), ends, 0.01]
    same(s, torch.tensor(times, dtype=torch.float64))


def test_rates_are_kept_for_the_longest_wait() -> None:
    wait = torch.tensor([[0.3, 0.6], [0.5, 0.6], [0.1, 0.2]], dtype=torch.float64)
    open_, alpha = torch.ones(3, 2).bool(), torch.tensor([0.1, 0.1, 0.99], dtype=torch.float64)
    sampler = Gillespie(events_per_step=2, longest_wait=0.5, schedule=LINEAR, t_end=0.2)
    chosen, s = sampler.happen(Absorbing(3), wait, open_, alpha)
    assert chosen.tolist() == [[True, False], [True, False], [False, False]]
    idle = 0.9 * math.exp(-0.5)
    same(s, torch.tensor([idle, idle, 0.2], dtype=torch.float64))
    assert Gillespie(longest_wait=0.1).patience(3) == Gillespie().patience(3) + 500


def test_draws_on_masks_have_the_law_of_the_data() -> None:
    out = run(EnumerableDenoiser(joint(3)), Gillespie(schedule=LOG_LINEAR), 1500, 3)
    assert chi_square(count_states(out.tokens, SYMBOLS), joint(3).flatten()).p > 1e-4
    assert int(out.nfe.max()) == 3
    few = run(
        EnumerableDenoiser(joint(3)),
        Gillespie(events_per_step=2, schedule=LINEAR, t_end=0.0),
        300,
        3,
    )
    assert int(few.nfe.max()) == 2


@pytest.mark.parametrize(
    ("options", "name"),
    [({"events_per_step": 0}, "events_per_step"), ({"longest_wait": 0.0}, "longest_wait")],
)
def test_parameters_are_checked(options: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Gillespie(**options)  # pyright: ignore[reportArgumentType]
