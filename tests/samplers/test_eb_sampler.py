"""EB-sampler: the entropy bound against brute force, its exact law, and its limits."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling.ops import budget_positions
from dlm_sampling.samplers import EBSampler, LLaDA
from dlm_sampling.types import TokenLaw
from tests.samplers.adaptive import P_LIMIT, against_rule, constant, run, same_run, toys


def entropy(p):
    return -sum(v * math.log(v) for v in p if v > 0)


ERRORS = {
    "entropy": entropy,
    "confidence": lambda p: -max(p),
    "margin": lambda p: sorted(p)[-2] - sorted(p)[-1],
}


def brute_force(error, h, gamma):
    """The largest k with sum - max <= gamma, by trying every k."""
    order = sorted(error, key=lambda i: (error[i], i))
    k = max(
        k
        for k in range(1, len(order) + 1)
        if k == 1 or sum(h[i] for i in order[:k]) - max(h[i] for i in order[:k]) <= gamma
    )
    return set(order[:k])


def rule(gamma, proxy):
    def choose(laws, drawn):
        error = {i: ERRORS[proxy](p) for i, p in laws.items()}
        return brute_force(error, {i: entropy(p) for i, p in laws.items()}, gamma)

    return choose


@pytest.mark.parametrize(
    ("gamma", "proxy"), [(0.5, "entropy"), (0.9, "entropy"), (0.9, "confidence"), (0.9, "margin")]
)
def test_it_draws_its_exact_law(gamma, proxy):
    result = against_rule(EBSampler(gamma, proxy), rule(gamma, proxy))
    assert result.p > P_LIMIT, result


def test_the_negative_control_is_found():
    """All positions at once, which ignores their dependence, is told from the bounded rule."""
    assert against_rule(EBSampler(10.0), rule(0.5, "entropy")).p < P_LIMIT


def test_positions_are_those_of_brute_force():
    generator = torch.Generator().manual_seed(3)
    h = torch.rand(400, 9, generator=generator, dtype=torch.float64)
    error = torch.rand(400, 9, generator=generator, dtype=torch.float64)
    eligible = torch.rand(400, 9, generator=generator) < 0.7
    for gamma in (0.0, 0.2, 1.0, 3.0):
        for by in (h, error):
            got = budget_positions(-by, h, eligible, gamma)
            for b in range(len(h)):
                own = eligible[b].nonzero().squeeze(1).tolist()
                expected = set()
                if own:
                    e = {i: float(by[b, i]) for i in own}
                    expected = brute_force(e, {i: float(h[b, i]) for i in own}, gamma)
                assert set(got[b].nonzero().squeeze(1).tolist()) == expected


@pytest.mark.parametrize("law", [TokenLaw(temperature=0.0), TokenLaw()])
@pytest.mark.parametrize("proxy", ["entropy", "margin"])
def test_bound_0_is_one_token_at_a_time(proxy, law):
    ours = run(toys()["t6"], EBSampler(0.0, proxy), 15, prompt=[1, 2], rows=3, law=law)
    one = run(toys()["t6"], LLaDA(proxy), 15, prompt=[1, 2], rows=3, law=law, steps=15)
    assert same_run(ours, one)
    assert ours.nfe.tolist() == [15, 15, 15]


def test_bound_0_also_writes_what_has_no_entropy():
    certain, open_ = [1.0, 0.0, 0.0], [0.5, 0.3, 0.2]
    out = run(constant([certain, open_, certain, open_]), EBSampler(0.0), 4)
    # Both certain positions and the first open one share a forward: sum - max = 0.
    assert out.nfe.tolist() == [2]


def test_a_large_bound_is_one_forward_and_a_larger_one_never_costs_more():
    nfe = [int(run(toys()["t3"], EBSampler(g), 20, prompt=[1]).nfe) for g in (0, 0.1, 1, 4, 1e6)]
    assert nfe == sorted(nfe, reverse=True)
    assert nfe[0] == 20
    assert nfe[-1] == 1


def test_one_block_is_no_blocks():
    without = run(toys()["t6"], EBSampler(1.0), 13, prompt=[1, 2, 3], rows=2)
    assert same_run(
        without, run(toys()["t6"], EBSampler(1.0), 13, prompt=[1, 2, 3], rows=2, block_length=50)
    )


def test_fields_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"gamma=-0\.1"):
        EBSampler(-0.1)
    with pytest.raises(ValueError, match=r"proxy='entopy'.*Did you mean 'entropy'"):
        EBSampler(proxy="entopy")
