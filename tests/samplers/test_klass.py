"""KLASS: readiness, strategies, quota, and what is kept from step to step."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling.ops import divergence
from dlm_sampling.samplers import KLASS, LLaDA, create, klass_preset
from dlm_sampling.types import TokenLaw
from tests.samplers.adaptive import peaked, run, same_run, toys, written_per_step

FALLING = [0.99 - 0.01 * i for i in range(12)]


@pytest.mark.parametrize("law", [TokenLaw(temperature=0.0), TokenLaw()])
@pytest.mark.parametrize(
    "sampler", [KLASS(0.0, 0.0), KLASS(1.0, 1e6), KLASS(1.1, 1e6, inclusive=True)], ids=str
)
@pytest.mark.parametrize(("steps", "block"), [(16, None), (6, None), (16, 5), (7, 4), (40, 16)])
def test_never_stable_or_never_confident_is_llada(sampler, law, steps, block):
    options = {"prompt": [1, 2], "rows": 2, "law": law, "steps": steps, "block_length": block}
    ours = run(toys()["t3"], sampler, 16, **options)
    assert same_run(ours, run(toys()["t3"], LLaDA(), 16, **options))


@pytest.mark.parametrize("history", [1, 2, 3])
def test_readiness_takes_history_comparisons_and_the_next_block_inherits_one_law(history):
    """A law that never moves: `history` steps by quota, then everything; later one step less."""
    out = run(
        peaked(FALLING), KLASS(0.5, 0.01, history), 12, block_length=6, return_trajectory=True
    )
    first = [[i] for i in range(history)] + [list(range(history, 6))]
    second = [[6 + i] for i in range(history - 1)] + [list(range(6 + history - 1, 12))]
    assert written_per_step(out) == first + second


def test_without_blocks_and_with_one_block():
    without = run(toys()["t6"], KLASS(0.5, 0.05), 13, prompt=[1, 2, 3], rows=2)
    for block in (13, 100):
        options = {"prompt": [1, 2, 3], "rows": 2, "block_length": block}
        assert same_run(without, run(toys()["t6"], KLASS(0.5, 0.05), 13, **options))


def test_strategies_write_one_of_the_ready():
    confidences = [0.6, 0.9, 0.7, 0.8]
    for strategy, order in (("max_conf", [1, 3, 2, 0]), ("min_kl", [1, 0, 2, 3])):
        # The law never moves, so all KL values are 0 and min_kl takes the lowest position.
        sampler = KLASS(0.5, 0.01, 1, strategy)
        out = run(peaked(confidences), sampler, 4, return_trajectory=True)
        assert written_per_step(out) == [[i] for i in order]


def test_the_random_strategy_is_uniform_over_the_ready():
    rows = 6000
    sampler = KLASS(0.5, 0.01, 1, "random")
    out = run(peaked([0.6, 0.9, 0.7, 0.8]), sampler, 4, rows=rows, return_trajectory=True)
    assert out.trajectory is not None
    first, second = out.trajectory.events[0].written, out.trajectory.events[1].written
    assert bool(first[:, 1].all())
    counts = second.sum(0).double()
    assert counts[1] == 0
    expected = rows / 3
    assert float(((counts[[0, 2, 3]] - expected) ** 2 / expected).sum()) < 18.4  # chi2(2), p = 1e-4


def test_comparisons_at_equality():
    """The LLaDA form needs p > tau, the Dream form p >= tau."""
    half = peaked([0.5] * 6, symbols=2)
    assert run(half, KLASS(0.5, 0.01), 6).nfe.tolist() == [6]
    assert run(half, KLASS(0.5, 0.01, inclusive=True), 6).nfe.tolist() == [3]
    # A KL of exactly 0 is not below a threshold of 0.
    assert run(half, KLASS(0.4, 0.0), 6).nfe.tolist() == [6]


def test_a_small_ready_set_is_topped_up_to_the_quota():
    """Four steps for twelve positions, of which one is ready at a time."""
    confidences = [0.99] + [0.6 - 0.01 * i for i in range(11)]
    sampler = KLASS(0.9, 0.01, 1)
    out = run(peaked(confidences[::-1]), sampler, 12, steps=4, return_trajectory=True)
    assert [len(w) for w in written_per_step(out)] == [3, 3, 3, 3]
    assert int(out.nfe) == 4


def test_the_released_rule_leaves_the_quota_short_and_masks_are_filled():
    """Deviation: the authors' code ends with masks in its output; the field restores its steps.

    After the first step one position is ready per step ("max_conf"), so four steps write
    3 + 1 + 1 + 1 of twelve; our loop fills the other six, at one more forward.
    """
    released = KLASS(0.5, 0.01, 1, "max_conf", released=True)
    out = run(peaked(FALLING), released, 12, steps=4, return_trajectory=True)
    assert [len(w) for w in written_per_step(out)] == [3, 1, 1, 7]
    assert int(out.nfe) == 5
    default = run(peaked(FALLING), KLASS(0.5, 0.01, 1, "max_conf"), 12, steps=4)
    assert int(default.nfe) == 4
    assert bool((out.tokens < 4).all())


def test_divergence_is_the_released_formula():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(7, 5, generator=generator, dtype=torch.float64)
    q = torch.rand(7, 5, generator=generator, dtype=torch.float64)
    p[0, 0] = q[1, 1] = 0.0
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    tiny = 1e-12

    def of_laws(p, q):
        nothing = p.new_zeros(len(p))
        return divergence(p.log(), q.log(), nothing, nothing, tiny=tiny)

    for i in range(7):
        by_hand = sum(
            float(a) * (math.log(float(a) + tiny) - math.log(float(b) + tiny))
            for a, b in zip(p[i], q[i], strict=True)
        )
        assert float(of_laws(p, q)[i]) == pytest.approx(by_hand, abs=1e-12)
    # With no law before, at least ln(1e12) - ln(V): never below a sensible threshold.
    nothing = of_laws(p, torch.zeros_like(p))
    assert bool((nothing > 27.6 - math.log(5)).all())


def test_the_memory_is_one_law_per_position_of_the_block():
    sizes = []

    class Watched(KLASS):
        def step(self, state, canvas, clock, predict, rng):
            state, step = super().step(state, canvas, clock, predict, rng)
            sizes.append(tuple(state.previous.laws.shape))
            return state, step

    run(toys()["t6"], Watched(0.5, 0.05), 24, prompt=[1], rows=2, block_length=6)
    assert max(width for _, width, _ in sizes) <= 6


def test_presets_are_those_of_the_scripts():
    assert klass_preset("llada", "gsm8k") == KLASS(0.6, 0.015)
    assert klass_preset("dream", "humaneval") == KLASS(0.8, 0.001, inclusive=True)
    assert create("klass-dream") == klass_preset("dream", "gsm8k")
    with pytest.raises(ValueError, match="task='gsm'"):
        klass_preset("llada", "gsm")
    with pytest.raises(ValueError, match="form='lada'"):
        klass_preset("lada", "gsm8k")


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: KLASS(-0.1), "conf_threshold=-0.1"),
        (lambda: KLASS(kl_threshold=-1.0), "kl_threshold=-1.0"),
        (lambda: KLASS(history=0), "history=0"),
        (lambda: KLASS(strategy="most"), "strategy='most'"),
    ],
)
def test_fields_out_of_range_are_refused(build, field):
    with pytest.raises(ValueError, match=field):
        build()
