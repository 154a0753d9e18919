"""A lazy prediction: no pass before something is read, one per row, and the right numbers then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers import wrap
from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.types import TokenLaw

V, MASK, ROWS, LENGTH = 5, 4, 3, 4
X = torch.full((ROWS, LENGTH), MASK)
T = torch.ones(ROWS, dtype=torch.float64)
RNG = ops.Rng.from_seeds([1, 2, 3], device=X.device)
LOGITS = torch.randn(ROWS, LENGTH, V, generator=torch.Generator().manual_seed(5))
LAW = TokenLaw(suppressed=(MASK,))
EVERY = torch.ones(ROWS, LENGTH, dtype=torch.bool)
SOME = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()


class Counted:
    """A predictor of fixed logits, and the canvases that its network has seen."""

    def __init__(self, law: TokenLaw = LAW, **facts: Any) -> None:
        self.seen: list[Tensor] = []
        denoiser = wrap(self.logits, vocab_size=V, mask_token_id=MASK, **facts)
        self.predictor = Predictor.alone(denoiser, law, EVERY)

    def logits(self, input_ids: Tensor) -> Tensor:
        """Row i of the canvas holds its number in column 0, if not the mask."""
        self.seen.append(input_ids)
        first = input_ids[:, 0]
        return LOGITS[torch.where(first == MASK, torch.arange(len(first)), first)]

    def __call__(self, temperature: Tensor | None = None) -> LazyPrediction:
        numbered = X.clone()
        numbered[:, 0] = torch.arange(ROWS)
        return self.predictor(numbered, T, temperature)


def law_of(logits: Tensor) -> Tensor:
    """log p without the mask, from the definition."""
    return logits.index_fill(-1, torch.tensor([MASK]), -torch.inf).log_softmax(-1)


def test_a_row_is_run_when_it_is_first_read_and_never_again() -> None:
    model = Counted()
    prediction = model()
    assert not model.seen
    prediction.log_probs(SOME)
    assert [x[:, 0].tolist() for x in model.seen] == [[0, 2]]
    assert model.predictor.nfe.tolist() == [1, 0, 1]
    prediction.draw(SOME, RNG)
    assert len(model.seen) == 1
    prediction.draw(EVERY, RNG)
    assert [x[:, 0].tolist() for x in model.seen[1:]] == [[1]]
    assert model.predictor.nfe.tolist() == [1, 1, 1]


def test_nothing_asked_for_costs_no_pass_and_is_zero() -> None:
    model, nothing = Counted(), torch.zeros_like(EVERY)
    prediction = model()
    draw = prediction.draw(nothing, RNG)
    assert not draw.token.any() and not draw.entropy.any()
    assert prediction.log_probs(nothing).shape == (0, V)
    assert prediction.table(nothing, alpha=T, reads="posterior").shape == (0, V)
    assert not prediction.log_prob_of(X, nothing).any()
    assert not model.seen


def test_log_probabilities_and_draws_stand_at_their_positions() -> None:
    prediction = Counted()()
    wanted = law_of(LOGITS)
    torch.testing.assert_close(prediction.log_probs(SOME), wanted[SOME])
    draw = prediction.draw(SOME, RNG)
    chosen = wanted.gather(2, draw.token.unsqueeze(2))[:, :, 0] * SOME
    torch.testing.assert_close(draw.logprob, chosen)
    torch.testing.assert_close(draw.max_logprob, wanted.amax(-1) * SOME)
    entropy = torch.special.entr(wanted.exp()).sum(-1)
    torch.testing.assert_close(draw.entropy, entropy * SOME)
    assert not draw.token[~SOME].any()


def test_the_own_law_or_that_of_the_run_scores_given_tokens() -> None:
    tokens = torch.zeros_like(X)
    prediction = Counted(TokenLaw(temperature=0.5, suppressed=(MASK,)))()
    with torch.no_grad():
        own = prediction.log_prob_of(tokens, SOME)
        tempered = prediction.log_prob_of(tokens, SOME, tempered=True)
    torch.testing.assert_close(own, law_of(LOGITS)[:, :, 0].where(SOME, 0.0))
    torch.testing.assert_close(tempered, law_of(LOGITS * 2)[:, :, 0].where(SOME, 0.0))
    with torch.enable_grad():
        torch.testing.assert_close(prediction.log_prob_of(tokens, SOME, tempered=True), tempered)


def test_a_temperature_of_the_sampler_divides_before_the_law_of_the_run() -> None:
    each = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    prediction = Counted(TokenLaw(temperature=0.5, suppressed=(MASK,)))(each)
    divided = LOGITS / each.float()[:, None, None]
    torch.testing.assert_close(prediction.log_probs(EVERY), law_of(divided)[EVERY])
    draw = prediction.draw(EVERY, RNG)
    wanted = law_of(divided * 2).gather(2, draw.token.unsqueeze(2))[:, :, 0]
    torch.testing.assert_close(draw.logprob, wanted)


def test_greedy_rows_take_the_argmax_and_other_rows_what_they_took() -> None:
    prediction, greedy = Counted()(), torch.tensor([True, False, False])
    best = LOGITS[:, :, :MASK].argmax(-1)
    found, plain = prediction.draw(EVERY, RNG, greedy=greedy), prediction.draw(EVERY, RNG)
    assert torch.equal(found.token[0], best[0]) and not found.logprob[0].any()
    assert torch.equal(found.token[1:], plain.token[1:])
    # Rows that all are greedy take no noise, and have the numbers of greedy rows among others.
    every = prediction.draw(EVERY, RNG, greedy=torch.ones_like(greedy))
    assert torch.equal(every.token, best) and not every.logprob.any()
    for name in ("log_confidence", "max_logprob", "margin", "entropy", "log_normalizer"):
        assert torch.equal(getattr(every, name)[0], getattr(found, name)[0]), name
    cold = Counted(TokenLaw(temperature=0.0, suppressed=(MASK,)))()
    assert torch.equal(cold.draw(EVERY, RNG, greedy=greedy).token, best)


def test_an_excluded_token_is_not_drawn_and_the_rest_is_renormalised() -> None:
    best = LOGITS[:, :, :MASK].argmax(-1)
    draw = Counted()().draw(EVERY, RNG, exclude=best)
    assert not (draw.token == best).any()
    rest = law_of(LOGITS.scatter(2, best.unsqueeze(2), -torch.inf))
    torch.testing.assert_close(draw.logprob, rest.gather(2, draw.token.unsqueeze(2))[:, :, 0])


def test_a_rule_reads_the_table_and_its_law_is_drawn() -> None:
    """The rule squares the law: it is drawn without the temperature of the run on top."""
    prediction = Counted()()
    table = prediction.table(EVERY, alpha=T * 0.5, reads="posterior")
    # Column 0 holds a token, of which the table is certain.
    torch.testing.assert_close(
        table.view(ROWS, LENGTH, V)[:, 1:], law_of(LOGITS.double()).exp()[:, 1:]
    )
    assert table.view(ROWS, LENGTH, V)[:, 0].argmax(-1).tolist() == [0, 1, 2]
    masked = EVERY & (torch.arange(LENGTH) > 0)
    draw = prediction.draw_by(lambda s: s.p**2, masked, RNG, alpha=T * 0.5, reads="posterior")
    squares = law_of(2.0 * LOGITS.double()).gather(2, draw.token.unsqueeze(2))[:, :, 0]
    torch.testing.assert_close(draw.logprob[masked], squares[masked])
    given = prediction.draw_table(table**2, EVERY, RNG)
    assert torch.equal(given.token[masked], draw.token[masked])


@pytest.mark.parametrize(
    ("law", "direct"),
    [(LAW, True), (TokenLaw(0.0), False), (TokenLaw(top_p=0.9), False), (TokenLaw(0.5), True)],
)
def test_draws_are_direct_without_filters_above_temperature_zero(
    law: TokenLaw, direct: bool
) -> None:
    assert Counted(law)().direct == direct


def test_a_rule_is_drawn_without_guidance_under_noise_without_a_mask() -> None:
    net = wrap(lambda input_ids: LOGITS, vocab_size=V, mask_token_id=None, kind="leave_one_out")
    predictor = Predictor.alone(net, TokenLaw(), EVERY)
    found = predictor(torch.zeros_like(X), T).draw_by(
        lambda site: site.p**2, EVERY, RNG, alpha=T * 0.5, reads="leave_one_out"
    )
    squares = (2.0 * LOGITS.double()).log_softmax(-1).gather(2, found.token.unsqueeze(2))[:, :, 0]
    torch.testing.assert_close(found.logprob.double(), squares, atol=1e-5, rtol=0)
