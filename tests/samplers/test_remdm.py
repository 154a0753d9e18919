"""ReMDM and its relatives: reductions, marginals, switch points, and chi-square of real draws."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.prediction.model import full_law
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.samplers import (
    Ancestral,
    Cap,
    Confidence,
    DFMCorrector,
    ForwardBackward,
    Loop,
    ReMDM,
    Rescale,
    Switch,
    create,
)
from dlm_sampling.samplers.parts.remasking import Rates, unmask_prob
from dlm_sampling.samplers.remdm import RemaskRate
from dlm_sampling.schedules import LINEAR, LogLinear
from dlm_sampling.testing import chi_square
from dlm_sampling.types import Canvas, Clock, TokenLaw
from tests.samplers.small import run, small_toy
from tests.test_laws_by_sampling import P_LIMIT, counts, expected, toy

LENGTH, VOCAB = 12, 8


def toy_of_length(length: int) -> Any:
    return small_toy(3, length, VOCAB)


def column(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.mark.parametrize("rate", [Cap(0.0), Rescale(0.0), Switch(Rescale(1.0), 1e-4, 0.0)])
@pytest.mark.parametrize("steps", [1, 5, 16])
def test_rate_zero_is_ancestral_token_for_token(rate: RemaskRate, steps: int) -> None:
    """Also where the remasking is switched on only after the last grid point."""
    options: dict[str, Any] = {"length": LENGTH, "rows": 40, "steps": steps, "law": TokenLaw()}
    ours = run(toy_of_length(LENGTH), ReMDM(rate), **options)
    reference = run(toy_of_length(LENGTH), Ancestral(LogLinear(0.0)), **options)
    if isinstance(rate, Switch):  # the grid has points between t_on and its end only for many steps
        assert steps < 1 / rate.t_on
    assert torch.equal(ours.tokens, reference.tokens)
    assert torch.equal(ours.logprob, reference.logprob)
    assert torch.equal(ours.nfe, reference.nfe)


def test_a_positive_rate_is_not_ancestral() -> None:
    options: dict[str, Any] = {"length": LENGTH, "rows": 40, "steps": 16, "law": TokenLaw()}
    ours = run(toy_of_length(LENGTH), ReMDM(Rescale(0.5)), **options)
    reference = run(toy_of_length(LENGTH), Ancestral(LogLinear(0.0)), **options)
    assert not torch.equal(ours.tokens, reference.tokens)
    assert int(ours.nfe.sum()) > int(reference.nfe.sum())


RATES: list[RemaskRate] = [
    Cap(0.1),
    Cap(1.0),
    Rescale(0.3),
    Rescale(1.0),
    Switch(Cap(0.2), 0.7, 0.2),
]


@pytest.mark.parametrize("rate", [*RATES, ForwardBackward()])
def test_the_marginal_is_that_of_the_forward_process(rate: RemaskRate) -> None:
    """(1 - alpha_t)(1 - p_unmask) + alpha_t sigma = 1 - alpha_s, wherever no weight is negative."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        s, t = sorted(torch.rand(2, generator=generator).double().tolist())
        rates = rate(column(t), column(s), column(0.0), torch.ones(1, 1).bool())
        if float(rates.sigma) > min(1.0, s / (1 - t)):
            assert isinstance(rate, ForwardBackward)
            continue
        assert float(masked_after(rates)) == pytest.approx(s, abs=1e-12)


def masked_after(rates: Rates) -> Tensor:
    return (1 - rates.alpha_t) * (1 - unmask_prob(rates)) + rates.alpha_t * rates.sigma


def test_the_marginal_of_the_corrector_is_that_of_the_forward_process() -> None:
    sampler, steps = DFMCorrector(), torch.tensor(24)
    for t in torch.linspace(1.0, 0.05, 40, dtype=torch.float64):
        s = sampler.following(t, steps)
        rates = sampler.rates(t, s)
        assert float(masked_after(rates)) == pytest.approx(float(s), abs=1e-12)
        assert 0.0 <= float(rates.sigma) <= 1.0
        assert 0.0 <= float(unmask_prob(rates)) <= 1.0 + 1e-12


def test_confidence_rates_share_sigma_max() -> None:
    confidence = torch.tensor([[0.9, 0.1, 0.0]], dtype=torch.float64)
    committed = torch.tensor([[True, True, False]])
    sigma = Confidence()(column(0.6), column(0.5), confidence, committed).sigma
    weight = torch.softmax(torch.tensor([-0.9, -0.1]).double(), 0)
    assert torch.allclose(sigma[0, :2], weight * min(1.0, 0.5 / 0.4))
    assert float(sigma[0, 2]) == 0.0
    nothing = Confidence()(column(0.6), column(0.5), confidence, torch.zeros(1, 3).bool()).sigma
    assert bool((nothing == 0).all())


@pytest.mark.parametrize("steps", [3, 8, 20])
def test_corrector_of_strength_zero_is_ancestral(steps: int) -> None:
    """On the grid 1, 1 - 1 / N, .., 0."""
    sampler = DFMCorrector(strength=0.0)
    grid = sampler.grid(steps)
    assert grid == pytest.approx([1 - k / steps for k in range(steps + 1)], abs=1e-12)
    log_p0 = (
        torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0)).double().log_softmax(-1)
    )
    log_p0[..., 4] = float("-inf")
    log_p0 = log_p0.log_softmax(-1)
    x = torch.tensor([[4, 2, 4, 0]])
    canvas = Canvas(x, x == 4, torch.ones_like(x).bool(), torch.zeros(1).long(), 4)
    for t, s in itertools.pairwise(grid):
        ours = sampler.transition_probs(canvas, log_p0, column(t), column(s))
        assert torch.allclose(
            ours, Ancestral(LINEAR).transition_probs(canvas, log_p0, column(t), column(s))
        )


def test_the_corrector_masks_again_and_counts_its_grid() -> None:
    out = run(
        toy_of_length(LENGTH), DFMCorrector(), length=LENGTH, rows=20, steps=8, law=TokenLaw()
    )
    assert out.trajectory is not None
    assert bool((out.steps == len(DFMCorrector().grid(8))).all())
    assert any(
        bool((e.tokens == VOCAB - 1)[e.before != VOCAB - 1].any()) for e in out.trajectory.events
    )


CORRECTORS: list[tuple[str, Any, int]] = [
    ("forward_backward", ReMDM(ForwardBackward()), 4),
    ("forward_backward", ReMDM(ForwardBackward()), 8),
    ("dfm_corrector", DFMCorrector(), 2),
    ("dfm_corrector", DFMCorrector(), 4),
]


@pytest.mark.parametrize("toy_name", ["mask_mild", "mask_strong"])
@pytest.mark.parametrize(("name", "sampler", "steps"), CORRECTORS)
def test_draws_have_the_exact_law(name: str, sampler: Any, steps: int, toy_name: str) -> None:
    """The last step takes the argmax of what is masked, so the reference is greedy."""
    reference = expected(name, toy_name, steps, "law_final_greedy")
    result = chi_square(counts(toy(toy_name), sampler, steps, rows=20_000), reference)
    assert result.p > P_LIMIT, result


def test_another_rate_fails_that_law() -> None:
    """Negative control."""
    reference = expected("forward_backward", "mask_strong", 4, "law_final_greedy")
    assert (
        chi_square(counts(toy("mask_strong"), ReMDM(Cap(0.0)), 4, rows=20_000), reference).p
        < P_LIMIT
    )


@pytest.mark.parametrize("name", ["remdm-cap", "remdm-rescale", "remdm-conf"])
def test_nothing_is_masked_again_outside_the_switch_points(name: str) -> None:
    options = {} if name == "remdm-conf" else {"eta": 1.0}
    sampler = create(name, t_on=0.6, t_off=0.3, **options)
    out = run(toy_of_length(LENGTH), sampler, length=LENGTH, rows=50, steps=20, law=TokenLaw())
    assert out.trajectory is not None
    again = [bool((e.unknown & (e.before != VOCAB - 1)).any()) for e in out.trajectory.events]
    inside = [0.3 < 1 - k / 20 * (1 - 1e-5) <= 0.6 for k in range(21)]
    assert any(again)
    assert all(on or not masked for on, masked in zip(inside, again, strict=True))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Cap(1.5), r"eta=1.5"),
        (lambda: Rescale(-0.1), r"eta=-0.1"),
        (lambda: Loop(eta=0.2), r"eta=0.2.*0.1111"),
        (lambda: Loop(t_on=0.1, t_off=0.2), r"t_off < t_on"),
        (lambda: Switch(Cap(), 0.2, 0.5), r"t_on=0.2, t_off=0.5"),
        (lambda: DFMCorrector(strength=-1.0), r"strength=-1.0.*10"),
        (lambda: DFMCorrector(t_end=1.0), r"t_end=1.0"),
        (lambda: ReMDM(t_end=-1.0), r"t_end=-1.0"),
    ],
)
def test_fields_out_of_range_are_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("law", [TokenLaw(0.5), TokenLaw(top_p=0.7)], ids=str)
def test_confidence_is_that_of_the_law_that_was_drawn(law: TokenLaw) -> None:
    """With a temperature or filters it is not the probability under the model's own law."""
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0], dtype=torch.float64)
    denoiser = wrap(
        lambda input_ids: probs.log().expand(*input_ids.shape, 5), vocab_size=5, mask_token_id=4
    )
    tokens = torch.full((40, 6), 4)
    everywhere, zero = torch.ones_like(tokens).bool(), torch.zeros(40, dtype=torch.int64)
    canvas = Canvas(tokens, everywhere, everywhere, zero, 4)
    predict = Predictor.alone(denoiser, full_law(law, denoiser), everywhere)
    sampler = ReMDM(Confidence())
    clock = Clock(zero, torch.full_like(zero, 2))
    rng = ops.Rng.from_seeds(range(40))
    state, step = sampler.step(sampler.init(canvas), canvas, clock, predict, rng)
    written = ~step.unknown
    sampled = ops.log_probs(probs.log()[None], law=law)[0].exp()
    assert written.sum() > 80
    torch.testing.assert_close(state.confidence[written], sampled[step.tokens[written]])
    assert (state.confidence[written] - probs[step.tokens[written]]).abs().max() > 0.05
