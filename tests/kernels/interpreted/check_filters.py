"""Top-k, top-p, min-p and log-probabilities under the interpreter: the same tokens pass."""

from __future__ import annotations

import math

import pytest
import torch
from dlm_kernels import operators

from dlm_sampling import ops
from dlm_sampling.types import TokenLaw
from tests.kernels.interpreted.twins import agree, noise, normal, same_law

INF = math.inf


@pytest.mark.parametrize(
    ("law", "dtype", "statistics"),
    [
        (TokenLaw(top_k=37, suppressed=(7, 1050)), torch.float32, "law"),
        (TokenLaw(top_p=0.8), torch.float32, "law"),
        (TokenLaw(1.5, top_p=0.8, crossing="exclude"), torch.float16, "model"),
        (TokenLaw(0.5, min_p=0.01), torch.bfloat16, "law"),
        (TokenLaw(2.0, top_k=400, top_p=0.5, min_p=0.05), torch.float32, "model"),
        (TokenLaw(0.0, top_p=0.9), torch.float32, "law"),
    ],
    ids=str,
)
def test_the_same_tokens_pass_and_one_of_them_is_drawn(
    law: TokenLaw, dtype: torch.dtype, statistics: str
) -> None:
    logits = normal(2, 1100, 3)
    logits[1] = logits[1].round()  # many ties
    logits = logits.to(dtype)
    agree(logits, 2, law=law, statistics=statistics)
    found = same_law(logits, torch.tensor([5, 1099]), law=law)
    kept = (~found.isneginf()).sum(1)
    assert (kept < 1099).all()
    assert law.top_k is None or law.top_p is not None or kept.tolist() == [law.top_k] * 2


@pytest.mark.parametrize(
    ("law", "dtype"),
    [
        (TokenLaw(top_k=37, suppressed=(7, 1050)), torch.bfloat16),
        (TokenLaw(2.0, top_k=400, top_p=0.5, min_p=0.05), torch.float16),
        (TokenLaw(1.5, top_p=0.8, crossing="exclude"), torch.bfloat16),
    ],
    ids=str,
)
def test_tiles_shared_out_among_programs_make_the_same_cut(
    law: TokenLaw, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tiles, of which one program has two and another none; ties across their borders."""
    from dlm_kernels.common import logit_pass

    logits = normal(2, 2100, 3)
    logits[1] = logits[1].round()
    logits = logits.to(dtype)
    alone = operators.log_probs(logits, law=law)
    monkeypatch.setattr(logit_pass, "CHOICES", logit_pass.Choices(parts=4))
    assert torch.equal(operators.log_probs(logits, law=law), alone)
    if law.min_p is not None:  # statistics read the number of tokens, too
        agree(logits, 2, law=law, statistics="law")


@pytest.mark.parametrize("crossing", ["include", "exclude"])
def test_boundaries_inside_ties_go_to_the_lowest_ids(crossing: str) -> None:
    """Equal masses make every boundary exact: 8 tokens of 1/8 each."""
    logits = torch.full((3, 1040), -INF)
    logits[:, [3, 4, 700, 1023, 1024, 1030, 1035, 1039]] = 2.0
    for row, top_p in enumerate((0.01, 0.125, 0.626)):
        law = TokenLaw(top_p=top_p, crossing=crossing)  # type: ignore[arg-type]
        same_law(logits[row : row + 1], law=law)
    found = same_law(logits[:1], law=TokenLaw(top_k=5))
    assert (~found.isneginf()).nonzero()[:, 1].tolist() == [3, 4, 700, 1023, 1024]


def test_the_first_token_always_passes() -> None:
    logits = torch.tensor([[0.0, 9.0, 3.0], [1.0, 1.0, 1.0]])
    law = TokenLaw(top_p=0.3, crossing="exclude")
    assert (~same_law(logits, law=law).isneginf()).tolist() == [
        [False, True, False],
        [True, False, False],
    ]
    assert agree(logits, 2, law=law, statistics="law").margin.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("law", [TokenLaw(top_k=9), TokenLaw(top_p=0.9), TokenLaw(min_p=0.0)])
def test_rows_without_a_law_end(law: TokenLaw) -> None:
    logits = torch.tensor([[-INF, -INF], [0.0, -INF], [math.nan, 0.0], [INF, 0.0]])
    found = operators.draw(logits, **noise(4), law=law, check=False)
    assert found.token[1].item() == 0
    assert ((found.token >= 0) & (found.token < 2)).all()
    with pytest.raises(ValueError, match="row 0 of the logits holds no token"):
        operators.log_probs(logits, law=law)


def test_log_probs_without_filters() -> None:
    logits = normal(2, 1030).T.contiguous().T
    same_law(logits, torch.tensor([77, 1029]), law=TokenLaw(suppressed=(77,)))
    temperatures, rows = torch.tensor([0.0, 0.5, 30.0]), torch.tensor([1, 1, 0])
    head = ops.LogitRows(lambda i: logits[i], 2, 1030, logits.device, block=2)
    same_law(head, torch.tensor([5, 9, 1029]), rows=rows, temperatures=temperatures)
    same_law(logits[:, :90], torch.tensor([5, 9]), law=TokenLaw(0.0))


def test_ids_that_are_none_have_no_log_probability() -> None:
    logits = normal(3, 40)
    tokens = torch.tensor([-1, 40, 3])
    found = operators.log_prob_of(logits, tokens)
    assert found.isnan().tolist() == [True, True, False]
    assert operators.log_prob_of(logits[:0], tokens[:0]).shape == (0,)
    assert operators.log_probs(logits[:0]).shape == (0, 40)


def test_the_operator_is_what_its_schema_and_its_fake_say() -> None:
    from dlm_kernels.common.device_tables import row_inverse_temperatures
    from dlm_kernels.log_probs.launch import log_probs_rows

    inverses = row_inverse_temperatures(torch.tensor([0.5, 2.0]), None)
    law = (1.0, [3], 2, 0.9, 0.01, True, 0, True)
    for tokens in (None, torch.tensor([1, 4])):
        arguments = (normal(2, 5), None, None, None, tokens, 2, inverses, *law)
        torch.library.opcheck(
            log_probs_rows, arguments, test_utils=("test_schema", "test_faketensor")
        )
