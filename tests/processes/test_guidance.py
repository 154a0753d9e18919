"""Guidance against closed forms: product laws, Bayes' rule, linear classifiers, rates of unmasking.

The tables of the authors' code are compared in `test_parity_laws`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.processes import Absorbing, Uniform, guidance
from dlm_sampling.testing import EnumerableDenoiser
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import DenoiserOutput, Pass, TokenLaw

SIZE, MASK = 4, 3
LEVELS = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)


def laws(seed: int, *shape: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=g, dtype=torch.float64)).softmax(-1)


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_one_position_has_the_product_law() -> None:
    c, u = laws(1, 7, SIZE), laws(2, 7, SIZE)
    for gamma in (-0.5, 0.4, 1.5, 3.0):
        weights = c**gamma * u ** (1 - gamma)
        same(guidance.classifier_free_law(c, u, gamma), weights / weights.sum(-1, keepdim=True))
    assert guidance.classifier_free_law(c, u, 1.0) is c
    assert guidance.classifier_free_law(c, u, 0.0) is u


@pytest.mark.parametrize("gamma", [-0.5, 0.4, 1.5])
def test_tokens_without_probability_stay_without(gamma: float) -> None:
    c, u = laws(1, 2, SIZE), laws(2, 2, SIZE)
    c[..., MASK] = u[..., MASK] = 0.0
    c[0, 0] = u[1, 1] = 0.0
    guided = guidance.classifier_free_law(c, u, gamma)
    same(guided.sum(-1), torch.ones(2, dtype=torch.float64))
    assert (guided == 0.0).tolist() == [[True, False, False, True], [False, True, False, True]]


def test_is_what_the_loop_does_with_its_scale() -> None:
    class Table(Denoiser):
        """A law at masks that depends on whether the first token is visible."""

        def forward(self, inputs: Pass) -> DenoiserOutput:
            blank = (inputs.tokens[:, :1] == MASK).view(-1, 1, 1)
            return DenoiserOutput(torch.where(blank, logits[1], logits[0]))

    logits = torch.randn(2, 5, SIZE, generator=torch.Generator().manual_seed(0)).double()
    model = Table(vocab_size=SIZE, mask_token_id=MASK, honours_padding=True)
    x = torch.tensor([[0, MASK, MASK, MASK, MASK]])
    everywhere = torch.ones_like(x).bool()
    law = TokenLaw(suppressed=(MASK,))
    predictor = Predictor.alone(model, law, everywhere, guidance_scale=1.3, given=x != MASK)
    loop = predictor(x, torch.ones(1).double()).log_probs(x == MASK).exp()
    logits[..., MASK] = -torch.inf
    c, u = (part[1:].softmax(-1) for part in logits)
    same(loop, guidance.classifier_free_law(c, u, 2.3))
    assert predictor.nfe.tolist() == [2]


def joint_and_class(seed: int) -> tuple[Tensor, Tensor]:
    """P(x) on two positions and P(c | x)."""
    return laws(seed, 9).view(3, 3), laws(seed + 1, 9, 2)[:, 0].view(3, 3)


def exact_classifier(joint: Tensor, given: Tensor, noise: Tensor) -> Tensor:
    """P(c | z) when both positions went through `noise` [symbols of x, symbols of z]."""
    weights = torch.einsum("ab,ay,bz->yz", joint, noise, noise)
    return torch.einsum("ab,ay,bz->yz", joint * given, noise, noise) / weights


def test_an_exact_classifier_turns_the_law_into_the_conditional_one() -> None:
    """Bayes' rule at gamma 1, under masking for the whole law, mask included."""
    joint, given = joint_and_class(3)
    alpha = LEVELS[0]
    noise = torch.cat([alpha * torch.eye(3), (1 - alpha) * torch.ones(3, 1)], 1).double()
    table = exact_classifier(joint, given, noise).log()
    posterior = (joint * given) / (joint * given).sum()
    x, process = all_states(2, SIZE), Absorbing(MASK)
    laws_of = [
        process.reverse(EnumerableDenoiser(j).probs(x), x, *LEVELS) for j in (joint, posterior)
    ]
    ratios = guidance.candidate_log_ratios(lambda z: table[tuple(z.T)], x, SIZE)
    same(guidance.classifier_based_law(laws_of[0], ratios, 1.0), laws_of[1])
    same(guidance.rate_preserving_law(laws_of[0], ratios, x, 1.0), laws_of[1])


def test_only_one_rule_keeps_the_rate_of_unmasking() -> None:
    x, process = all_states(2, SIZE), Absorbing(MASK)
    p = laws(5, len(x), 2, SIZE)
    p[..., MASK] = 0.0
    law = process.reverse(p / p.sum(-1, keepdim=True), x, *LEVELS)
    ratios = laws(6, len(x), 2, SIZE).log()
    kept = guidance.rate_preserving_law(law, ratios, x, 2.0)
    same(kept.sum(-1), torch.ones_like(kept[..., 0]))
    same(kept[..., MASK], law[..., MASK])
    same(kept[x != MASK], law[x != MASK])
    drifted = guidance.classifier_based_law(law, ratios, 2.0)
    assert float((drifted - law)[x == MASK][:, MASK].abs().min()) > 1e-3
    # What is left of the two is the same choice among tokens.
    tokens = [q[x == MASK][:, :MASK] for q in (kept, drifted)]
    same(*(q / q.sum(-1, keepdim=True) for q in tokens))
    assert guidance.rate_preserving_law(law, ratios, x, 0.0) is law
    assert guidance.classifier_based_law(law, ratios, 0.0) is law


def test_first_order_is_exact_for_a_linear_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(7)).double()
    seen: list[int] = []

    def classifier(z: Tensor) -> Tensor:
        seen.append(len(z))
        return weights[torch.arange(3), z].sum(1) - 5.0

    monkeypatch.setattr(guidance, "CANDIDATES", 7)
    x = all_states(3, SIZE)[::5]
    exact = guidance.candidate_log_ratios(classifier, x, SIZE)
    same(exact, guidance.first_order_log_ratios(weights.expand(len(x), 3, SIZE), x))
    assert sum(seen) == len(x) * (3 * (SIZE - 1) + 1)
    assert max(seen[1:]) == 7
    law = Uniform().reverse(laws(8, len(x), 3, SIZE), x, *LEVELS)
    tilted = law * torch.exp(1.5 * exact)
    same(guidance.classifier_based_law(law, exact, 1.5), tilted / tilted.sum(-1, keepdim=True))
