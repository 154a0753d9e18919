"""Psi-samplers: sampled laws are the propagated ones; kappa modes are what they are called."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling.samplers import Ancestral, Psi
from dlm_sampling.samplers.parts.grid_move import Interval
from dlm_sampling.samplers.parts.remasking import Rates, sigma_max, unmask_prob
from dlm_sampling.samplers.psi import (
    Constant,
    ConstantSigma,
    Hold,
    Kappa,
    MaxCapped,
    MaxRescale,
    Phases,
    psi_constant,
    psi_loop,
)
from dlm_sampling.schedules import LINEAR, Cosine
from dlm_sampling.testing import EnumerableDenoiser, NoisyEnumerableDenoiser, tv
from dlm_sampling.testing.laws import all_states
from tests.parity.folders import fixtures_folder
from tests.samplers.chains import (
    LENGTH,
    P_LIMIT,
    SYMBOLS,
    chain_law,
    chance,
    check_draws,
    draws,
    joint,
    prediction,
    toys,
)

SAMPLERS = [
    Psi(kappa=Constant(0.0)),
    Psi(LINEAR, "argmax", Constant(0.6), 1e-3),
    Psi(Cosine(), kappa=MaxCapped(0.3)),
    Psi(kappa=MaxRescale(0.5)),
    psi_constant(0.5),
    psi_loop(0.08, alpha=0.6, high_fraction=0.4, middle_fraction=0.4),
]
KINDS = ["absorbing", "uniform"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: f"{s.kappa}")
def test_the_sampled_law_is_the_propagated_law(sampler: Psi, kind: str) -> None:
    toy: Any = toys(sampler.schedule)[KINDS.index(kind)]
    check_draws(toy, sampler, 5, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_tell_kappas_apart(kind: str) -> None:
    toy: Any = toys(LINEAR)[KINDS.index(kind)]
    drawn, claimed = Psi(LINEAR, kappa=Constant(0.5)), Psi(LINEAR, kappa=Constant(0.6))
    assert chance(toy, drawn, claimed, 5, 2) < 1e-6
    assert chance(toy, drawn, drawn, 5, 2) > P_LIMIT


def test_chains_are_the_reference_tables() -> None:
    folder, seen = fixtures_folder() / "laws", 0
    stored = json.loads((folder / "toys.json").read_text())["toys"]
    for file in ("k2_mask", "k2_uniform"):
        for case in json.loads((folder / f"{file}.json").read_text())["cases"]:
            if case["sampler"] != "psi":
                continue
            law = torch.tensor(stored[case["toy"]], dtype=torch.float64)
            toy: Any = (
                EnumerableDenoiser(law)
                if file == "k2_mask"
                else NoisyEnumerableDenoiser(law, schedule=LINEAR)
            )
            sampler = Psi(LINEAR, kappa=Constant(case["params"]["kappa"]), t_end=0.0)
            for steps, expected in case["expected"]["by_steps"].items():
                ours = chain_law(toy, sampler, int(steps), law.ndim)
                reference = torch.tensor(expected["law_final"], dtype=torch.float64)
                torch.testing.assert_close(ours, reference, atol=1e-9, rtol=0)
                seen += 1
    assert seen >= 4


def test_kappa_one_is_ancestral() -> None:
    """Token for token on masks; the same table without a mask."""
    masks, noisy = toys(LINEAR)
    ours = draws(masks, Psi(LINEAR, kappa=Constant(1.0)), 4, rows=300)
    theirs = draws(masks, Ancestral(LINEAR, 1e-5, "sample"), 4, rows=300)
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.nfe, theirs.nfe)
    states = all_states(LENGTH, SYMBOLS)
    interval = Interval(*(torch.tensor(v).double() for v in (0.7, 0.4, 0.3)))
    loo = prediction(noisy, states, LINEAR, interval.t, "leave_one_out")
    table = Psi(LINEAR, kappa=Constant(1.0)).next_law(noisy.process, loo, states, interval)
    ancestral = Ancestral(LINEAR).next_law(noisy.process, loo, states, interval.t, interval.s)
    torch.testing.assert_close(table, ancestral, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("kappa", "rate"),
    [
        (MaxCapped(0.05), lambda a, b: sigma_max(a, b).clamp(max=0.05)),
        (MaxRescale(0.2), lambda a, b: 0.2 * sigma_max(a, b)),
        (ConstantSigma(0.04), lambda a, b: torch.full_like(a, 0.04)),
    ],
)
def test_on_masks_it_is_remdm(kappa: Kappa, rate: Any) -> None:
    """Same probabilities of revealing and of remasking, wherever sigma <= 1 - alpha_s."""
    t = torch.linspace(0.95, 0.35, 9).double()
    move = Psi(LINEAR, kappa=kappa).mask_move(Interval(t, t - 0.05, 1.0 - t))
    alpha_t, alpha_s = 1.0 - t, 1.05 - t
    sigma = rate(alpha_t, alpha_s)
    assert bool((sigma <= 1 - alpha_s).all())
    torch.testing.assert_close(move.remask, sigma, atol=1e-12, rtol=0)
    expected = unmask_prob(Rates(alpha_t, alpha_s, sigma))
    torch.testing.assert_close(move.reveal, expected, atol=1e-12, rtol=0)


def test_eta_counts_twice_only_in_the_released_rescaling() -> None:
    a, b = torch.tensor(0.3).double(), torch.tensor(0.4).double()
    ours, released = MaxRescale(0.2)(a, a, b), MaxRescale(0.2, released=True)(a, a, b)
    torch.testing.assert_close(1 - ours, torch.tensor(0.2 / 0.6).double())
    torch.testing.assert_close(1 - released, torch.tensor(0.2 * 0.2 / 0.6).double())


def test_phases_follow_the_share_of_steps() -> None:
    rule = Phases(Constant(0.1), Constant(0.2), Constant(0.3), 0.2, 0.6)
    progress = torch.arange(10).double() / 10
    kappa = rule(progress, progress, progress)
    assert kappa.tolist() == [0.1] * 2 + [0.2] * 6 + [0.3] * 2


def test_a_hold_stays_at_its_level() -> None:
    sampler = Psi(Cosine(), hold=Hold(0.7, 0.4, 0.4))
    times = sampler.time(torch.arange(11).double() / 10)
    assert bool((times[1:] <= times[:-1] + 1e-12).all())
    torch.testing.assert_close(
        sampler.schedule.alpha(times[4:9]),
        torch.full((5,), 0.7, dtype=torch.float64),
        atol=1e-9,
        rtol=0,
    )
    assert times[0] == 1.0
    assert abs(float(times[-1]) - sampler.t_end) < 1e-12


def test_a_constant_kappa_keeps_a_bias_and_a_shrinking_one_does_not() -> None:
    toy, target = NoisyEnumerableDenoiser(joint(), schedule=LINEAR), joint().flatten()

    def error(eta: float, steps: int) -> float:
        return tv(chain_law(toy, Psi(LINEAR, kappa=Constant(eta)), steps), target)

    shrinking = [error(1 - 2 / n, n) for n in (16, 32, 64)]
    assert 1.7 < shrinking[1] / shrinking[2] < 2.3
    constant = [error(0.5, n) for n in (16, 32, 64)]
    assert constant[1] / constant[2] < 1.6


@pytest.mark.parametrize("kind", KINDS)
def test_forward_passes(kind: str) -> None:
    toy: Any = toys(LINEAR)[KINDS.index(kind)]
    out = draws(toy, Psi(LINEAR, kappa=Constant(0.5)), 6, rows=100)
    assert bool((out.steps == 7).all())
    assert bool((out.nfe == 7).all()) == (kind == "uniform")
    assert bool((out.nfe <= 7).all())


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: Constant(1.2), "eta"),
        (lambda: MaxCapped(-0.1), "eta"),
        (lambda: MaxRescale(2.0), "eta"),
        (lambda: ConstantSigma(-1.0), "eta"),
        (lambda: Phases(high_fraction=0.7, middle_fraction=0.6), "high_fraction"),
        (lambda: Hold(alpha=1.0), "alpha"),
        (lambda: Psi(t_end=1.0), "t_end"),
    ],
)
def test_fields_are_checked(build: Any, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        build()


def test_a_table_of_kappas_is_read_position_by_position() -> None:
    from dlm_sampling.processes import Uniform
    from dlm_sampling.processes.psi import psi_law

    p = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double().softmax(-1)
    x, a, b = torch.arange(4), torch.tensor(0.3).double(), torch.tensor(0.6).double()
    kappa = torch.tensor([0.0, 0.4, 0.7, 1.0]).double()
    rows: list[Tensor] = [psi_law(Uniform(), p[i], x[i], a, b, float(kappa[i])) for i in range(4)]
    torch.testing.assert_close(psi_law(Uniform(), p, x, a, b, kappa), torch.stack(rows))


def test_the_shares_of_the_phases_may_add_up_to_one() -> None:
    for high, middle in ((0.0, 1.0), (1.0, 0.0), (0.45, 0.55), (0.7, 0.3), (0.1, 0.9)):
        assert Phases(high_fraction=high, middle_fraction=middle).high_fraction == high
    with pytest.raises(ValueError, match=r"their sum must be at most 1"):
        Phases(high_fraction=0.5, middle_fraction=0.5 + 1e-6)
    for field in ("high_fraction", "middle_fraction"):
        with pytest.raises(ValueError, match=f"{field}=-0.1: must be in"):
            Phases(**{field: -0.1})
