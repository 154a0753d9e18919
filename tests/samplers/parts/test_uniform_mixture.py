"""The reverse step as a mixture has the law of the table, for both kinds of prediction."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling import ops, wrap
from dlm_sampling.engine.sample import sample
from dlm_sampling.processes import Uniform
from dlm_sampling.samplers import Ancestral
from dlm_sampling.samplers.parts.uniform_mixture import leave_one_out_here, other_token, weights
from dlm_sampling.schedules import grid_time
from dlm_sampling.testing import NoisyEnumerableDenoiser, chi_square
from dlm_sampling.types import TokenLaw

SIZE = 6


@pytest.mark.parametrize("posterior", [False, True])
@pytest.mark.parametrize(("a", "s"), [(1e-3, 0.05), (0.3, 0.4), (0.9, 0.99), (0.7, 1.0)])
def test_the_parts_add_up_to_the_reverse_law(a: float, s: float, posterior: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    given = (3 * torch.randn(40, SIZE, generator=generator).double()).softmax(-1)
    x = torch.randint(0, SIZE, (40,), generator=generator)
    alpha_t, alpha_s = torch.full((40,), a).double(), torch.full((40,), s).double()
    process = Uniform()
    loo = given
    if posterior:
        loo = process.convert(given, x, alpha_t, "posterior", "leave_one_out")
    p = given.gather(1, x.unsqueeze(1)).squeeze(1)
    here = leave_one_out_here(p, alpha_t, SIZE, posterior=posterior)
    torch.testing.assert_close(here, loo.gather(1, x.unsqueeze(1)).squeeze(1))
    part = weights(here, alpha_t, alpha_s, SIZE)
    odds = given / (1.0 - p).unsqueeze(1)  # of y against all tokens but x
    law = (part.scale * (1.0 - here)).unsqueeze(1) * odds + part.floor.unsqueeze(1)
    law = law.scatter(1, x.unsqueeze(1), part.stay.unsqueeze(1))
    torch.testing.assert_close(law, process.reverse(loo, x, alpha_t, alpha_s), atol=1e-13, rtol=0)
    drawn = part.model + part.floor * (SIZE - 1)
    torch.testing.assert_close(part.stay + drawn, torch.ones(40).double(), atol=1e-13, rtol=0)


def test_another_token_is_any_but_the_one_that_is_there() -> None:
    x = torch.full((20_000, 1), 2)
    rng = ops.Rng.from_seeds(ops.row_seeds(0, len(x)))
    counts = torch.bincount(other_token(x, 5, rng).flatten(), minlength=5)
    assert int(counts[2]) == 0
    assert chi_square(counts[[0, 1, 3, 4]], torch.ones(4)).p > 1e-4


@pytest.mark.parametrize("kind", ["posterior", "leave_one_out"])
def test_with_a_temperature_the_loop_draws_what_the_table_says(kind: str) -> None:
    """One step at temperature 0.6 from a fixed x_t, tokens and log-probabilities."""
    joint = torch.rand(4, generator=torch.Generator().manual_seed(2)).double()
    toy = NoisyEnumerableDenoiser(joint, kind=kind)  # type: ignore[arg-type]
    rows, sampler, steps = 20_000, Ancestral(noise_removal="sample"), torch.tensor(3)
    tokens = torch.zeros(rows, 1, dtype=torch.int64)
    out = sample(
        toy, sampler, tokens, tokens == 0, seeds=ops.row_seeds(1, rows), steps=3,
        law=TokenLaw(0.6), return_trajectory=True,
    )  # fmt: skip
    assert out.trajectory is not None
    for k, event in enumerate(out.trajectory.events):
        t, s = (grid_time(torch.tensor(i), steps, sampler.t_end) for i in (k, k + 1))
        alpha = sampler.schedule.alpha(t)
        level = sampler.schedule.alpha(s) if k < 3 else torch.ones_like(alpha)
        states = torch.arange(4).unsqueeze(1)
        times = toy.times.time_of(alpha).expand(4)
        heated = (toy(states, t=times).values / 0.6).softmax(-1)
        loo = toy.process.convert(heated, states, alpha, toy.kind, "leave_one_out")
        law = toy.process.reverse(loo, states, alpha, level)[:, 0]
        for x in range(4):
            after = event.tokens[event.before[:, 0] == x, 0]
            assert chi_square(torch.bincount(after, minlength=4), law[x]).p > 1e-4
        chance = law[event.before[:, 0], event.tokens[:, 0]].log()
        torch.testing.assert_close(event.logprob[:, 0].double(), chance, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["posterior", "leave_one_out"])
def test_a_network_that_is_certain_still_reports_log_probabilities(kind: str) -> None:
    """p(x) rounds to 1: noise may replace the token, with the probability that the table has."""

    def certain(input_ids: torch.Tensor) -> torch.Tensor:
        return 200.0 * torch.nn.functional.one_hot(torch.zeros_like(input_ids), SIZE).float()

    toy = wrap(certain, vocab_size=SIZE, mask_token_id=None, kind=kind)  # type: ignore[arg-type]
    sampler, steps = Ancestral(noise_removal="sample"), torch.tensor(4)
    tokens = torch.zeros(500, 2, dtype=torch.int64)
    out = sample(
        toy, sampler, tokens, tokens == 0, seeds=ops.row_seeds(3, 500), steps=4,
        return_trajectory=True,
    )  # fmt: skip
    assert out.trajectory is not None
    left = 0
    for k, event in enumerate(out.trajectory.events):
        t, s = (grid_time(torch.tensor(i), steps, sampler.t_end) for i in (k, k + 1))
        alpha = sampler.schedule.alpha(t)
        level = sampler.schedule.alpha(s) if k < 4 else torch.ones_like(alpha)
        x = event.before
        p = certain(x).double().softmax(-1)
        loo = Uniform().convert(p, x, alpha, toy.kind, "leave_one_out")
        law = Uniform().reverse(loo, x, alpha, level)
        chance = law.gather(-1, event.tokens.unsqueeze(-1)).squeeze(-1).log()
        torch.testing.assert_close(event.logprob.double(), chance, atol=1e-4, rtol=1e-4)
        left += int(((x == 0) & (event.tokens != 0)).sum())
    assert left > 0
    assert bool((out.tokens == 0).all())
