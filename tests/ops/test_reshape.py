"""Filters that keep no head of a law, against transformers and against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import EtaLogitsWarper, TypicalLogitsWarper

from dlm_sampling import ops
from dlm_sampling.errors import NoLawError
from dlm_sampling.ops import reshape
from dlm_sampling.types import TokenLaw
from tests.ops.laws import chi_square_p

SEED = torch.Generator().manual_seed(7)
LOGITS = 2.0 * torch.randn(20, 50, generator=SEED, dtype=torch.float64)
IDS = torch.zeros(20, 1, dtype=torch.int64)


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9, 1.0])
def test_typical_is_the_rule_of_transformers(mass: float) -> None:
    """No two of these tokens are equally typical, where ours keeps the lowest id only."""
    found = ops.log_probs(LOGITS, law=TokenLaw(typical_p=mass))
    wanted: Tensor = LOGITS if mass == 1.0 else TypicalLogitsWarper(mass)(IDS, LOGITS)
    torch.testing.assert_close(found, wanted.log_softmax(-1))


@pytest.mark.parametrize("epsilon", [3e-4, 0.02, 0.3])
def test_eta_is_the_rule_of_transformers(epsilon: float) -> None:
    found = ops.log_probs(LOGITS, law=TokenLaw(eta_cutoff=epsilon))
    torch.testing.assert_close(found, EtaLogitsWarper(epsilon)(IDS, LOGITS).log_softmax(-1))


@pytest.mark.parametrize("n", [0.0, 0.5, 1.0, 3.0])
def test_top_n_sigma_by_definition(n: float) -> None:
    """Whatever the temperature; suppressed ids have no part in the deviation."""
    law = TokenLaw(top_n_sigma=n, suppressed=(3,), temperature=0.7)
    found = ops.log_probs(LOGITS, law=law)
    for row, logits in zip(found, LOGITS.tolist(), strict=True):
        free = [x for v, x in enumerate(logits) if v != 3]
        mean = math.fsum(free) / len(free)
        sigma = math.sqrt(math.fsum((x - mean) ** 2 for x in free) / len(free))
        kept = [v != 3 and x >= max(free) - n * sigma for v, x in enumerate(logits)]
        assert (row > -math.inf).tolist() == kept
        if n == 0.0:
            assert sum(kept) == 1
    ratios = (found - LOGITS / 0.7).where(found > -math.inf, torch.nan)
    assert (ratios - ratios.nanmean(-1, keepdim=True)).nan_to_num().abs().max() < 1e-12


def test_equally_typical_tokens_are_taken_from_the_lowest_id() -> None:
    even = torch.zeros(1, 4, dtype=torch.float64)
    found = ops.log_probs(even, law=TokenLaw(typical_p=0.5)).exp()
    assert found.tolist() == [[0.5, 0.5, 0.0, 0.0]]


def test_the_most_probable_token_can_be_untypical_and_then_is_not_drawn() -> None:
    p = torch.tensor([[0.4, *[0.06] * 10]], dtype=torch.float64)
    kept = ops.log_probs(p.log(), law=TokenLaw(typical_p=0.5)).exp()
    assert kept[0, 0] == 0
    assert int((kept > 0).sum()) == 9  # 0.54 is the first mass that reaches 0.5
    greedy = ops.draw(p.log(), law=TokenLaw(0.0, typical_p=0.5), **places(1))
    assert (int(greedy.token), float(greedy.logprob)) == (1, 0.0)


LAWS = [
    TokenLaw(0.8, typical_p=0.6),
    TokenLaw(1.3, top_k=20, top_p=0.9, eta_cutoff=0.05, suppressed=(1, 4)),
    TokenLaw(top_n_sigma=1.5, min_p=0.02, typical_p=0.8),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("size", [50, 2100])
def test_draws_follow_the_law_and_tell_its_statistics(law: TokenLaw, size: int) -> None:
    """Over one tile and over several: chi-square, and every field of the record by the table."""
    logits = torch.randn(1, size, generator=SEED, dtype=torch.float64)
    log_p, count = ops.log_probs(logits, law=law)[0], 4000 if size == 50 else 80
    rows = torch.zeros(count, dtype=torch.int64)
    record = ops.draw(logits, law=law, rows=rows, statistics="law", **places(count))
    assert chi_square_p(torch.bincount(record.token, minlength=size), log_p.exp()) > 1e-3
    torch.testing.assert_close(record.logprob, log_p[record.token])
    torch.testing.assert_close(record.log_confidence, log_p[record.token])
    p = log_p.exp()
    best = p.topk(2).values
    wanted = (log_p.max(), best[0] - best[1], -torch.xlogy(p, p).sum())
    for field, value in zip(record[3:6], wanted, strict=True):
        torch.testing.assert_close(field, value.expand(count))
    model = ops.draw(logits, law=law, rows=rows, **places(count))
    assert torch.equal(model.token, record.token)
    torch.testing.assert_close(model.logprob, record.logprob)
    plain = ops.draw(logits, law=TokenLaw(suppressed=law.suppressed), rows=rows, **places(count))
    for one, other in zip(model[3:], plain[3:], strict=True):
        torch.testing.assert_close(one, other)
    own = ops.log_probs(logits, law=TokenLaw(suppressed=law.suppressed))[0]
    torch.testing.assert_close(model.log_confidence, own[model.token])


def test_filters_that_pass_all_tokens_change_no_draw() -> None:
    """The same random numbers meet the same tokens."""
    zero = torch.arange(20)
    given = {"keys": zero + 5, "positions": zero, "steps": zero}
    plain = ops.draw(LOGITS, **given)
    for law in (TokenLaw(typical_p=1.0), TokenLaw(eta_cutoff=1e-9), TokenLaw(top_n_sigma=99.0)):
        found = ops.draw(LOGITS, law=law, **given)
        assert torch.equal(found.token, plain.token)
        torch.testing.assert_close(found, plain)


def test_changed_logits_are_drawn_from_and_the_statistics_stay_the_models() -> None:
    bonus = torch.randn(20, 50, generator=SEED, dtype=torch.float64)
    given, law = places(20), TokenLaw(0.9, top_p=0.8)
    found = ops.draw(LOGITS, law=law, adjust=lambda x, i: x + bonus[i], **given)
    wanted = ops.draw(LOGITS + bonus, law=law, **given)
    plain = ops.draw(LOGITS, law=law, **given)
    assert torch.equal(found.token, wanted.token)
    torch.testing.assert_close(found.logprob, wanted.logprob)
    torch.testing.assert_close(found.entropy, plain.entropy)
    pick = torch.tensor([4, 4, 0])
    log_p = ops.log_probs(LOGITS, law=law, rows=pick, adjust=lambda x, i: x + bonus[pick[i]])
    torch.testing.assert_close(log_p, ops.log_probs(LOGITS + bonus, law=law, rows=pick))
    chosen = ops.log_prob_of(LOGITS, wanted.token, law=law, adjust=lambda x, i: x + bonus[i])
    torch.testing.assert_close(chosen, wanted.logprob)


def test_gradients_reach_the_logits_through_what_changes_them() -> None:
    logits = LOGITS[:3].clone().requires_grad_()
    source = ops.LogitRows(lambda i: logits[i], 3, 50, logits.device, block=2)
    law, tokens = TokenLaw(0.7, typical_p=0.9), LOGITS[:3].argmax(1)
    found = ops.differentiable_log_prob_of(source, tokens, law=law, adjust=lambda x, i: 2.0 * x)
    (found.sum()).backward()
    other = LOGITS[:3].clone().requires_grad_()
    kept = ops.log_probs(2.0 * LOGITS[:3], law=law) > -math.inf
    table = (2.0 * other).masked_fill(~kept, -math.inf) / 0.7
    table.log_softmax(-1).gather(1, tokens[:, None]).sum().backward()
    torch.testing.assert_close(logits.grad, other.grad)


def test_a_row_without_a_law_is_named() -> None:
    bad = LOGITS.clone()
    bad[3, 5] = torch.nan
    for call in (ops.log_probs, lambda x, law: ops.draw(x, law=law, **places(20))):
        with pytest.raises(NoLawError, match="row 3 of the logits holds NaN"):
            call(bad, law=TokenLaw(typical_p=0.5))
    with pytest.raises(NoLawError, match="no token that may be drawn"):
        ops.log_probs(LOGITS, adjust=lambda x, i: x - math.inf)


def test_each_row_is_filtered_at_its_own_temperature() -> None:
    temperatures = torch.linspace(0.3, 2.0, 20, dtype=torch.float64)
    law = TokenLaw(typical_p=0.5, eta_cutoff=0.1)
    found = reshape.passing(LOGITS, law, temperatures)
    for row in range(20):
        alone = reshape.passing(LOGITS[row : row + 1], law, float(temperatures[row]))
        assert torch.equal(found[row : row + 1], alone)


def places(count: int) -> dict[str, Tensor]:
    zero = torch.zeros(count, dtype=torch.int64)
    return {"keys": torch.arange(count), "positions": zero, "steps": zero}
