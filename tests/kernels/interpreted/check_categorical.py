"""K1 and K2 under the interpreter agree with dlm_sampling.ops.draw: tokens and record."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dlm_kernels import operators
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.types import DrawRecord, TokenLaw
from tests.kernels.interpreted.check_aligned_reads import between_walls
from tests.kernels.interpreted.twins import CLOSE, agree, noise, normal

INF = math.inf


@pytest.mark.parametrize(
    ("vocab", "dtype", "law", "statistics"),
    [
        (3, torch.float32, TokenLaw(), "model"),
        (1000, torch.bfloat16, TokenLaw(temperature=0.7), "model"),
        (1024, torch.float16, TokenLaw(temperature=1.5), "law"),
        (4099, torch.float32, TokenLaw(suppressed=(0, 7, 1023, 1024, 4098)), "model"),
        (4099, torch.bfloat16, TokenLaw(temperature=0.0, suppressed=(4097,)), "model"),
    ],
)
def test_tokens_and_record_agree(
    vocab: int, dtype: torch.dtype, law: TokenLaw, statistics: str
) -> None:
    agree(normal(3, vocab, vocab).to(dtype), 3, law=law, statistics=statistics, sub=2)


def test_how_programs_share_the_tiles_changes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tiles, a ragged one, and one that must be done again: in groups of 1, and of 4."""
    from dlm_kernels.common import logit_pass

    logits = normal(2, 4 * 1024 + 7, 1)
    pair = ops.Guided(logits, normal(2, 4 * 1024 + 7, 2), 0.7)
    holed = logits.index_fill(1, torch.tensor([1500]), -INF)
    found: list[list[DrawRecord]] = []
    for tiles, ahead in ((1, False), (4, False), (4, True)):
        monkeypatch.setattr(logit_pass, "CHOICES", logit_pass.Choices(tiles, ahead))
        found.append([operators.draw(source, **noise(2)) for source in (holed, pair)])
    for one, two in zip(found[1], found[2], strict=True):
        assert all(map(torch.equal, one, two))
    assert all(map(torch.equal, found[0][1], found[1][1]))
    assert torch.equal(found[0][0].token, found[1][0].token)
    # A tile that holds -inf has its whole group done again, with other roundings.
    for one, two in zip(found[0][0][1:], found[1][0][1:], strict=True):
        torch.testing.assert_close(one, two, rtol=CLOSE, atol=CLOSE)


def test_few_rows_have_programs_of_few_tiles() -> None:
    from dlm_kernels.common.logit_pass import tiles_per_program

    found = [tiles_per_program(rows, 124) for rows in (1, 19, 38, 39, 76, 77, 9000)]
    assert found == [1, 1, 1, 2, 2, 4, 4]
    assert tiles_per_program(4000, 1) == 4 and tiles_per_program(10, 1) == 1


def test_strides_and_row_index() -> None:
    logits = normal(1100, 8).T[::2]
    assert logits.stride() == (2, 8)
    agree(logits, 3, rows=torch.tensor([3, 9, 0, 9, 3, 9])[::2])


@pytest.mark.parametrize("bad", [-1, 2, 1 << 40])
def test_rows_that_are_not_there_are_refused_and_never_read(bad: int) -> None:
    logits, rows = torch.zeros(2, 8), torch.tensor([1, bad])
    with pytest.raises(ValueError, match=r"rows\[1\] is no row of the logits"):
        operators.draw(logits, **noise(2), rows=rows)
    with pytest.raises(ValueError, match=r"rows\[1\] is no row of the logits"):
        operators.log_probs(logits, rows=rows)
    good = operators.draw(logits, **noise(2), rows=rows, check=False).token[0]
    assert good == ops.draw(logits, **noise(2)).token[0]


def test_a_source_that_makes_its_rows_is_asked_for_each_once() -> None:
    logits, asked = normal(4, 5), []

    def fetch(rows: Tensor) -> Tensor:
        asked.append(rows.tolist())
        return logits[rows]

    source = ops.LogitRows(fetch, 4, 5, logits.device, block=2)
    rows = torch.tensor([3, 1, 0])
    found = operators.draw(source, **noise(3), rows=rows)
    assert asked == [[3, 1], [0]]
    assert found.token.tolist() == ops.draw(logits, **noise(3), rows=rows).token.tolist()


def test_ties_go_to_the_lowest_id() -> None:
    logits = torch.zeros(1, 1100)
    logits[0, [900, 901, 1050]] = 4.0
    found = agree(logits, 1, law=TokenLaw(temperature=0.0))
    assert found.token.item() == 900
    assert found.margin.item() == 0.0
    assert agree(logits, 1, law=TokenLaw(temperature=0.0, suppressed=(900,))).token.item() == 901


def test_tokens_of_no_probability_are_never_drawn() -> None:
    """Whole tiles of -inf, whole runs of -inf, and a single token."""
    logits = torch.full((3, 2100), -INF)
    logits[0, 1024:2048] = 0.0
    logits[1, [5, 2099]] = 0.0
    logits[2, 2050] = -3.0
    found = agree(logits, 3)
    assert found.token[1].item() in (5, 2099)
    assert found.token[2].item() == 2050
    assert found.log_confidence[2].item() == 0.0


@pytest.mark.parametrize("temperature", [1e-300, 1e-12, 1e12, 1e30])
def test_extreme_temperatures(temperature: float) -> None:
    logits = normal(1, 1000)
    logits[0, 500] = -INF
    agree(logits, 1, law=TokenLaw(temperature=temperature), statistics="law")
    if temperature == 1e-12:
        assert agree(logits, 1, law=TokenLaw(temperature=temperature)).token == logits.argmax()


@pytest.mark.parametrize(("statistics", "vocab"), [("model", 1030), ("law", 70)])
def test_a_temperature_per_row(statistics: str, vocab: int) -> None:
    temperatures = torch.tensor([0.0, 1e-20, 0.003, 0.4, 50.0])
    logits = normal(5, vocab)
    found = agree(logits, 5, temperatures=temperatures, statistics=statistics)
    assert torch.equal(found.token[:2], logits[:2].argmax(-1))
    assert found.logprob[0] == 0.0
    wrong = operators.draw(logits[:, :60], **noise(5), temperatures=temperatures.flip(0))
    assert not torch.equal(wrong.token, found.token)
    for draw in (ops.draw, operators.draw):
        with pytest.raises(ValueError, match=r"temperatures\[1\]=-1.0"):
            draw(logits, **noise(5), temperatures=torch.tensor([0.0, -1.0, 1.0, 1.0, 1.0]))


def test_the_number_of_the_draw_may_live_on_the_device() -> None:
    logits = torch.zeros(6, 900)
    found = agree(logits, 6, sub=torch.tensor(3))
    assert torch.equal(found.token, ops.draw(logits, **noise(6), sub=3).token)
    assert not torch.equal(found.token, ops.draw(logits, **noise(6), sub=2).token)


@pytest.mark.parametrize(
    ("row", "law", "what"),
    [
        ([-INF, -INF, -INF], TokenLaw(), "no token that may be drawn"),
        ([0.0, 1.0, 2.0], TokenLaw(suppressed=(0, 1, 2)), "no token that may be drawn"),
        ([0.0, math.nan, 2.0], TokenLaw(temperature=0.5), "NaN"),
        ([0.0, INF, 2.0], TokenLaw(temperature=0.0), r"\+inf"),
    ],
)
def test_rows_without_a_law_are_refused_as_torch_refuses_them(
    row: list[float], law: TokenLaw, what: str
) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], row])
    if law.suppressed:
        logits[0] = torch.tensor([-INF, 0.0, 0.0])
    place = 0 if law.suppressed else 1
    for draw in (ops.draw, operators.draw):
        with pytest.raises(ValueError, match=f"row {place} of the logits holds {what}"):
            draw(logits, **noise(2), law=law)


def test_without_the_check_the_good_rows_are_drawn() -> None:
    logits = torch.tensor([[-INF, -INF], [0.0, -INF], [math.nan, 0.0]])
    found = operators.draw(logits, **noise(3), check=False)
    assert found.token[1].item() == 0
    assert ((found.token >= 0) & (found.token < 2)).all()


def test_a_row_of_nan_reads_no_tile_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tiles in eight lanes; a read beyond the table of suppressed ids ends this process."""
    from dlm_kernels.common import logit_pass
    from dlm_kernels.common.device_tables import Suppressed, suppressed_table

    def at_the_wall(*law: Any) -> Suppressed:
        starts, ids = suppressed_table(*law)
        end = between_walls().view(torch.int32)[-len(starts) :]
        return Suppressed(end.copy_(starts), ids)

    monkeypatch.setattr(logit_pass, "suppressed_table", at_the_wall)
    logits, token = torch.full((1, 5 * 1024), math.nan), torch.zeros(1, dtype=torch.int64)
    for law in (TokenLaw(), TokenLaw(0.0)):
        assert 0 <= operators.draw(logits, **noise(1), law=law, check=False).token < 5 * 1024
        operators.log_prob_of(logits, token, law=law, check=False)


LAWS = [TokenLaw(), TokenLaw(0.0), TokenLaw(0.7, top_k=3, top_p=0.8, suppressed=(1,))]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("made", [False, True])
def test_places_without_a_row_are_passed_over(law: TokenLaw, made: bool) -> None:
    """An index of -1 costs no read, whatever the logits are; the other places are drawn as ever."""
    hidden, weight = normal(4, 3), normal(1030, 3, seed=1)
    rows, kept = torch.tensor([-1, 2, -1, 1, 3]), torch.tensor([1, 3, 4])
    logits = hidden @ weight.T
    if not made:
        logits[0] = torch.nan  # the nearest row: reading it would show
    source = ops.head_rows(hidden, weight, block=2) if made else logits
    place = noise(5)
    found = operators.draw(source, **place, rows=rows, law=law, check=False)
    some = {name: value[kept] for name, value in place.items()}
    expected = ops.draw(logits, **some, rows=rows[kept], law=law)
    assert torch.equal(found.token[kept], expected.token)
    torch.testing.assert_close(found.logprob[kept], expected.logprob, rtol=1e-5, atol=1e-5)
    assert ((found.token >= 0) & (found.token < 1030)).all()
    assert not found.log_normalizer[::2][:2].isnan().any()
    score = operators.log_prob_of(source, found.token, rows=rows, law=law, check=False)
    torch.testing.assert_close(score[kept], expected.logprob, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"rows\[0\] is no row"):
        operators.draw(source, **place, rows=rows, law=law)


def test_no_rows() -> None:
    found = operators.draw(torch.zeros(0, 5), **noise(0))
    assert [field.shape for field in found] == [(0,)] * 7


def test_what_has_no_kernel_is_said() -> None:
    with pytest.raises(TypeError, match="float64"):
        operators.draw(torch.zeros(1, 5, dtype=torch.float64), **noise(1))
    with pytest.raises(ValueError, match="suppressed id 5"):
        operators.draw(torch.zeros(1, 5), **noise(1), law=TokenLaw(suppressed=(5,)))


def test_the_operator_is_what_its_schema_and_its_fake_say() -> None:
    from dlm_kernels.categorical.launch import draw_rows
    from dlm_kernels.common.device_tables import row_inverse_temperatures

    rows, inverses = torch.tensor([1, 0]), row_inverse_temperatures(torch.tensor([0.5, 2.0]), 1.0)
    law = (1.0, 0.7, [3], 2, 0.9, 0.01, True, 0)
    tests = ("test_schema", "test_faketensor")
    for number, temperatures, greedy in ((torch.tensor(0), inverses, 2), (None, None, 0)):
        place = (normal(2, 5), None, None, rows, *noise(2).values(), 0, number, temperatures)
        torch.library.opcheck(draw_rows, (*place, *law, greedy, False, False), test_utils=tests)
