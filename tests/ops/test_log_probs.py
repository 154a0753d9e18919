"""Log-probabilities under the sampled law: by hand, and one operator against another."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.errors import NoLawError
from dlm_sampling.types import TokenLaw

LN = math.log
# Weights 8, 4, 2, 1 of four tokens: their law is 8/15, 4/15, 2/15, 1/15.
LOGITS = torch.tensor([[LN(8), LN(4), LN(2), 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("law", "weights"),
    [
        (TokenLaw(), (8, 4, 2, 1)),
        (TokenLaw(temperature=0.5), (64, 16, 4, 1)),
        (TokenLaw(temperature=0.0), (1, 0, 0, 0)),
        (TokenLaw(suppressed=(0,)), (0, 4, 2, 1)),
        (TokenLaw(top_k=2), (8, 4, 0, 0)),
        (TokenLaw(temperature=0.5, top_k=3, suppressed=(1,)), (64, 0, 4, 1)),
        (TokenLaw(min_p=0.25), (8, 4, 2, 0)),
    ],
    ids=str,
)
def test_the_law_by_hand(law: TokenLaw, weights: tuple[int, ...]) -> None:
    wanted = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    torch.testing.assert_close(ops.log_probs(LOGITS, law=law), wanted.log()[None])
    every, four = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    given = ops.log_prob_of(LOGITS, four, law=law, rows=every)
    torch.testing.assert_close(given, wanted.log())


def test_the_law_at_temperature_0_has_no_slope_and_takes_logits_with_a_graph() -> None:
    leaf = LOGITS.clone().requires_grad_()
    found = ops.filtered_log_law(leaf, TokenLaw(temperature=0.0))
    assert found.exp().tolist() == [[1.0, 0.0, 0.0, 0.0]] and not found.requires_grad
    assert torch.equal(ops.log_probs(leaf).detach(), ops.log_probs(LOGITS))


def test_each_row_at_its_temperature_by_hand() -> None:
    """Row 0 at 1, row 1 at 2, where the weights are their square roots, row 2 at 0."""
    rows, temperatures = torch.zeros(3, dtype=torch.int64), torch.tensor([1.0, 2.0, 0.0])
    found = ops.log_probs(LOGITS, rows=rows, temperatures=temperatures).exp()
    roots = [math.sqrt(w) / sum(map(math.sqrt, (8, 4, 2, 1))) for w in (8, 4, 2, 1)]
    wanted = [[8 / 15, 4 / 15, 2 / 15, 1 / 15], roots, [1.0, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_rows_made_on_demand_give_those_of_the_table() -> None:
    logits = rand_logits(9, 40)
    asked: list[list[int]] = []

    def fetch(i: Tensor) -> Tensor:
        asked.append(i.tolist())
        return logits[i]

    source = ops.LogitRows(fetch, 9, 40, logits.device, block=2)
    pick = torch.tensor([8, 0, 3])
    assert torch.equal(ops.log_probs(source, rows=pick), ops.log_probs(logits)[pick])
    assert asked == [[8, 0], [3]]


def rand_logits(rows: int, vocab: int) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0)) * 2.0


def test_log_probs_and_log_prob_of_agree() -> None:
    logits, tokens = rand_logits(300, 2500), torch.arange(300) * 3
    for law in (TokenLaw(), TokenLaw(temperature=0.0), TokenLaw(top_p=0.9, suppressed=(3,))):
        table = ops.log_probs(logits, law=law)
        assert torch.equal(ops.log_prob_of(logits, tokens, law=law), table[range(300), tokens])
        pick = torch.tensor([5, 5, 299, 0])
        assert torch.equal(ops.log_probs(logits, law=law, rows=pick), table[pick])
        some = ops.log_prob_of(logits, tokens[pick], law=law, rows=pick)
        assert torch.equal(some, table[pick, tokens[pick]])
    assert torch.allclose(ops.log_probs(logits), logits.log_softmax(-1), atol=1e-5)
    shaped = ops.filtered_log_law(logits.view(3, 100, 2500), TokenLaw(top_k=9))
    assert torch.equal(shaped.flatten(0, 1), ops.log_probs(logits, law=TokenLaw(top_k=9)))
    assert ops.log_probs(logits[:0]).shape == (0, 2500)
    assert ops.log_prob_of(logits[:0], tokens[:0]).shape == (0,)


def test_rows_without_a_law_and_wrong_ids_are_refused_unless_asked_not_to() -> None:
    none, ids = torch.full((2, 4), -torch.inf), torch.tensor([1, 4])
    with pytest.raises(ValueError, match=r"1\.\.4"):
        ops.log_prob_of(LOGITS.expand(2, 4), ids)
    with pytest.raises(ValueError, match=r"-1\.\.0"):
        ops.log_prob_of(LOGITS.expand(2, 4), torch.tensor([-1, 0]))
    with pytest.raises(NoLawError):
        ops.log_prob_of(none, ids.clamp_max(3))
    assert ops.log_prob_of(none, ids.clamp_max(3), check=False).isnan().all()
    plain = ops.log_prob_of(LOGITS.expand(2, 4), ids.clamp_max(3), check=False)
    torch.testing.assert_close(plain.exp(), torch.tensor([4 / 15, 1 / 15]).double())
    passed_over = ops.log_prob_of(LOGITS, ids.clamp_max(3), rows=torch.tensor([-1, 0]), check=False)
    assert float(passed_over[1].exp()) == pytest.approx(1 / 15)
