"""The row tensors of a pass: all of them go with their rows."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

import torch
from torch import Tensor

from dlm_sampling.denoisers import Denoiser
from dlm_sampling.prediction.ledger import Ledger
from dlm_sampling.prediction.model import Counts, RunModel
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.prediction.rows import Beside, PassRows
from dlm_sampling.schedules import LOG_LINEAR, Cosine
from dlm_sampling.types import DenoiserOutput, Pass, TokenLaw
from dlm_sampling.types.rows import row_tensors, select_rows

V, MASK, LENGTH, COUNT = 5, 4, 6, 3


class Keeping(Denoiser):
    """Keeps the passes that it is asked for."""

    def __init__(self) -> None:
        super().__init__(vocab_size=V, mask_token_id=MASK, time_conditioned=True, schedule=Cosine())
        self.asked: list[Pass] = []

    def forward(self, inputs: Pass) -> DenoiserOutput:
        self.asked.append(inputs)
        return DenoiserOutput(inputs.tokens.unsqueeze(-1) * torch.ones(V))


def filled() -> PassRows:
    """Rows with another value in every row of every field."""
    row, column = torch.arange(COUNT).unsqueeze(1), torch.arange(LENGTH)
    count = torch.arange(1, COUNT + 1).double()
    return PassRows(
        index=torch.arange(COUNT).flip(0),
        attention=column >= row,
        given=column == row + 1,
        horizon=torch.tensor([4, 5, 6]),
        columns=row + torch.arange(2),
        beside=Beside(count, 2 * count, 9 + count),
    )


def passes(rows: PassRows, x: Tensor, t: Tensor, active: Tensor | None, n: int = 1) -> list[Any]:
    """The tensors of every pass over rows that are repeated n times, and what it charged."""
    denoiser = Keeping()
    denoiser.padding_proven = True
    model = RunModel(
        denoiser, TokenLaw(), Counts.zero(COUNT, x.device), guidance_scale=1.0, schedule=LOG_LINEAR
    )
    predictor = Predictor(model, rows)
    predictor = predictor if n == 1 else predictor.repeated(n)
    predictor.run(x, t, active)
    return [*denoiser.asked, model.counts.nfe, model.counts.spared]


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    pairs = zip(row_tensors(tuple(found)), row_tensors(tuple(wanted)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_some_rows_of_a_pass_are_those_rows_alone() -> None:
    x = torch.arange(COUNT * LENGTH).view(COUNT, LENGTH) % MASK
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    for active in (torch.tensor([1]), torch.tensor([0, 2])):
        alone = passes(select_rows(filled(), active), x[active], t[active], None)
        assert len(alone) == 4, "two passes, and two counts"
        assert_same(passes(filled(), x, t, active), alone)


def test_a_repeated_row_is_asked_for_as_it_is_alone() -> None:
    """Copies of a row stand side by side, and each keeps all that belongs to the row."""
    x = torch.arange(2 * COUNT * LENGTH).view(2 * COUNT, LENGTH) % MASK
    t = torch.linspace(0.1, 0.9, 2 * COUNT, dtype=torch.float64)
    for copy in range(2 * COUNT):
        row = torch.tensor([copy // 2])
        alone = passes(select_rows(filled(), row), x[copy : copy + 1], t[copy : copy + 1], None)
        assert_same(passes(filled(), x, t, torch.tensor([copy]), n=2), alone)


@dataclass(frozen=True)
class Grown(PassRows):
    """What somebody adds next year."""

    added: Tensor | None = None


def test_a_new_field_is_selected_and_repeated_without_being_named() -> None:
    values = {field.name: getattr(filled(), field.name) for field in fields(PassRows)}
    grown = Grown(**values, added=torch.tensor([5, 6, 7]))
    model = RunModel(Keeping(), TokenLaw(), Counts.zero(COUNT, torch.device("cpu")))
    rows = Predictor(model, grown).repeated(2).rows
    assert isinstance(rows, Grown) and rows.added is not None
    assert rows.added.tolist() == [5, 5, 6, 6, 7, 7]
    for part, whole in zip(row_tensors(rows), row_tensors(grown), strict=True):
        assert torch.equal(part, whole.repeat_interleave(2, 0))


def test_every_field_is_seen_by_the_helper() -> None:
    """A field of a kind that the helper does not walk into would be left behind in silence."""
    for field in fields(PassRows):
        without = replace(filled(), **{field.name: None})
        missing = len(list(row_tensors(filled()))) - len(list(row_tensors(without)))
        assert missing >= 1, f"{field.name}: give it a value in `filled`"


def test_a_predictor_keeps_its_row_tensors_in_one_place() -> None:
    """A field beside `rows` would have to be named wherever rows are repeated.

    Cache, constraint and the latest prediction hold rows of their own, and are left out there.
    """
    kinds = {name: str(kind) for name, kind in get_type_hints(Predictor).items()}
    assert not [name for name, kind in kinds.items() if "Tensor" in kind]
    assert set(kinds) == {
        "model",
        "rows",
        "carries",
        "shapes",
        "ledger",
        "cache",
        "constraint",
        "shares",
        "speculation",
        "made",
    }
    model = RunModel(Keeping(), TokenLaw(), Counts.zero(COUNT, torch.device("cpu")))
    whole = Predictor(model, filled(), ledger=Ledger.of(torch.zeros(COUNT, LENGTH)))
    twice = whole.repeated(2)
    assert (twice.carries, twice.ledger) == ((), None)


def test_alpha_of_all_averages_the_blocks() -> None:
    """2 of 4 positions of this block are masks, and 3 of 6 in the others."""
    beside = Beside(*(torch.tensor([n], dtype=torch.float64) for n in (4, 3, 10)))
    assert beside.alpha_of_all(torch.tensor([0.5]).double()).tolist() == [0.5]
    assert beside.alpha_of_all(torch.tensor([1.0]).double()).tolist() == [0.7]
    alone = beside._replace(total=beside.width)
    assert alone.alpha_of_all(torch.tensor([0.25]).double()).tolist() == [0.25]


def test_masks_of_other_blocks_are_those_that_the_run_writes() -> None:
    """The block is column 1; a prompt may hold masks too, here in column 0."""
    block = torch.tensor([[False, True, False, False]])
    editable = torch.tensor([[False, True, True, True]])
    unknown = torch.tensor([[True, True, True, False]])
    found = Beside.of(block, unknown, editable)
    assert [count.tolist() for count in found] == [[1.0], [1.0], [3.0]]
