"""Losses refuse by name what would be spread over another shape, or is no number."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dlm_sampling.errors import SamplingWarning
from dlm_sampling.rl import (
    d3po_loss,
    dpo_loss,
    group_advantages,
    grpo_loss,
    k3_divergence,
    spg_loss,
    vrpo_loss,
    wd1_loss,
)
from tests.samplers.small import small_toy

TERMS, ROWS, WHERE = torch.zeros(2, 3), torch.zeros(2), torch.ones(2, 3).bool()
NAN = torch.full((2, 3), torch.nan)
PAIRS: dict[str, Any] = {
    "policy": small_toy(), "reference": small_toy(), "seed": 0,
    "preferred": torch.zeros(1, 3).long(), "preferred_editable": torch.ones(1, 3).bool(),
    "rejected": torch.zeros(2, 3).long(), "rejected_editable": torch.ones(2, 3).bool(),
}  # fmt: skip


FOUR = ("preferred", "rejected", "reference_preferred", "reference_rejected")
USUAL: dict[Callable[..., object], dict[str, Any]] = {
    grpo_loss: {"new": TERMS, "old": TERMS, "advantages": ROWS, "where": WHERE},
    dpo_loss: dict.fromkeys(FOUR, ROWS),
    spg_loss: {"lower": ROWS, "upper": ROWS, "advantages": ROWS},
    wd1_loss: {"logprob": ROWS, "advantages": ROWS, "group": 2},
    vrpo_loss: PAIRS,
    d3po_loss: {"policy": None, "reference": None, "preferred": None, "rejected": None},
}


@pytest.mark.parametrize(
    ("loss", "given", "message"),
    [
        (grpo_loss, {"advantages": ROWS[:1]}, r"advantages has 1 entries: must be \[2\]"),
        (grpo_loss, {"advantages": [0.0, 1.0]}, r"advantages is a list: must be a tensor \[B\]"),
        (grpo_loss, {"advantages": NAN[:, 0]}, r"advantages\[0\] is nan: must be a finite number"),
        (grpo_loss, {"old": NAN}, r"old\[0, 0\] is nan: must be a log-probability"),
        (grpo_loss, {"reference": TERMS[:1]}, r"reference \(1, 3\).* must be \[B, N\]"),
        (grpo_loss, {"where": WHERE.long()}, r"where is torch.int64: must be bool"),
        (grpo_loss, {"clip": -1}, r"clip=-1: must be in \[0, 1\)"),
        (grpo_loss, {"clip": 2.0}, r"clip=2.0: must be in \[0, 1\)"),
        (grpo_loss, {"clip": "a"}, "clip='a': must be a number"),
        (grpo_loss, {"clip_high": -0.1}, "clip_high=-0.1: must be at least 0"),
        (grpo_loss, {"reference": TERMS, "beta": -0.1}, "beta=-0.1: must be at least 0"),
        (dpo_loss, {"rejected": ROWS[:1]}, r"rejected \(1,\).* must be \[B\], of one shape"),
        (dpo_loss, {"preferred": NAN[:, 0]}, r"preferred\[0\] is nan"),
        (dpo_loss, {"beta": "x"}, "beta='x': must be a number"),
        (dpo_loss, {"beta": torch.inf}, "beta=inf: must be above 0 and finite"),
        (spg_loss, {"advantages": NAN[:, 0]}, r"advantages\[0\] is nan"),
        (spg_loss, {"upper": ROWS[:1]}, r"upper \(1,\)"),
        (wd1_loss, {"logprob": ROWS[:1]}, r"logprob \(1,\)"),
        (wd1_loss, {"advantages": NAN[:, 0]}, r"advantages\[0\] is nan"),
        (vrpo_loss, {}, "preferred has 1 rows and rejected 2: must be pairs"),
        (vrpo_loss, {"beta": -1.0}, "beta=-1.0: must be above 0"),
        (d3po_loss, {}, "preferred is a NoneType: must be a Rollout"),
    ],
)
def test_what_is_no_term_is_named(
    loss: Callable[..., object], given: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        loss(**{**USUAL[loss], **given})


def test_terms_that_do_not_count_may_be_no_number() -> None:
    assert float(grpo_loss(NAN, NAN, ROWS, ~WHERE).loss) == 0.0
    with pytest.raises(ValueError, match="of one shape"):
        k3_divergence(TERMS, ROWS)


def test_a_reference_that_gives_nothing_leaves_the_divergence_out() -> None:
    new = torch.zeros(1, 2, requires_grad=True)
    reference = torch.tensor([[-torch.inf, -1.0]])
    found = grpo_loss(new, TERMS[:1, :2], ROWS[:1], WHERE[:1, :2], reference=reference, beta=1.0)
    assert float(found.divergence) == pytest.approx((torch.e**-1 + 1 - 1) / 2)
    found.loss.backward()
    assert new.grad is not None and new.grad.tolist() == [
        [0.0, pytest.approx((1 - 1 / torch.e) / 2)]
    ]


def test_rewards_may_be_whole_numbers_and_lists() -> None:
    wanted = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), 2)
    for rewards in ([1, 0, 0, 1], torch.tensor([1, 0, 0, 1]), [True, False, False, True]):
        assert torch.equal(group_advantages(rewards, 2), wanted)
    for rewards, group in (([[1, 0]], 2), ([1.0, torch.nan], 2), ([1, 0], "2"), ([1, 0], True)):
        with pytest.raises((TypeError, ValueError), match=r"rewards|group="):
            group_advantages(rewards, group)  # type: ignore[arg-type]


def test_a_text_outside_of_its_law_is_told() -> None:
    gone: dict[str, Any] = dict.fromkeys(FOUR, ROWS[:1]) | {"rejected": torch.tensor([-torch.inf])}
    with pytest.warns(SamplingWarning, match="rejected hold -inf: the law has filters"):
        dpo_loss(**gone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dpo_loss(*[ROWS] * 4)
