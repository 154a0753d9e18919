"""Messages against enumeration: every text of four positions over four tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dlm_sampling.constraints.automaton import TokenAutomaton
from dlm_sampling.constraints.dfa import product, word_present, words_absent
from dlm_sampling.constraints.messages import Masses, class_masses
from dlm_sampling.testing import all_states

LENGTH, SYMBOLS = 4, 4
STATES = all_states(LENGTH, SYMBOLS)


@pytest.fixture(scope="module")
def automaton() -> TokenAutomaton:
    """Texts with 0 1 in them and without 2 2; token 3 is never written."""
    dfa = product(word_present([0, 1], SYMBOLS), words_absent([[2, 2]], SYMBOLS))
    return TokenAutomaton.of(dfa, np.array([0, 1, 2, -1]))


def joint(law: torch.Tensor, automaton: TokenAutomaton) -> torch.Tensor:
    """The product law conditioned on the constraint, by enumeration, [4^4]."""
    accepted = torch.tensor([automaton.accepts(row) for row in STATES.tolist()])
    wrong = torch.tensor(["01" in (t := "".join(map(str, r))) and "22" not in t and "3" not in t
                          for r in STATES.tolist()])  # fmt: skip
    assert torch.equal(accepted, wrong)
    total = law[torch.arange(LENGTH), STATES].prod(1) * accepted
    return total / total.sum()


@pytest.fixture(scope="module")
def case(automaton: TokenAutomaton) -> tuple[torch.Tensor, Masses, torch.Tensor]:
    """A law of four positions, its masses, and the enumerated joint law."""
    law = torch.rand(LENGTH, SYMBOLS, generator=torch.Generator().manual_seed(0)).double()
    law = law / law.sum(1, keepdim=True)
    unknown = torch.ones(1, LENGTH, dtype=torch.bool)
    known = Masses.known(automaton, torch.zeros(1, LENGTH, dtype=torch.int64), unknown, unknown)
    zero, column = torch.zeros(LENGTH, dtype=torch.int64), torch.arange(LENGTH)
    masses = known.with_law(zero, column, class_masses(law.log(), automaton))
    return law, masses, joint(law, automaton)


def test_the_normaliser_is_the_mass_of_the_accepted_texts(
    automaton: TokenAutomaton, case: tuple[torch.Tensor, Masses, torch.Tensor]
) -> None:
    law, masses, _ = case
    accepted = torch.tensor([automaton.accepts(row) for row in STATES.tolist()])
    mass = (law[torch.arange(LENGTH), STATES].prod(1) * accepted).sum()
    assert float(masses.backward()[0, 0, 0]) == pytest.approx(float(mass.log()), abs=1e-12)


def test_the_factors_give_the_marginals(
    automaton: TokenAutomaton, case: tuple[torch.Tensor, Masses, torch.Tensor]
) -> None:
    law, masses, exact = case
    factors = masses.class_factors(masses.backward())[0][:, automaton.classes]
    for i in range(LENGTH):
        wanted = torch.zeros(SYMBOLS).double().index_add(0, STATES[:, i], exact)
        torch.testing.assert_close(law[i] * factors[i].exp(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (1, 3), (2,), (0, 2, 3)])
def test_the_chain_is_the_law_of_the_kept_tokens(
    kept: tuple[int, ...], case: tuple[torch.Tensor, Masses, torch.Tensor]
) -> None:
    law, masses, exact = case
    beta, chosen = masses.backward(), torch.zeros(1, LENGTH, dtype=torch.bool)
    chosen[0, list(kept)] = True
    for state in STATES[exact > 0]:
        same = (STATES[:, list(kept)] == state[list(kept)]).all(1)
        logp = law[torch.arange(LENGTH), state].log()[None]
        chain = masses.chain(beta, chosen, logp, state[None])
        assert float(chain.sum()) == pytest.approx(math.log(exact[same].sum()), abs=1e-12)
        assert bool((chain[~chosen] == 0).all())


def test_the_best_path_is_the_most_probable_text(
    automaton: TokenAutomaton, case: tuple[torch.Tensor, Masses, torch.Tensor]
) -> None:
    law, masses, exact = case
    best, zero = torch.tensor([True]), torch.zeros(LENGTH, dtype=torch.int64)
    mass = class_masses(law.log(), automaton, best.expand(LENGTH))
    largest = masses.with_law(zero, torch.arange(LENGTH), mass)
    found = largest.classes(largest.backward(best=best), torch.full((1, LENGTH), 0.5), best)
    assert torch.equal(found[0], automaton.classes[STATES[exact.argmax()]])


def test_a_free_position_says_whether_the_rest_can_be_completed(automaton: TokenAutomaton) -> None:
    tokens = torch.tensor([[2, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]])
    unknown = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    beta = Masses.known(automaton, tokens, torch.ones(3, 4).bool(), unknown).backward()
    assert beta[:, 0, 0].tolist() == [0.0, -math.inf, -math.inf]  # 2 0 1 0; 2 2; no 0 1
