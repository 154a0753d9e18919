"""Discrete flow matching: sampled laws are the propagated ones, and the terms do what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling.processes import Absorbing, Uniform, jumps
from dlm_sampling.processes.flow import conditional_jump_law
from dlm_sampling.samplers import Ancestral, FlowMatching
from dlm_sampling.samplers.flow_matching import Form
from dlm_sampling.samplers.parts.grid_move import Interval
from dlm_sampling.schedules import LINEAR, Cosine, Polynomial
from dlm_sampling.testing import (
    EnumerableDenoiser,
    NoisyEnumerableDenoiser,
    product_law,
    tv,
)
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import Process
from tests.parity.folders import fixtures_folder
from tests.parity.laws_processes import clean
from tests.samplers.chains import (
    LENGTH,
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
    FlowMatching(),
    FlowMatching(Polynomial(2.0), jump="exponential"),
    FlowMatching(Cosine(), "argmax", divergence_free=0.7),
    FlowMatching(Polynomial(3.0), jump="exponential", divergence_free=1.5, power=0.5),
    FlowMatching(LINEAR, divergence_free=2.0, power=1.0, power_rest=0.5, form="paper"),
]
KINDS = ["absorbing", "uniform"]


def toy_of(kind: str, sampler: FlowMatching, **options: Any) -> Any:
    return toys(sampler.schedule, **options)[KINDS.index(kind)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_the_sampled_law_is_the_propagated_law(sampler: FlowMatching, kind: str) -> None:
    toy = toy_of(kind, sampler)
    check_draws(toy, sampler, 4, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_tell_the_rules_apart(kind: str) -> None:
    """Negative controls: transitions of one rule fail the law of its neighbours."""
    plain, churned = FlowMatching(Polynomial(2.0)), FlowMatching(LINEAR, divergence_free=1.0)
    toy = toy_of(kind, churned)
    frozen, paper = replace(plain, jump="exponential"), replace(churned, form="paper")
    assert chance(toy, plain, frozen, 4, 2) < 1e-6
    assert chance(toy, churned, replace(churned, divergence_free=0.8), 4, 2) < 1e-6
    # The two forms differ where a position may be noise without showing it.
    assert (chance(toy, churned, paper, 4, 2) < 1e-6) == (kind == "uniform")


@pytest.mark.parametrize("name", ["dfm_library", "dfm_integrated"])
def test_chains_are_the_reference_tables(name: str) -> None:
    """The stored laws of the released solver, and of the integrated jump, step number by number."""
    jump: Any = {"dfm_library": "exponential", "dfm_integrated": "integrated"}[name]
    folder, seen = fixtures_folder() / "laws", 0
    stored = json.loads((folder / "toys.json").read_text())["toys"]
    for file in ("k2_mask", "k2_uniform"):
        for case in json.loads((folder / f"{file}.json").read_text())["cases"]:
            if case["sampler"] != name:
                continue
            law = torch.tensor(stored[case["toy"]], dtype=torch.float64)
            toy: Any = (
                EnumerableDenoiser(law)
                if file == "k2_mask"
                else NoisyEnumerableDenoiser(law, schedule=LINEAR)
            )
            for steps, expected in case["expected"]["by_steps"].items():
                ours = chain_law(toy, FlowMatching(jump=jump), int(steps), law.ndim)
                reference = torch.tensor(expected["law_final"], dtype=torch.float64)
                torch.testing.assert_close(ours, reference, atol=1e-9, rtol=0)
                seen += 1
    assert seen >= 2


@pytest.mark.parametrize("file", ["k1_mask", "k1_uniform"])
def test_the_released_divergence_free_step_is_the_reference_table(file: str) -> None:
    cases = json.loads((fixtures_folder() / "laws" / f"{file}.json").read_text())["cases"]
    (case,) = [c for c in cases if c["sampler"].endswith("dfm_euler_library_divfree")]
    x, post, n = clean(case)
    process: Process = Absorbing(post.shape[-1] - 1) if file == "k1_mask" else Uniform()
    weight = float(n["div_free"])
    sampler = FlowMatching(Polynomial(2.0), jump="exponential", divergence_free=weight)
    law = sampler.next_law(process, post, x, Interval(n["t"], n["s"], 1.0 - n["t"]))
    reference = torch.tensor(case["expected"]["probs"], dtype=torch.float64)
    torch.testing.assert_close(law, reference, atol=1e-9, rtol=0)


def test_on_masks_the_integrated_jump_is_the_ancestral_step() -> None:
    toy = EnumerableDenoiser(joint())
    for steps in (1, 3):
        flow = draws(toy, FlowMatching(), steps + 1, rows=200)
        ancestral = draws(toy, Ancestral(LINEAR, 1 / (steps + 1), "sample"), steps, rows=200)
        assert torch.equal(flow.tokens, ancestral.tokens)
        assert torch.equal(flow.nfe, ancestral.nfe)


@pytest.mark.parametrize("process", [Absorbing(3), Uniform()], ids=lambda p: p.name)
def test_both_forms_leave_the_marginals_alone(process: Process) -> None:
    """sum_x p_t(x) u(x -> y) = 0 for the added term alone, to 1e-12, at each position."""
    t = torch.tensor(0.4).double()
    toy: Any = (
        EnumerableDenoiser(joint())
        if process.name == "absorbing"
        else NoisyEnumerableDenoiser(joint(), schedule=LINEAR)
    )
    states, alpha = all_states(LENGTH, toy.vocab_size), LINEAR.alpha(t)
    clean = torch.nn.functional.one_hot(all_states(LENGTH, SYMBOLS), toy.vocab_size).double()
    noisy = process.forward(clean, alpha)
    marginal = joint().flatten() @ product_law(noisy)
    live = marginal > 0
    states, law = states[live], marginal[live]
    post = prediction(toy, states, LINEAR, t, "posterior")
    for form in ("released", "paper"):
        sampler = FlowMatching(divergence_free=1.0, form=form)
        tiny = 1e-7  # the derivative of the step at h = 0, both sides of the difference
        both = [sampler_law(process, post, states, t, tiny, s) for s in (sampler, FlowMatching())]
        added = (both[0] - both[1]) / tiny
        flow = torch.zeros(len(law)).double()
        place = toy.vocab_size ** torch.arange(LENGTH - 1, -1, -1)
        index = {int((x * place).sum()): n for n, x in enumerate(states)}
        for n, x in enumerate(states):
            for i in range(LENGTH):
                for y in range(toy.vocab_size):
                    moved = x.clone()
                    moved[i] = y
                    where = index.get(int((moved * place).sum()))
                    if where is not None:
                        flow[where] += law[n] * added[n, i, y]
        assert float(flow.abs().max()) < 1e-5
        assert float(added.abs().max()) > 0.1


def sampler_law(
    process: Process, post: Tensor, x: Tensor, t: Tensor, h: float, sampler: FlowMatching
) -> Tensor:
    return sampler.next_law(process, post, x, Interval(t, t - h, 1.0 - t))


def test_without_the_term_it_is_the_mixture_law() -> None:
    generator = torch.Generator().manual_seed(1)
    post = torch.randn(6, 5, generator=generator).double().softmax(-1)
    x, jump = torch.arange(6) % 5, torch.linspace(0.1, 0.9, 6).double()
    law = conditional_jump_law(
        post, x, torch.full((5,), 0.2).double(), -torch.log1p(-jump), torch.zeros(6)
    )
    torch.testing.assert_close(law, jumps.mixture_law(post, x, jump), atol=1e-12, rtol=0)


def test_the_integrated_jump_converges_at_first_order_and_the_frozen_one_is_worse() -> None:
    toy, target = NoisyEnumerableDenoiser(joint(), schedule=LINEAR), joint().flatten()
    error = {
        jump: [tv(chain_law(toy, FlowMatching(jump=jump), n), target) for n in (16, 32)]
        for jump in ("integrated", "exponential")
    }
    assert 1.8 < error["integrated"][0] / error["integrated"][1] < 2.2
    assert error["exponential"][1] > 2 * error["integrated"][1]


def test_the_divergence_free_term_is_consistent() -> None:
    """With many steps the law still goes to the data law, faster if the weight fades."""
    toy = NoisyEnumerableDenoiser(joint(), schedule=LINEAR)

    def ratio(power: float, form: Form) -> float:
        sampler = FlowMatching(divergence_free=1.0, power=power, form=form)
        errors = [tv(chain_law(toy, sampler, n), joint().flatten()) for n in (32, 64)]
        return errors[0] / errors[1]

    forms: tuple[Form, ...] = ("released", "paper")
    for form in forms:
        assert 1.9 < ratio(1.0, form) < 2.1
        assert 1.3 < ratio(0.0, form) < 1.7


@pytest.mark.parametrize("steps", [1, 4])
def test_steps_are_forward_passes(steps: int) -> None:
    sampler = FlowMatching(divergence_free=1.0)
    uniform = draws(toy_of("uniform", sampler), sampler, steps, rows=20)
    assert uniform.nfe.tolist() == [steps] * 20
    masks = draws(toy_of("absorbing", sampler), sampler, steps, rows=200)
    assert bool((masks.nfe <= steps).all())
    assert steps == 1 or bool((masks.nfe < steps).any())


@pytest.mark.parametrize(
    "fields",
    [
        {"jump": "exact"},
        {"form": "other"},
        {"divergence_free": -1.0},
        {"power": float("nan")},
        {"noise_removal": "none"},
    ],
)
def test_fields_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        FlowMatching(**fields)
