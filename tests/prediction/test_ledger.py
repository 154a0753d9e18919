"""The ledger of a step: how the token of each position was drawn."""

from __future__ import annotations

import torch

from dlm_sampling.prediction.ledger import Ledger
from dlm_sampling.types import Drawn

NOT, LAW, ARGMAX, OTHER = Drawn.NOT, Drawn.FROM_LAW, Drawn.ARGMAX, Drawn.OTHERWISE
CANVAS = torch.tensor([[5, 5, 1], [5, 2, 5]])
LEFT = torch.tensor([[True, False, False], [True, False, False]])


def test_a_step_begins_with_nothing_drawn() -> None:
    ledger = Ledger.of(CANVAS)
    assert ledger.how.dtype == torch.int8
    assert ledger.how.tolist() == [[NOT] * 3] * 2


def test_a_draw_of_the_canvas_before_the_step_is_from_the_law_if_the_law_is_that_of_the_run() -> (
    None
):
    for x in (CANVAS, CANVAS.clone()):
        ledger = Ledger.of(CANVAS)
        ledger.note(x, LEFT, None, own_law=True)
        assert ledger.how.tolist() == [[LAW, NOT, NOT]] * 2
    ledger = Ledger.of(CANVAS)
    ledger.note(CANVAS, LEFT, None, own_law=False)
    assert ledger.how.tolist() == [[OTHER, NOT, NOT]] * 2


def test_a_row_whose_canvas_has_changed_is_drawn_otherwise() -> None:
    changed = CANVAS.clone()
    changed[1, 2] = 3
    ledger = Ledger.of(CANVAS)
    ledger.note(changed, LEFT, None, own_law=True)
    assert ledger.how.tolist() == [[LAW, NOT, NOT], [OTHER, NOT, NOT]]


def test_rows_that_took_the_argmax_are_marked_whatever_the_law() -> None:
    for own_law, second in ((True, LAW), (False, OTHER)):
        ledger = Ledger.of(CANVAS)
        ledger.note(CANVAS, LEFT, torch.tensor([True, False]), own_law=own_law)
        assert ledger.how.tolist() == [[ARGMAX, NOT, NOT], [second, NOT, NOT]]


def test_a_position_that_was_drawn_in_two_ways_may_hold_either_token() -> None:
    ledger = Ledger.of(CANVAS)
    ledger.note(CANVAS, torch.tensor([[True, True, False]] * 2), None, own_law=True)
    ledger.note(CANVAS, LEFT, torch.tensor([True, False]), own_law=True)
    assert ledger.how.tolist() == [[OTHER, LAW, NOT], [LAW, LAW, NOT]]
