"""Free and fixed shapes: what runs, what is counted, and what the network sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlm_sampling.denoisers import Denoiser
from dlm_sampling.prediction.model import Counts
from dlm_sampling.prediction.shapes import (
    FREE,
    FixedShapes,
    by_span,
    real_columns,
    unseen_share,
)
from dlm_sampling.types import DenoiserOutput, DrawRecord, Pass

WHERE = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]).bool()
COLUMNS = torch.tensor([[1, 2], [0, 1], [0, 1]])
LIVE = torch.tensor([True, True, False])
TOKENS = torch.arange(12).view(3, 4)


def fixed() -> FixedShapes:
    return FixedShapes(COLUMNS, LIVE, torch.zeros(3, dtype=torch.bool))


def test_free_lists_what_was_asked_and_fixed_lists_the_window() -> None:
    free = FREE.sites(WHERE)
    assert list(zip(free.row.tolist(), free.column.tolist(), strict=True)) == [
        (0, 1), (0, 3), (2, 0), (2, 1),
    ]  # fmt: skip
    window = fixed().sites(WHERE & torch.tensor([1, 1, 1, 0]).bool())
    assert window.row.tolist() == [0, 0, 1, 1, 2, 2]
    assert window.column.tolist() == COLUMNS.flatten().tolist()
    assert window.asked is not None
    assert window.asked.tolist() == [True, False, False, False, False, False], "row 2 is done"


def test_a_pass_is_run_where_something_is_asked_and_nothing_has_run() -> None:
    none = torch.zeros(3, dtype=torch.bool)
    missing = FREE.missing(WHERE, none)
    assert missing is not None and missing.tolist() == [0, 2]
    rest = FREE.missing(WHERE, torch.tensor([True, False, False]))
    assert rest is not None and rest.tolist() == [2]
    assert FREE.missing(WHERE | True, none) is None, "all rows"
    assert FREE.missing(WHERE[:1], None) is None, "a row alone"
    idle = FREE.missing(WHERE[1:2], None)
    assert idle is not None and idle.tolist() == []
    assert fixed().missing(WHERE, none) is None


def test_passes_are_charged_to_their_rows() -> None:
    counts = Counts.zero(4, torch.device("cpu"))
    FREE.charge(counts, torch.tensor([3, 1, 3]), 2, torch.tensor([0.5, 0.25, 0.5]).double())
    assert counts.nfe.tolist() == [0, 2, 0, 4], "copies of a row are charged to it together"
    assert counts.spared.tolist() == [0.0, 0.25, 0.0, 1.0]
    assert counts.work.tolist() == [0.0, 1.75, 0.0, 3.0]


def test_a_recorded_pass_is_charged_to_live_rows() -> None:
    counts = Counts.zero(3, torch.device("cpu"))
    fixed().charge(counts, torch.arange(3), 2, torch.full((3,), 0.5).double())
    assert counts.nfe.tolist() == [2, 2, 0]
    assert counts.spared.tolist() == [0.5, 0.5, 0.0]


def test_hidden_columns_are_cut_or_masked() -> None:
    attention = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]).bool()
    horizon = torch.tensor([2, 3, 3])
    inputs = Pass(TOKENS, attention=attention, columns=torch.tensor([[1, 2], [2, 3], [2, 3]]))
    free, kept = FREE.cut(inputs, horizon), fixed().cut(inputs, horizon)
    assert free.tokens.tolist() == TOKENS[:, :3].tolist()
    assert free.attention is not None and kept.attention is not None
    seen = [[0, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert free.attention.int().tolist() == seen
    assert free.columns is not None
    assert free.columns.tolist() == [[1, 2], [2, 2], [2, 2]], "no column beyond the cut"
    assert kept.tokens is TOKENS
    assert kept.attention.int().tolist() == [[*row, 0] for row in seen]


def test_a_cut_that_leaves_nothing_hidden_needs_no_mask() -> None:
    every = torch.full((3,), 2)
    assert FREE.cut(Pass(TOKENS), every).attention is None
    masked = fixed().cut(Pass(TOKENS), every).attention
    assert masked is not None and masked.int().tolist() == [[1, 1, 0, 0]] * 3


def test_a_live_row_without_a_law_where_it_was_asked_is_noted_for_good() -> None:
    shapes, nan = fixed(), torch.nan

    def normalizers(*values: float) -> DrawRecord:
        return DrawRecord(*[torch.zeros(6)] * 6, log_normalizer=torch.tensor(values))

    sites = shapes.sites(torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool())
    # Row 0 asked for its first entry, row 1 for its first, row 2 is done.
    shapes.note(normalizers(0.0, nan, 1.0, nan, nan, nan), sites)
    assert shapes.lawless.tolist() == [False, False, False]
    shapes.note(normalizers(0.0, nan, -torch.inf, 0.0, nan, nan), sites)
    assert shapes.lawless.tolist() == [False, True, False]
    shapes.note(normalizers(*[0.0] * 6), sites)
    assert shapes.lawless.tolist() == [False, True, False]


def test_a_sampler_of_changing_shapes_is_refused_where_shapes_are_fixed() -> None:
    FREE.check_free("reads tables")
    with pytest.raises(ValueError, match="cuda_graph=True: this sampler reads tables"):
        fixed().check_free("reads tables")


def test_hidden_columns_are_a_share_of_those_that_are_no_padding() -> None:
    horizon, attention = torch.tensor([2, 3, 4]), torch.tensor([[0, 1, 1, 1]] * 3).bool()
    assert real_columns(Pass(TOKENS)).all()
    assert real_columns(Pass(TOKENS, attention=attention)) is attention
    assert unseen_share(Pass(TOKENS), horizon, 2).tolist() == [1.0, 0.5, 0.0]
    padded = unseen_share(Pass(TOKENS, attention=attention), horizon, 1)
    assert padded.tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])


class Spans(Denoiser):
    """Values that depend on the first and last token, on the width, and on the column."""

    def forward(self, inputs: Pass) -> DenoiserOutput:
        assert inputs.attention is None
        return DenoiserOutput(of_span(inputs.tokens, self.vocab_size))


def of_span(tokens: Tensor, size: int) -> Tensor:
    width = tokens.shape[1]
    rows = 1000.0 * tokens[:, :1] + 100.0 * tokens[:, -1:] + 10.0 * width
    return (rows + torch.arange(width)).unsqueeze(-1) + torch.arange(size) / size


@pytest.mark.parametrize("columns", [None, [[4, 1, 2, 3]] * 6])
def test_rows_of_a_network_that_ignores_padding_are_cut_to_their_span(
    columns: list[list[int]] | None,
) -> None:
    """Spans that share a start, an end or both; other columns are 0."""
    spans = [(0, 7), (1, 7), (0, 4), (2, 5), (0, 7), (1, 4)]
    column, size = torch.arange(7), 5
    attention = torch.stack([(column >= start) & (column < stop) for start, stop in spans])
    tokens = torch.randint(size, (6, 7), generator=torch.Generator().manual_seed(4))
    model = Spans(vocab_size=size, mask_token_id=4, honours_padding=False)
    asked = None if columns is None else torch.tensor(columns)
    out = by_span(model, Pass(tokens, attention=attention, columns=asked), 7)
    wanted = torch.zeros(6, 7, size)
    for row, (start, stop) in enumerate(spans):
        wanted[row, start:stop] = of_span(tokens[row : row + 1, start:stop], size)[0]
    if asked is not None:
        wanted = wanted.gather(1, asked.unsqueeze(-1).expand(-1, -1, size))
    torch.testing.assert_close(out.values, wanted)
    assert out.columns is asked
