"""LLaDA: the quota, the orders and the delayed ids, against the rule over all proposals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dlm_sampling.samplers import LLaDA, create
from dlm_sampling.testing import chi_square, count_states
from dlm_sampling.types import Canvas, Choice, Clock, TokenLaw
from tests.samplers.small import LENGTH, MASK, SYMBOLS, Tokens, exact_law, run, small_toy


def quota(step: int, steps: int) -> int:
    return LENGTH // steps + (step < LENGTH % steps)


def rule(order: str, steps: int, delayed: tuple[int, ...] = ()) -> Any:
    """Write the best of the step's quota; `logp` is the law without a temperature."""

    def branches(
        canvas: Tokens, memory: Any, logp: list[list[float]], proposal: Tokens, step: int
    ) -> list[tuple[float, Tokens, Any]]:
        def score(i: int) -> float:
            law = torch.tensor(logp[i], dtype=torch.float64).exp()
            top = law.sort(descending=True).values
            best = {
                "confidence": logp[i][proposal[i]],
                "margin": float(top[0] - top[1]),
                "entropy": float((law * law.log()).sum()),
                "left_to_right": -float(i),
            }[order]
            return -1e9 if proposal[i] in late else best

        unknown = [i for i in range(LENGTH) if canvas[i] == MASK]
        others = {proposal[i] for i in unknown} - set(delayed)
        late = delayed if others else ()
        chosen = sorted(unknown, key=lambda i: (-score(i), i))[: quota(step, steps)]
        after = tuple(proposal[i] if i in chosen else canvas[i] for i in range(LENGTH))
        return [(1.0, after, None)]

    return branches


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize(
    ("order", "delayed"),
    [("confidence", ()), ("margin", ()), ("entropy", ()), ("left_to_right", ()), ("entropy", (1,))],
)
def test_draws_have_the_law_of_the_rule(order: Any, delayed: tuple[int, ...], steps: int) -> None:
    toy = small_toy(2)
    sampler = LLaDA(order, delayed_ids=delayed)
    out = run(toy, sampler, rows=2000, steps=steps, law=TokenLaw(), return_trajectory=False)
    law = exact_law(toy, rule(order, steps, delayed), steps)
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p > 1e-4
    assert out.nfe.unique().tolist() == [steps]
    assert sampler.exact is (order != "confidence" and not delayed)


def test_more_steps_than_tokens_cost_no_pass_and_less_write_several() -> None:
    """7 tokens: the first n mod S steps write one more."""
    toy = small_toy(1, 7, 5)
    for steps, wanted in ((3, [3, 2, 2]), (5, [2, 2, 1, 1, 1]), (9, [1] * 7), (1, [7])):
        out = run(toy, LLaDA(), length=7, steps=steps)
        assert out.trajectory is not None
        assert [int(e.written.sum()) for e in out.trajectory.events] == wanted
        assert int(out.nfe) == len(wanted)


def test_random_order_writes_every_position_first_equally_often() -> None:
    out = run(small_toy(3), create("llada-random"), rows=1500, steps=3)
    assert out.trajectory is not None
    first = out.trajectory.events[0].written.sum(0)
    assert chi_square(first, torch.full((LENGTH,), 1 / LENGTH).double()).p > 1e-4
    assert create("llada-margin") == LLaDA("margin")
    assert create("llada-entropy") == LLaDA("entropy")
    assert create("llada-random") == LLaDA("random")
    assert create("llada") == LLaDA("confidence")


def test_the_released_default_is_greedy() -> None:
    """The most confident position first, by the argmax, whatever the seed."""
    toy = small_toy(4)
    assert LLaDA().law == TokenLaw(temperature=0.0)
    out = run(toy, LLaDA(), rows=5, steps=1)
    logits = toy.logits(torch.full((1, LENGTH), MASK))[0, :, :SYMBOLS]
    assert out.tokens.tolist() == [logits.argmax(-1).tolist()] * 5
    assert out.logprob.tolist() == [[0.0] * LENGTH] * 5


def test_a_random_order_has_a_law_of_its_positions_and_a_score_has_none() -> None:
    """Two of three unknown positions: one subset of three."""
    ones = torch.ones(1, LENGTH, dtype=torch.bool)
    canvas = Canvas(torch.full((1, LENGTH), MASK), ones, ones, torch.zeros(1).long(), MASK)
    clock = Clock(torch.tensor([0]), torch.tensor([2]))
    written = torch.tensor([[True, False, True]])
    for greedy in (False, True):
        choice = Choice(written, torch.zeros_like(ones), greedy=greedy)
        found = create("llada-random").choice_logprob(canvas, clock, choice)
        assert found is not None and found.tolist() == pytest.approx([-math.log(3)])
        scored = LLaDA().choice_logprob(canvas, clock, choice)
        assert scored is None if not greedy else scored is not None and scored.tolist() == [0.0]
