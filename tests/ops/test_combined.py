"""Two logits read as one, and a temperature per row, against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.ops import Guided, Remainder
from dlm_sampling.types import TokenLaw
from tests.ops.laws import chi_square_p

COUNT, VOCAB = 4000, 60
ZERO = torch.zeros(COUNT, dtype=torch.int64)


def logits(seed: int, scale: float = 2.0, vocab: int = VOCAB) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, vocab, generator=generator, dtype=torch.float64) * scale


def counts(source: ops.Source | ops.Pair, row: int, **options: object) -> Tensor:
    token = ops.draw(
        source, keys=ZERO, positions=torch.arange(COUNT), steps=ZERO, rows=ZERO + row, **options
    ).token  # type: ignore[arg-type]
    return torch.bincount(token, minlength=VOCAB)


def test_guided_draws_follow_the_guided_law() -> None:
    c, u = logits(1), logits(2)
    weight = torch.tensor([0.7, -0.5])
    pair = Guided(c.float(), u.float(), weight)
    for row, w in enumerate(weight.tolist()):
        law = (u[row] + (w + 1.0) * (c[row] - u[row])).softmax(-1)
        found = counts(pair, row)
        assert chi_square_p(found, law) > 1e-3
        assert chi_square_p(found, c[row].softmax(-1)) < 1e-6  # w is not ignored
        assert chi_square_p(found, (u[row] + w * (c[row] - u[row])).softmax(-1)) < 1e-6


def test_no_guidance_is_the_first_alone() -> None:
    c, u = logits(1), logits(2)
    assert torch.allclose(ops.log_probs(Guided(c, u, 0.0)), c.log_softmax(-1), atol=1e-12)
    assert ops.log_probs(Guided(c, u)).dtype == torch.float64
    assert ops.log_probs(Guided(c.bfloat16(), u.bfloat16())).dtype == torch.float32


def test_remainder_is_the_clamped_difference_of_two_laws() -> None:
    star, now = logits(3), logits(4)
    a1, a2 = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.5])
    rates = (a1[:, None] * star.softmax(-1) - a2[:, None] * now.softmax(-1)).clamp(min=0.0)
    norms = star.logsumexp(-1), now.logsumexp(-1)
    exact = Remainder(star, now, *norms, (a1, a2))
    found = ops.log_probs(exact).exp()
    assert torch.allclose(found, rates / rates.sum(-1, keepdim=True), rtol=1e-9, atol=1e-15)
    narrow = Remainder(star.float(), now.float(), *norms, (2.0, 1.0))
    assert chi_square_p(counts(narrow, 0), rates[0] / rates[0].sum()) > 1e-3
    three = torch.arange(2)
    draw = ops.draw(exact, keys=three, positions=three, steps=three)
    assert torch.allclose(draw.log_normalizer, rates.sum(-1).log(), atol=1e-12)


def test_pairs_must_fit() -> None:
    with pytest.raises(ValueError, match=r"float32.*float64.*must be alike"):
        Guided(logits(1).float(), logits(2))


def test_rows_at_temperatures_of_their_own() -> None:
    """As the same rows alone at that temperature, with filters and without."""
    source = logits(5, vocab=1100).float()[torch.tensor([0, 1, 0, 1, 0])]
    temperatures = torch.tensor([0.0, 0.3, 1.0, 1e-40, 40.0])
    where = torch.arange(5)
    for law in (TokenLaw(suppressed=(3,)), TokenLaw(top_k=50, top_p=0.9, min_p=0.001)):
        for statistics in ("model", "law"):
            call = {"keys": where, "positions": where, "steps": where, "statistics": statistics}
            found = ops.draw(source, law=law, temperatures=temperatures, **call)  # type: ignore[arg-type]
            table = ops.log_probs(source, law=law, temperatures=temperatures)
            tokens = torch.arange(5) * 200
            given = ops.log_prob_of(source, tokens, law=law, temperatures=temperatures)
            assert torch.equal(given, table[where, tokens])
            for i, value in enumerate(temperatures.tolist()):
                own = TokenLaw(value, law.top_k, law.top_p, law.min_p, suppressed=law.suppressed)
                call["rows"] = where[i : i + 1]
                part = {k: v[i : i + 1] if k != "statistics" else v for k, v in call.items()}
                part["rows"] = where[i : i + 1]
                alone = ops.draw(source, law=own, **part)  # type: ignore[arg-type]
                for name, one, other in zip(found._fields, found, alone, strict=True):
                    assert torch.allclose(one[i], other[0], rtol=1e-5, atol=1e-6), name
                same = ops.log_probs(source, law=own, rows=where[i : i + 1])[0]
                assert torch.equal(same.isneginf(), table[i].isneginf())
                assert torch.allclose(same.exp(), table[i].exp(), rtol=1e-4)


def test_no_rows_keep_dtype_and_device() -> None:
    for dtype, real in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        none, nothing = torch.empty(0, 7, dtype=dtype), ZERO[:0]
        assert ops.log_probs(none).dtype == real
        assert ops.log_prob_of(none, nothing).dtype == real
        draw = ops.draw(none, keys=nothing, positions=nothing, steps=nothing)
        assert draw.entropy.dtype == real
    head = ops.LogitRows(lambda i: torch.zeros(len(i), 7), 0, 7, torch.device("meta"))
    assert ops.log_probs(head).device.type == "meta"
    assert ops.log_prob_of(head, ZERO[:0], check=False).device.type == "meta"
