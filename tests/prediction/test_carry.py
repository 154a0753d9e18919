"""The latent state of a network: kept by row, made anew where a row begins, cut with columns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.prediction.carry import NO_CARRY, crop, widen
from dlm_sampling.samplers import create
from dlm_sampling.types import DenoiserOutput, Pass


def initial(x: Tensor) -> tuple[Tensor, Tensor]:
    """A state of each row and one of each column, from the canvas."""
    return x[:, :1] * 10, x.double().unsqueeze(2).expand(-1, -1, 2)


CANVASES = torch.arange(12).view(4, 3)  # of the rows 0 to 3


def test_rows_begin_from_their_canvas_and_then_keep_what_was_written() -> None:
    rows = torch.tensor([3, 1])
    carry, (row, column) = NO_CARRY.read(initial, CANVASES[rows], rows, 4)
    assert row.tolist() == [[90], [30]]
    assert torch.equal(column, initial(CANVASES[rows])[1])
    carry = carry.write(rows, (row + 1, column + 1))

    every = torch.arange(4)
    carry, (row, column) = carry.read(initial, CANVASES, every, 4)
    assert row.tolist() == [[0], [31], [60], [91]]  # 1 and 3 go on, 0 and 2 begin
    assert torch.equal(column[1], initial(CANVASES)[1][1] + 1)
    assert torch.equal(column[2], initial(CANVASES)[1][2])


def test_a_reset_row_begins_anew_and_no_other() -> None:
    every = torch.arange(4)
    carry, state = NO_CARRY.read(initial, CANVASES, every, 4)
    carry = carry.write(every, (state[0] + 5, state[1]))
    carry = carry.reset(torch.tensor([False, True, False, False]))
    _, (row, _) = carry.read(initial, CANVASES, every, 4)
    assert row.tolist() == [[5], [30], [65], [95]]
    carry = carry.reset(torch.tensor([False, False, False, True]))  # 1 has not been read since
    _, (row, _) = carry.read(initial, CANVASES, every, 4)
    assert row.tolist() == [[5], [30], [65], [90]]
    nothing = torch.ones(4, dtype=torch.bool)
    assert NO_CARRY.reset(nothing) is NO_CARRY


def test_reading_changes_no_earlier_carry() -> None:
    """A carry is a value: the state of a step can be read again."""
    every = torch.arange(4)
    first, state = NO_CARRY.read(initial, CANVASES, every, 4)
    second = first.write(every, (state[0] + 5, state[1]))
    assert first.read(initial, CANVASES, every, 4)[1][0].tolist() == [[0], [30], [60], [90]]
    assert second.read(initial, CANVASES, every, 4)[1][0].tolist() == [[5], [35], [65], [95]]


def test_states_of_columns_are_cut_with_the_canvas() -> None:
    column, wide = torch.arange(20.0).view(2, 5, 2), torch.arange(50.0).view(2, 5, 5)
    cut = crop((column, wide), 1, 4)
    assert torch.equal(cut[0], column[:, 1:4])
    assert torch.equal(cut[1], wide[:, 1:4])
    back = widen(cut, 1, 4, 5)
    assert torch.equal(back[0][:, 1:4], column[:, 1:4])
    assert not back[1][:, [0, 4]].any()


class Remembering(Denoiser):
    """Its state [B, 4] has the width of the canvas by accident, and no columns."""

    carries = True

    def __init__(self, columns: bool) -> None:
        super().__init__(vocab_size=3, mask_token_id=2)
        self.carry_has_columns, self.widths = columns, list[int]()

    def initial_carry(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(input_ids), 4)

    def forward(self, inputs: Pass) -> DenoiserOutput:
        self.widths.append(inputs.carry.shape[1])
        return DenoiserOutput(torch.zeros(*inputs.tokens.shape, 3), carry=inputs.carry + 1)


@pytest.mark.parametrize(("columns", "widths"), [(False, [4, 4, 4, 4]), (True, [2, 2, 4, 4])])
def test_a_state_is_cut_only_if_the_denoiser_says_so(columns: bool, widths: list[int]) -> None:
    denoiser, canvas = Remembering(columns), torch.full((1, 4), 2)
    blocks: dict[str, Any] = {"block_length": 2, "steps": 4, "causal_blocks": True}
    sample(denoiser, create("ancestral"), canvas, canvas == 2, seeds=[0], **blocks)
    assert denoiser.widths == widths
