"""Passes of a guidance in one prediction: rates, ratios, and what rewards are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import wrap
from dlm_sampling.guidance import Classifier, ClassifierFree, Guidance, RewardGradient
from dlm_sampling.guidance.base import Moment
from dlm_sampling.guidance.reward_gradient import SURE
from dlm_sampling.prediction.guided import moment_of, moved_rate
from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.processes.guidance import classifier_based_law, rate_preserving_law
from dlm_sampling.types import Site
from tests.guidance.toys import (
    CANVASES,
    EXACT_P,
    MASK,
    NOISY_P,
    NOISY_Q,
    STATES,
    S,
    log_probs,
    predict,
)


def test_padding_is_fixed_too() -> None:
    given = torch.tensor([[True, False, False]])
    rows = PassRows(torch.tensor([7]), torch.tensor([[True, True, False]]), given)
    moment = moment_of(rows, torch.zeros(1, 3).long(), torch.ones(1), 5)
    assert moment.fixed.tolist() == [[True, False, True]]
    assert (moment.rows.tolist(), moment.mask) == ([7], 5)


def test_a_rate_follows_from_the_law_with_the_mask_in_it() -> None:
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    ratio = torch.tensor([[2.0, 0.4], [1.0, 1.0]], dtype=torch.float64)
    r = torch.tensor([0.3, 0.3], dtype=torch.float64)
    z = 0.25 * 2.0 + 0.75 * 0.4
    wanted = torch.tensor([0.3 * z / (0.3 * z + 0.7), 0.3], dtype=torch.float64)
    torch.testing.assert_close(moved_rate(p.log(), ratio.log(), r), wanted)
    assert moved_rate(p.log(), ratio.log(), torch.ones(2)).tolist() == [1.0, 1.0]


def test_rates_are_blended_edge_by_edge() -> None:
    """R~ = R_c^g R_u^(1 - g) from the ratios that a rule of rates reads; the rule is asked once."""
    level = torch.full((len(STATES),), 0.4, dtype=torch.float64)
    every = torch.ones_like(STATES, dtype=torch.bool)
    calls: list[int] = []

    def read(guidance: ClassifierFree | None, denoiser: Any) -> Tensor:
        def rule(site: Site) -> Tensor:
            calls.append(len(site.x))
            return site.p

        prediction, _ = predict(guidance, denoiser, STATES)
        found = [
            prediction.log_law_of(
                rule, torch.full_like(STATES, v), every, alpha=level, reads="log_score"
            )
            for v in range(S)
        ]
        return torch.stack(found, -1).softmax(-1)

    c, u = read(None, NOISY_P), read(None, NOISY_Q)
    calls.clear()
    found = read(ClassifierFree(0.7, NOISY_Q), NOISY_P)
    wanted = c**1.7 * u ** (-0.7)
    torch.testing.assert_close(found, wanted / wanted.sum(-1, keepdim=True), atol=1e-12, rtol=0)
    assert calls == [STATES.numel()] * S


def test_a_reward_sees_the_law_at_masks_and_sure_tokens_elsewhere() -> None:
    seen: list[Tensor] = []

    def reward(log_p: Tensor) -> Tensor:
        seen.append(log_p.detach())
        return log_p.sum((1, 2))

    log_probs(RewardGradient(reward, until=0.0), EXACT_P, CANVASES)
    masks = CANVASES == MASK
    wanted = EXACT_P.probs(CANVASES)[masks]
    torch.testing.assert_close(seen[0][masks].exp().double(), wanted, atol=1e-6, rtol=1e-6)
    here = seen[0][~masks]
    assert torch.equal(here.argmax(-1), CANVASES[~masks])
    assert here.unique().tolist() == [-SURE, SURE]
    assert here.shape[1] == S + 1


def ones(canvas: Tensor) -> Tensor:
    """A log-probability that grows with the number of ones."""
    return 0.5 * (canvas == 1).sum(1).double()


@pytest.mark.parametrize("rate_preserving", [False, True])
def test_the_law_of_a_step_is_tilted_with_or_without_the_rate_of_leaving(
    rate_preserving: bool,
) -> None:
    level = torch.full((len(STATES),), 0.4, dtype=torch.float64)
    every = torch.ones_like(STATES, dtype=torch.bool)

    def read(guidance: Classifier | None) -> Tensor:
        prediction, _ = predict(guidance, NOISY_P, STATES)
        return torch.stack(
            [
                prediction.log_law_of(
                    lambda site: site.p, torch.full_like(STATES, v), every, alpha=level,
                    reads="leave_one_out",
                )
                for v in range(S)
            ],
            -1,
        ).exp()  # fmt: skip

    x = STATES.flatten()
    ratios = 0.5 * ((torch.arange(S) == 1).double() - (x == 1).double()[:, None])
    plain = read(None)
    wanted = classifier_based_law(plain, ratios, 1.0)
    if rate_preserving:
        wanted = rate_preserving_law(plain, ratios, x, 1.0)
    found = read(Classifier(ones, S, rate_preserving=rate_preserving))
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_rows_that_run_one_after_another_keep_their_tilts() -> None:
    guide = Classifier(ones, S + 1)
    whole = predict(guide, EXACT_P, CANVASES)[0].log_probs(CANVASES == MASK)
    prediction, _ = predict(guide, EXACT_P, CANVASES)
    first = (CANVASES == MASK) & (torch.arange(len(CANVASES)) % 2 == 0).unsqueeze(1)
    prediction.log_probs(first)
    torch.testing.assert_close(prediction.log_probs(CANVASES == MASK), whole)


@dataclass(frozen=True)
class Asked(Guidance):
    """Adds nothing, and keeps the positions that it was asked for."""

    seen: list[Tensor] = field(default_factory=list[Tensor])

    @property
    def tilts(self) -> bool:
        return True

    def tilt(self, moment: Moment, where: Tensor, log_p: Callable[[], Tensor]) -> Tensor:
        self.seen.append(where)
        return torch.zeros(*where.shape, S + 1, dtype=torch.float64)


def test_what_is_hidden_is_not_tilted() -> None:
    """Two rows of three masks, which the network sees up to a column of their own."""
    guide, x = Asked(), torch.full((2, 3), MASK)
    plain = wrap(lambda ids: torch.zeros(*ids.shape, S + 1), vocab_size=S + 1, mask_token_id=MASK)
    _, predictor = predict(guide, plain, x)
    hiding = replace(predictor, rows=replace(predictor.rows, horizon=torch.tensor([1, 2])))
    t = torch.ones(2, dtype=torch.float64)
    LazyPrediction(hiding, x, t).log_probs(torch.tensor([[True, False, False]] * 2))
    seen = [where.tolist() for where in guide.seen]
    assert seen == [[[True, False, False], [True, True, False]]]
