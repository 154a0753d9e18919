"""Constrained draws against enumeration, on a law of three positions over three tokens."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from dlm_sampling import sample, samplers
from dlm_sampling.constraints import Constraint, TokenAutomaton
from dlm_sampling.testing import EnumerableDenoiser, chi_square, count_states
from dlm_sampling.types import TokenLaw

SHAPE = (3, 3)
JOINT = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(0)).double()
DENOISER = EnumerableDenoiser(JOINT)
PROBS = DENOISER.probs(torch.full((1, 3), 3))[0, :, :3]
STATES = torch.tensor(list(itertools.product(range(3), repeat=3)))


def automaton() -> TokenAutomaton:
    """Texts with 0 1 in them, or no 0 at all... as ids: without 0 0 and 2 1, with a 2."""
    return Constraint(banned=[[0, 0], [2, 1]], required=[[2]]).compile(None, 4, never=[3])


ACCEPTED = torch.tensor([automaton().accepts(row) for row in STATES.tolist()])


def law_of(probs: torch.Tensor) -> torch.Tensor:
    """The product of laws [3, 3] conditioned on the constraint, [27]."""
    mass = probs[torch.arange(3), STATES].prod(1) * ACCEPTED
    return mass / mass.sum()


def run(name: str, rows: int, **options: Any) -> Any:
    tokens, editable = torch.full((rows, 3), 3), torch.ones(rows, 3, dtype=torch.bool)
    options = {"steps": 1, "constraint": automaton(), **options}
    made = samplers.create(name, **options.pop("fields", {}))
    return sample(DENOISER, made, tokens, editable, seeds=list(range(rows)), **options)


@pytest.fixture(scope="module")
def drawn() -> Any:
    """Four thousand texts written in one step."""
    return run("llada-random", 4000, law=TokenLaw(), return_trajectory=True)


def place(tokens: torch.Tensor) -> torch.Tensor:
    return (tokens * torch.tensor([9, 3, 1])).sum(1)


def test_a_step_has_the_law_of_the_product_given_the_constraint(drawn: Any) -> None:
    counts, law = count_states(drawn.tokens, 3), law_of(PROBS)
    assert int(counts[~ACCEPTED].sum()) == 0
    assert chi_square(counts[ACCEPTED], law[ACCEPTED]).p > 1e-3


def test_the_log_probability_is_that_law(drawn: Any) -> None:
    wanted = law_of(PROBS).log()[place(drawn.tokens)]
    torch.testing.assert_close(drawn.logprob.double().sum(1), wanted, rtol=0, atol=1e-6)


def test_statistics_are_those_of_the_constrained_marginals(drawn: Any) -> None:
    """Confidence and entropy of a position come from its own law under the constraint."""
    event, law = drawn.trajectory.events[0], law_of(PROBS)
    marginals = [torch.zeros(3).double().index_add(0, STATES[:, i], law) for i in range(3)]
    for i, marginal in enumerate(marginals):
        confidence = marginal.log()[drawn.tokens[:, i]]
        found = event.log_confidence[:, i].double()
        torch.testing.assert_close(found, confidence, rtol=0, atol=1e-6)
        entropy = -(marginal[marginal > 0] * marginal[marginal > 0].log()).sum()
        assert float(event.entropy[0, i]) == pytest.approx(float(entropy), abs=1e-6)


def test_a_tempered_draw_has_the_statistics_of_the_models_own_law() -> None:
    """Tokens are of the law at temperature 0.5, confidences of the plain one, both constrained."""
    out = run("llada-random", 20, law=TokenLaw(temperature=0.5), return_trajectory=True)
    law = law_of(PROBS)
    for i in range(3):
        marginal = torch.zeros(3).double().index_add(0, STATES[:, i], law)
        found = out.trajectory.events[0].log_confidence[:, i].double()
        wanted = marginal.log()[out.tokens[:, i]]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_the_laws_of_positions_are_the_constrained_marginals() -> None:
    class Reads(samplers.LLaDA):
        """Keep the laws that the step sees."""

        def step(self, state: Any, canvas: Any, clock: Any, predict: Any, rng: Any) -> Any:
            seen.append(predict(canvas.tokens, canvas.unknown_fraction).log_probs(canvas.eligible))
            return super().step(state, canvas, clock, predict, rng)

    seen: list[torch.Tensor] = []
    tokens, editable = torch.full((1, 3), 3), torch.ones(1, 3, dtype=torch.bool)
    options: dict[str, Any] = {"seeds": [0], "steps": 1, "constraint": automaton()}
    sample(DENOISER, Reads(), tokens, editable, **options)
    law = law_of(PROBS)
    for i in range(3):
        marginal = torch.zeros(4).double().index_add(0, STATES[:, i], law)
        torch.testing.assert_close(seen[0][i].exp().double(), marginal, rtol=0, atol=1e-6)


def test_steps_add_up_to_the_law_of_the_chain() -> None:
    """Two tokens, then one: each step conditions the law of its own canvas."""
    out = run("llada-random", 300, steps=2, law=TokenLaw(), return_trajectory=True)
    for row in range(300):
        (first, at), _ = out.trajectory.steps(row)
        kept, text = first.written[at], out.tokens[row]
        agree = (STATES[:, kept] == text[kept]).all(1)
        one = law_of(PROBS)[agree].sum()
        given = DENOISER.probs(first.tokens[at][None])[0, :, :3]
        given[kept] = torch.eye(3).double()[text[kept]]
        two = law_of(given)[place(text[None])]
        wanted = float((one * two).log())
        assert float(out.logprob[row].double().sum()) == pytest.approx(wanted, abs=1e-6)


def test_temperature_and_filters_are_of_the_law_before_the_constraint() -> None:
    tempered = (PROBS.log() / 0.5).softmax(1)
    out = run("llada-random", 200, law=TokenLaw(temperature=0.5))
    wanted = law_of(tempered).log()[place(out.tokens)]
    torch.testing.assert_close(out.logprob.double().sum(1), wanted, rtol=0, atol=1e-6)
    two = PROBS.masked_fill(PROBS.sort(1).values[:, 1:2] > PROBS, 0.0)
    mass = law_of(two / two.sum(1, keepdim=True))
    out = run("llada-random", 200, law=TokenLaw(top_k=2))
    wanted = mass.log()[place(out.tokens)]
    torch.testing.assert_close(out.logprob.double().sum(1), wanted, rtol=0, atol=1e-6)


def test_filters_that_leave_no_text_are_left_out() -> None:
    """The most probable token of each position is no 2, and a 2 is required."""
    rule = Constraint(required=[[int(PROBS.argmin(1)[0])] * 2]).compile(None, 4, never=[3])
    accepted = torch.tensor([rule.accepts(row) for row in STATES.tolist()])
    mass = PROBS[torch.arange(3), STATES].prod(1) * accepted
    out = run("llada-random", 200, law=TokenLaw(top_k=1), constraint=rule)
    wanted = (mass / mass.sum()).log()[place(out.tokens)]
    torch.testing.assert_close(out.logprob.double().sum(1), wanted, rtol=0, atol=1e-6)


def test_at_temperature_zero_it_is_the_most_probable_text() -> None:
    out = run("fast-dllm", 2, steps=None, fields={"threshold": 0.0})
    best = law_of(PROBS).argmax()
    assert place(out.tokens).tolist() == [int(best)] * 2
    assert float(out.logprob.abs().sum()) == 0.0


def test_a_constraint_that_forbids_nothing_changes_no_token() -> None:
    free = Constraint(banned=[[3]]).compile(None, 4, never=[3])
    plain = run("ancestral", 64, steps=2, constraint=None)
    assert torch.equal(run("ancestral", 64, steps=2, constraint=free).tokens, plain.tokens)
    # One that is always met takes the same tokens, through the arithmetic of the constraint.
    met = Constraint(banned=[[0] * 4]).compile(None, 4, never=[3])
    assert not met.trivial
    assert run("ancestral", 64, steps=2, constraint=met).tokens.shape == plain.tokens.shape


REFUSED = {"first-hitting-correction", "llada2.1", "picard", "planned-self"}


def masked() -> list[str]:
    return [n for n, e in samplers.available().items() if "absorbing" in e.runs_on]


@pytest.mark.slow
@pytest.mark.parametrize("name", masked())
def test_every_sampler_keeps_it_or_refuses_by_name(name: str) -> None:
    law = TokenLaw(temperature=0.8)
    if name in REFUSED:
        with pytest.raises(ValueError, match=r"^constraint: .*(llada, ancestral|with a mask)"):
            run(name, 20, steps=3, law=law)
        return
    out = run(name, 60, steps=3, law=law)
    assert bool(ACCEPTED[place(out.tokens)].all())
    assert bool((out.logprob <= 0).all())
