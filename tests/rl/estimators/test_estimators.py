"""Likelihood estimators of policy gradients against enumeration and arithmetic by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlm_sampling import elbo, wrap
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.likelihood.mask_plans import MaskPlan
from dlm_sampling.rl import (
    coupled_logprob,
    level_of_iteration,
    mean_field_logprob,
    one_level_logprob,
    spg_loss,
    upper_bound,
    wd1_loss,
)
from dlm_sampling.testing import all_states
from tests.samplers.small import LENGTH, SYMBOLS, small_toy

MASK = 3
TEXTS = all_states(LENGTH, SYMBOLS)
ALL = torch.ones_like(TEXTS, dtype=torch.bool)
ESTIMATORS: dict[str, Callable[..., Tensor]] = {
    "mean_field": mean_field_logprob,
    "coupled": coupled_logprob,
    "one_level": lambda *args, **options: one_level_logprob(*args, level=0.6, **options),
    "upper_bound": lambda *args, **options: upper_bound(*args, n=5, **options),
}


def by_hand(toy: Denoiser, text: Tensor, hidden: Tensor) -> Tensor:
    """log p(x_i | canvas) of every position, [L]."""
    logits = toy.logits(text.masked_fill(hidden, MASK)[None])[0, :, :SYMBOLS]
    return logits.log_softmax(-1).gather(1, text.unsqueeze(1)).squeeze(1)


def subsets(length: int) -> list[Tensor]:
    return [torch.tensor(bits) for bits in itertools.product((False, True), repeat=length)]


def test_mean_field_masks_the_answer_and_some_of_the_prompt() -> None:
    toy = small_toy()
    editable = torch.tensor([False, True, True]).expand_as(TEXTS)
    plain = mean_field_logprob(toy, TEXTS, editable=editable, seed=0, prompt_masking=0.0)
    drawn = mean_field_logprob(toy, TEXTS, editable=editable, seed=0, prompt_masking=0.4)
    hidden = 0
    for text, one, other in zip(TEXTS, plain, drawn, strict=True):
        kept, gone = (by_hand(toy, text, torch.tensor([h, True, True])) for h in (False, True))
        torch.testing.assert_close(one[1:], kept[1:])
        assert one[0] == other[0] == 0.0
        near = [bool((other[1:] - x[1:]).abs().max() < 1e-9) for x in (kept, gone)]
        assert sum(near) == 1
        hidden += near[1]
    assert 5 <= hidden <= 17  # of 27 with chance 0.4: 0.02 % outside


def test_coupled_is_the_mean_over_all_masks_and_levels() -> None:
    """At one level the expectation over S is a sum over all subsets."""
    toy, t, count = small_toy(), 0.3, 20_000
    text = TEXTS[11]
    every = by_hand(toy, text, torch.ones(3).bool())
    exact = every / 2
    for chosen in subsets(3):
        chance = math.prod(t if bit else 1 - t for bit in chosen.tolist())
        inside, outside = by_hand(toy, text, chosen), by_hand(toy, text, ~chosen)
        exact = exact + chance * torch.where(chosen, inside / t, outside / (1 - t)) / 2
    many = text.expand(count, -1)
    found = coupled_logprob(toy, many, editable=torch.ones_like(many).bool(), seed=0, levels=(t, t))
    error = found.std(0) / math.sqrt(count)
    assert ((found.mean(0) - exact).abs() < 4 * error).all()
    assert (error < 0.02).all()
    # Each row has a value at every token, from its own mask or the complement.
    assert bool((found != 0.0).all())


def test_one_level_is_the_mean_over_the_masked_tokens() -> None:
    toy, text, count, t = small_toy(), TEXTS[14], 20_000, 0.6
    exact = 0.0
    for chosen in subsets(3)[1:]:
        chance = math.prod(t if bit else 1 - t for bit in chosen.tolist())
        exact += chance * float(by_hand(toy, text, chosen)[chosen].mean())
    many = text.expand(count, -1)
    found = one_level_logprob(toy, many, editable=torch.ones_like(many).bool(), level=t, seed=3)
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / math.sqrt(count)
    ends = [
        one_level_logprob(toy, many[:1], editable=many[:1] >= 0, level=x, seed=0)
        for x in (0.0, 1.0)
    ]
    assert float(ends[0]) == 0.0
    assert abs(float(ends[1]) - float(by_hand(toy, text, torch.ones(3).bool()).mean())) < 1e-12


def test_levels_are_spread_over_the_iterations() -> None:
    found = [level_of_iteration(i, 4, 0.6) for i in range(4)]
    assert found == pytest.approx([0.6, 0.85, 0.1, 0.35])
    for bad in ((4, 4, 0.5), (-1, 4, 0.5), (0, 4, 1.0)):
        with pytest.raises(ValueError, match="must be"):
            level_of_iteration(*bad)


def test_types_are_checked_before_ranges() -> None:
    with pytest.raises(TypeError, match="level"):
        one_level_logprob(small_toy(), TEXTS, editable=ALL, level="x", seed=0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"n is a float|n="):
        upper_bound(small_toy(), TEXTS, editable=ALL, n=2.0, seed=0)  # type: ignore[arg-type]
    for bad in ((0.5, 4, 0.5), (0, "4", 0.5), (0, 4, "0.5")):
        with pytest.raises(TypeError, match=r"iteration|start"):
            level_of_iteration(*bad)  # type: ignore[arg-type]
    for levels in (0.5, (0.2,), "ab", (0.2, "x")):
        with pytest.raises(TypeError, match="levels"):
            coupled_logprob(small_toy(), TEXTS, editable=ALL, levels=levels, seed=0)  # type: ignore[arg-type]
    one = torch.zeros(2)
    with pytest.raises(TypeError, match="mix"):
        spg_loss(one, one, one, mix="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="group"):
        wd1_loss(one, one, 2.0)  # type: ignore[arg-type]


def test_a_plan_of_other_texts_is_refused_by_both_bounds() -> None:
    toy = small_toy()
    plan = elbo(toy, TEXTS, editable=ALL, n=2, seed=0).masks
    narrow = ALL.clone()
    narrow[:, 0] = False
    covering = MaskPlan(torch.ones_like(plan.masks), plan.weights)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"masks": plan, "n": 3}, "masks: a plan comes with its number and seeds"),
        ({"masks": plan, "seed": 0}, "masks: a plan comes with its number and seeds"),
        (
            {"masks": MaskPlan(plan.masks[:, :1], plan.weights[:, :1])},
            "masks: the plan is for rows",
        ),
        ({"masks": covering, "editable": narrow}, "masks positions that are not editable"),
        ({"masks": "x"}, "masks is a str: must be a MaskPlan"),
        ({"seed": "a"}, "seed='a': must be a whole number"),
        ({"n": True, "seed": 0}, "n=True: must be a whole number"),
        ({"tokens": TEXTS.tolist(), "seed": 0}, "tokens is a list: must be a tensor"),
        ({"editable": "x", "seed": 0}, "editable is a str: must be a tensor"),
        ({"denoiser": "x", "seed": 0}, r"denoiser is a str: must be a Denoiser.* wrap"),
    ]
    for given, message in wrong:
        options: dict[str, Any] = {"denoiser": toy, "tokens": TEXTS, "editable": ALL, **given}
        for bound in (elbo, upper_bound):
            with pytest.raises((TypeError, ValueError), match=message):
                bound(**options)
    with pytest.raises(TypeError, match="seed=None: must be given"):
        upper_bound(toy, TEXTS, editable=ALL)
    with pytest.raises(TypeError, match="grad='yes': must be True or False"):
        elbo(toy, TEXTS, editable=ALL, grad="yes")  # type: ignore[arg-type]


def likelihood(toy: Denoiser, text: Tensor) -> float:
    """log of the mean over orders of the chance of writing the text one by one."""
    chains: list[float] = []
    for order in itertools.permutations(range(len(text))):
        hidden, total = torch.ones_like(text).bool(), 0.0
        for i in order:
            total += float(by_hand(toy, text, hidden)[i])
            hidden[i] = False
        chains.append(total)
    return float(torch.tensor(chains, dtype=torch.float64).logsumexp(0)) - math.log(len(chains))


def test_the_likelihood_lies_between_the_bounds() -> None:
    toy = small_toy()
    lower = elbo(toy, TEXTS, editable=ALL, scheme="enumerate")
    exact = torch.tensor([likelihood(toy, text) for text in TEXTS], dtype=torch.float64)
    upper = upper_bound(toy, TEXTS, editable=ALL, masks=lower.masks, beta=float(LENGTH))
    assert (lower.value <= exact + 1e-12).all() and (exact <= upper + 1e-12).all()
    assert (exact - lower.value).max() > 0.01 and (upper - exact).max() > 0.01
    # beta = 1, by hand: sum over i of the log of the mean over masks that hold i.
    plan = MaskPlan(lower.masks.masks[:, 4:5], lower.masks.weights[:, 4:5])
    one = upper_bound(toy, TEXTS[4:5], editable=ALL[:1], masks=plan, beta=1.0)
    exact_one = 0.0
    for i in range(3):
        mean = 0.0
        for chosen in subsets(3):
            if chosen[i]:
                size = int(chosen.sum())
                mean += float(by_hand(toy, TEXTS[4], chosen)[i].exp()) / 3 / math.comb(2, size - 1)
        exact_one += math.log(mean)
    assert abs(float(one) - exact_one) < 1e-12


def test_the_papers_exponent_is_no_bound_for_every_law() -> None:
    """Two tokens: written first either is certain, written second next to impossible, or back."""

    def logits(input_ids: Tensor) -> Tensor:
        hidden = (input_ids == 2).sum(1)
        # Position 0 is certain last and rare first, position 1 certain first and rare last.
        chance = torch.where(hidden.unsqueeze(1) == 2, torch.tensor([0.001, 0.999]),
                             torch.tensor([0.999, 0.001]))  # fmt: skip
        both = torch.stack([chance, 1 - chance], 2).double().log()
        return torch.cat([both, torch.full_like(both[..., :1], -torch.inf)], 2)

    toy, text = wrap(logits, vocab_size=3, mask_token_id=2), torch.zeros(1, 2).long()
    everywhere = torch.ones_like(text).bool()
    lower = elbo(toy, text, editable=everywhere, scheme="enumerate")
    # One order has chance 0.999^2, the other 0.001^2: on average nearly 1/2.
    exact = math.log((0.999**2 + 0.001**2) / 2)
    at = {
        beta: float(upper_bound(toy, text, editable=everywhere, masks=lower.masks, beta=beta))
        for beta in (1.5, 2.0)
    }
    assert float(lower.value) < at[1.5] < exact - 0.2
    assert exact <= at[2.0] + 1e-12


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_row_has_its_own_masks_whatever_stands_beside_it(name: str) -> None:
    """Padding, order of the rows and micro-batches change nothing."""
    toy = small_toy(length=8, vocab_size=7).variant(honours_padding=False)
    made = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 6, (4, 6), generator=made)
    editable = torch.arange(6).expand(4, -1) >= 2
    estimate, seed = ESTIMATORS[name], [5, 6, 7, 8]
    one = estimate(toy, tokens, editable=editable, seed=seed)

    def padded(x: Tensor) -> Tensor:
        return nn.functional.pad(x, (2, 0))

    two = estimate(
        toy, padded(tokens), editable=padded(editable), seed=seed, batch_size=3,
        attention_mask=padded(torch.ones_like(tokens)),
    )  # fmt: skip
    two = two[:, 2:] if two.ndim == 2 else two
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    order = torch.tensor([2, 0])
    part = estimate(toy, tokens[order], editable=editable[order], seed=[7, 5])
    torch.testing.assert_close(part, one[order], rtol=0, atol=1e-12)
    other = estimate(toy, tokens, editable=editable, seed=[15, 16, 17, 18])
    assert bool((other - one).abs().max() > 1e-3)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    table = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    table.requires_grad_()
    mixing = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def network(input_ids: Tensor) -> Tensor:
        own = table[torch.arange(3), input_ids]
        return torch.einsum("ij,bjv->biv", mixing, own)

    toy = wrap(network, vocab_size=4, mask_token_id=MASK)
    text = TEXTS[[5, 21]]

    def value() -> Tensor:
        return ESTIMATORS[name](toy, text, editable=ALL[:2], seed=[1, 2]).sum()

    (found,) = torch.autograd.grad(value(), table)
    assert found.isfinite().all()
    step = 1e-5
    with torch.no_grad():
        for at in itertools.product(range(3), range(4), range(3)):
            table[at] += step
            high = value()
            table[at] -= 2 * step
            low = value()
            table[at] += step
            assert abs(float((high - low) / (2 * step) - found[at])) < 1e-7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mean_field", {"prompt_masking": 1.5}, "prompt_masking=1.5"),
        ("mean_field", {"prompt_masking": "x"}, "prompt_masking"),
        ("coupled", {"levels": (0.0, 0.5)}, r"levels=\(0.0, 0.5\)"),
        ("coupled", {"levels": ("a", 0.5)}, r"levels\[0\]"),
        ("upper_bound", {"beta": 0.5}, "beta=0.5"),
        ("upper_bound", {"beta": "x"}, "beta"),
        ("upper_bound", {"masks": None, "batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_arguments_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        ESTIMATORS[name](small_toy(), TEXTS, editable=ALL, seed=0, **options)
    with pytest.raises(ValueError, match="is the mask id"):
        ESTIMATORS[name](small_toy(), torch.full_like(TEXTS, MASK), editable=ALL, seed=0)
