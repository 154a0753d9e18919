"""dInfer: near-ties of the threshold, the hierarchy of runs, and the credit."""

from __future__ import annotations

import itertools

import pytest
import torch

from dlm_sampling.samplers import DInferCredit, DInferHierarchy, DInferThreshold, LLaDA
from dlm_sampling.samplers.dinfer import best_of_runs
from dlm_sampling.samplers.dinfer_credit import CreditState
from dlm_sampling.types import Clock, TokenLaw
from tests.samplers.adaptive import (
    P_LIMIT,
    against_rule,
    best,
    confidence,
    peaked,
    run,
    same_run,
    toys,
    written_per_step,
)


def threshold_rule(tau):
    def choose(laws, drawn):
        conf = confidence(laws, drawn)
        return {i for i in conf if conf[i] >= min(tau, max(conf.values()) - 1e-5)}

    return choose


def runs(positions):
    """Maximal runs of consecutive integers."""
    grouped = itertools.groupby(enumerate(sorted(positions)), key=lambda pair: pair[1] - pair[0])
    return [[i for _, i in group] for _, group in grouped]


def hierarchy_rule(tau, low):
    def choose(laws, drawn):
        conf = confidence(laws, drawn)
        tops = {best({i: conf[i] for i in one}) for one in runs(conf)}
        chosen = {i for i in tops if low is None or conf[i] > low}
        return chosen | {i for i in conf if tau is not None and conf[i] > tau} | {best(conf)}

    return choose


@pytest.mark.parametrize("tau", [0.4])
def test_threshold_draws_its_exact_law(tau):
    result = against_rule(DInferThreshold(tau), threshold_rule(tau))
    assert result.p > P_LIMIT, result


@pytest.mark.parametrize(("tau", "low"), [(0.6, 0.3), (None, None)])
def test_hierarchy_draws_its_exact_law(tau, low):
    result = against_rule(DInferHierarchy(tau, low), hierarchy_rule(tau, low))
    assert result.p > P_LIMIT, result


@pytest.mark.parametrize("sampler", [DInferThreshold(1.1), DInferHierarchy(1.1, 1.1)], ids=str)
def test_what_never_passes_is_one_token_at_a_time(sampler):
    for law in (TokenLaw(temperature=0.0), TokenLaw()):
        ours = run(toys()["t2"], sampler, 15, prompt=[1, 2], rows=3, law=law)
        assert same_run(ours, run(toys()["t2"], LLaDA(), 15, prompt=[1, 2], rows=3, law=law))


def test_near_ties_are_written_together():
    close, apart = [0.8, 0.8 - 0.9e-5, 0.3], [0.8, 0.8 - 1.1e-5, 0.3]
    out = run(peaked(close), DInferThreshold(0.95), 3, return_trajectory=True)
    assert written_per_step(out) == [[0, 1], [2]]
    out = run(peaked(apart), DInferThreshold(0.95), 3, return_trajectory=True)
    assert written_per_step(out) == [[0], [1], [2]]


def test_best_of_runs_is_brute_force():
    generator = torch.Generator().manual_seed(1)
    score = torch.randint(0, 4, (500, 11), generator=generator).double()  # many ties
    eligible = torch.rand(500, 11, generator=generator) < 0.6
    got = best_of_runs(score, eligible)
    for b in range(500):
        own = eligible[b].nonzero().squeeze(1).tolist()
        expected = {best({i: float(score[b, i]) for i in one}) for one in runs(own)}
        assert set(got[b].nonzero().squeeze(1).tolist()) == expected


def test_the_hierarchy_halves_the_runs():
    # One per run, none above the high threshold: 1, 2, 4, ... positions per step.
    confidences = [0.51, 0.55, 0.52, 0.6, 0.53, 0.56, 0.54]
    sampler = DInferHierarchy(0.9, 0.3)
    out = run(peaked(confidences), sampler, 7, return_trajectory=True)
    assert written_per_step(out) == [[3], [1, 5], [0, 2, 4, 6]]


def test_hierarchy_comparisons_are_strict():
    half = peaked([0.5] * 4, symbols=2)
    assert run(half, DInferHierarchy(0.5, None), 4).nfe.tolist() == [4]
    assert run(half, DInferHierarchy(0.4999999, None), 4).nfe.tolist() == [1]
    # Two runs: both have a best position, but only the global best is above nothing.
    score = torch.tensor([[0.5, 0.5, 0.0, 0.5]], dtype=torch.float64).log()
    eligible = torch.tensor([[True, True, False, True]])
    assert DInferHierarchy(None, 0.5).positions(score, eligible).tolist() == [[1, 0, 0, 0]]
    assert DInferHierarchy(None, 0.49).positions(score, eligible).tolist() == [[1, 0, 0, 1]]


@pytest.mark.parametrize("law", [TokenLaw(temperature=0.0), TokenLaw()])
def test_credit_of_weight_0_is_the_threshold_rule(law):
    plain = run(toys()["t3"], DInferThreshold(0.6), 16, prompt=[2], rows=3, law=law, block_length=8)
    credit = DInferCredit(0.6, credit_alpha=0.0)
    ours = run(toys()["t3"], credit, 16, prompt=[2], rows=3, law=law, block_length=8)
    assert torch.equal(ours.tokens, plain.tokens)
    assert torch.equal(ours.nfe, plain.nfe)
    torch.testing.assert_close(ours.logprob, plain.logprob)


def test_credit_raises_confidence():
    """A constant law: p = 0.6, credit 0.6^0.2 at once, fused p = 0.6 (1 + C)^0.7 / (that + 0.4)."""
    first = 0.6 * (1 + 0.6**0.2) ** 0.7
    fused = first / (first + 0.4)
    denoiser = peaked([0.6] * 3, symbols=2)
    assert run(denoiser, DInferCredit(fused - 1e-6), 3).nfe.tolist() == [1]
    # Near-ties are written together, so tell the positions apart.
    denoiser = peaked([0.6, 0.59, 0.58], symbols=2)
    assert run(denoiser, DInferThreshold(0.7), 3).nfe.tolist() == [3]
    # Fused: 0.702 at most in step 0, then 0.739 and 0.731.
    out = run(denoiser, DInferCredit(0.71), 3, return_trajectory=True)
    assert written_per_step(out) == [[0], [1, 2]]


def test_the_sparse_credit_is_the_dense_recurrence():
    generator = torch.Generator().manual_seed(4)
    sampler = DInferCredit(boost_gamma=0.3, decay_beta=0.6)
    batch, length, vocab = 3, 5, 6
    state = CreditState(torch.zeros(batch, length, 0).long(), torch.zeros(batch, length, 0))
    dense = torch.zeros(batch, length, vocab)
    # Row 2 enters a new block at iteration 3; its credit starts anew.
    for i in range(7):
        step = torch.tensor([i, i, i if i < 3 else i - 3])
        log_p = torch.randn(batch, length, vocab, generator=generator).log_softmax(-1)
        eligible = torch.rand(batch, length, generator=generator) < 0.7
        state = sampler.credited(state, log_p[eligible], eligible, Clock(step, step + 1))
        dense *= 0.6 * (step > 0)[:, None, None]
        top, token = log_p.max(-1)
        gain = (0.3 * top).exp() * eligible
        dense.scatter_add_(2, token.unsqueeze(2), gain.unsqueeze(2))
        ours = torch.zeros_like(dense).scatter_add_(2, state.token, state.weight)
        torch.testing.assert_close(ours, dense)


@pytest.mark.parametrize(
    "sampler", [DInferThreshold(0.6), DInferHierarchy(0.8, 0.4), DInferCredit(0.7)], ids=str
)
def test_one_block_is_no_blocks(sampler):
    without = run(toys()["t6"], sampler, 13, prompt=[1, 2, 3], rows=2)
    for block in (13, 100):
        assert same_run(
            without, run(toys()["t6"], sampler, 13, prompt=[1, 2, 3], rows=2, block_length=block)
        )


def test_runs_end_at_the_block():
    confidences = [0.5, 0.51, 0.52, 0.53, 0.54, 0.55]
    sampler = DInferHierarchy(None, None)
    out = run(peaked(confidences), sampler, 6, block_length=3, return_trajectory=True)
    assert written_per_step(out) == [[2], [1], [0], [5], [4], [3]]


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: DInferThreshold(-1.0), "threshold=-1.0"),
        (lambda: DInferHierarchy(low_threshold=-1.0), "low_threshold=-1.0"),
        (lambda: DInferCredit(decay_beta=1.5), "decay_beta=1.5"),
        (lambda: DInferCredit(credit_alpha=-0.5), "credit_alpha=-0.5"),
        (lambda: DInferCredit(boost_gamma=-0.5), "boost_gamma=-0.5"),
    ],
)
def test_fields_out_of_range_are_refused(build, field):
    with pytest.raises(ValueError, match=field):
        build()


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_canvas_of_few_columns_has_its_runs(width: int) -> None:
    score = torch.arange(width).float().unsqueeze(0)
    every = torch.ones(1, width, dtype=torch.bool)
    wanted = [column == width - 1 for column in range(width)]
    assert best_of_runs(score, every).tolist() == [wanted]
    assert not best_of_runs(score, ~every).any()
