"""Scores of given tokens on given canvases: the model's law or a tempered one, where asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import wrap
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.likelihood.scoring import Scorer, Views
from dlm_sampling.types import DenoiserOutput, Pass, TokenLaw

V, MASK = 4, 3
LOGITS = torch.randn(3, V, generator=torch.Generator().manual_seed(2))
CANVAS = torch.tensor([[3, 3, 1], [0, 3, 3], [3, 3, 3]])
TOKENS = torch.tensor([[0, 2, 1], [0, 1, 2], [2, 2, 0]])
WHERE = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 1, 0]]).bool()


def network(input_ids: Tensor, t: Tensor) -> Tensor:
    """Logits of each column, shifted at token 0 by the canvas and the time."""
    shift = input_ids.sum(1).double() * 0.1 + t
    return LOGITS + shift[:, None, None].float() * torch.tensor([1.0, 0.0, 0.0, 0.0])


DENOISER = wrap(network, vocab_size=V, mask_token_id=MASK)


def views(**options: Any) -> Views:
    return Views(torch.arange(3), CANVAS, TOKENS, WHERE, torch.ones_like(WHERE), **options)


def exact(t: float = 0.0, temperature: float = 1.0) -> list[float]:
    logits = network(CANVAS, torch.full((3,), t).double())[:, :, :MASK] / temperature
    law = logits.double().log_softmax(-1)
    return [float(law[i, j, TOKENS[i, j]]) for i, j in WHERE.nonzero().tolist()]


def test_scores_come_row_by_row_under_the_law_without_the_mask() -> None:
    assert Scorer(DENOISER)(views()).tolist() == pytest.approx(exact(), abs=1e-6)
    law = TokenLaw(temperature=0.5)
    assert Scorer(DENOISER, law)(views()).tolist() == pytest.approx(exact(0.0, 0.5), abs=1e-6)


def test_the_model_is_told_the_time_of_each_canvas() -> None:
    time = torch.full((3,), 0.7, dtype=torch.float64)
    assert Scorer(DENOISER)(views(time=time)).tolist() == pytest.approx(exact(0.7), abs=1e-6)


def test_a_token_that_was_the_argmax_scores_zero_without_the_model() -> None:
    argmax = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 0]]).bool()
    made = views(argmax=argmax)
    assert made.scored.int().tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    found = Scorer(DENOISER)(made).tolist()
    assert found == pytest.approx([0.0, exact()[1], exact()[2], 0.0], abs=1e-6)
    assert torch.equal(views().scored, WHERE)


@pytest.mark.parametrize(("size", "parts"), [(None, [3]), (1, [1, 1, 1]), (2, [2, 1]), (5, [3])])
def test_parts_are_at_most_of_a_size_and_keep_every_field(
    size: int | None, parts: list[int]
) -> None:
    whole = views(horizon=torch.tensor([3, 2, 1]), argmax=WHERE)
    found = list(whole.split(size))
    assert [len(part.rows) for part in found] == parts
    for name, one in zip(Views._fields, zip(*found, strict=True), strict=True):
        value = getattr(whole, name)
        assert one == (None,) * len(parts) if value is None else torch.equal(torch.cat(one), value)
    scores = torch.cat([Scorer(DENOISER)(part) for part in views().split(size)])
    torch.testing.assert_close(scores, Scorer(DENOISER)(views()))


class NeverRun(Denoiser):
    def __init__(self) -> None:
        super().__init__(vocab_size=V, mask_token_id=MASK)

    def forward(self, inputs: Pass) -> DenoiserOutput:
        raise AssertionError


class Carries(NeverRun):
    carries = True


class Steps(NeverRun):
    step_conditioned = True


def test_a_law_that_does_not_follow_from_the_canvas_is_refused() -> None:
    with pytest.raises(ValueError, match="carries a state from one pass to the next"):
        Scorer(Carries())
    with pytest.raises(ValueError, match="is told the length of the step"):
        Scorer(Steps())


@pytest.mark.parametrize(("scale", "passes"), [(0.0, 1), (0.7, 2), (-0.5, 2)])
def test_guidance_takes_two_passes_and_is_its_formula(scale: float, passes: int) -> None:
    """u + (w + 1) (c - u); the canvas of u has masks in place of the given tokens."""
    given = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 0, 0]]).bool()
    scorer = Scorer(DENOISER, guidance_scale=scale, given=given)
    assert scorer.passes == passes
    time = torch.zeros(3).double()
    c, u = network(CANVAS, time), network(CANVAS.masked_fill(given, MASK), time)
    law = (u + (scale + 1) * (c - u))[:, :, :MASK].double().log_softmax(-1)
    wanted = [float(law[i, j, TOKENS[i, j]]) for i, j in WHERE.nonzero().tolist()]
    assert scorer(views()).tolist() == pytest.approx(wanted, abs=1e-6)


def test_entropies_are_made_where_they_are_asked_for() -> None:
    scorer = Scorer(DENOISER, TokenLaw(temperature=0.5))
    assert scorer.scores(views()).entropy.numel() == 0
    logits = network(CANVAS, torch.zeros(3).double())[:, :, :MASK] / 0.5
    law = logits.double().log_softmax(-1)[WHERE]
    found = scorer.scores(views(), entropy=True)
    torch.testing.assert_close(
        found.entropy.double(), -(law.exp() * law).sum(-1), atol=1e-6, rtol=0
    )
    assert torch.equal(found.logprob, scorer.scores(views()).logprob)
