"""The loop, step by step: rows that are done leave, with counts of their own; and its events."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling import samplers, wrap
from dlm_sampling.engine.blocks import plan_blocks
from dlm_sampling.engine.checks import check_canvases
from dlm_sampling.engine.output import Listeners, SampleOutput
from dlm_sampling.engine.request import Request
from dlm_sampling.engine.run import Run
from dlm_sampling.engine.stepwise import run_stepwise
from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.types import Drawn, TokenLaw

V, MASK, STOP, PAD = 6, 5, 4, 3
TOKENS = torch.tensor([[0, 0, 0, 0], [0, 9, 9, 9], [0, 0, 0, 9]])  # 9: to be written
EDITABLE = TOKENS == 9


def run(
    wish: list[int], *, stops: tuple[int, ...] = (), listeners: Listeners | None = None
) -> tuple[SampleOutput, list[int]]:
    """Decode from left to right a model that is sure of `wish`, and more so further left.

    Returns the output, and the number of canvases of every pass.
    """
    sizes: list[int] = []

    def sure(input_ids: Tensor) -> Tensor:
        sizes.append(len(input_ids))
        height = torch.tensor([9.0, 7.0, 5.0, 3.0]).unsqueeze(1)
        table = torch.nn.functional.one_hot(torch.tensor(wish), V) * height
        return table.expand(len(input_ids), -1, -1)

    model = wrap(sure, vocab_size=V, mask_token_id=MASK, pad_token_id=PAD)
    canvases = check_canvases(model, TOKENS, EDITABLE, None, [1, 2, 3])
    request = Request(samplers.create("llada"), law=TokenLaw(temperature=0.0), stop_token_ids=stops)
    made = Run.of(model, request, canvases, plan_blocks(EDITABLE, None, None))
    with torch.no_grad():
        out = run_stepwise(made, made.begin(canvases), listeners or Listeners())
    return out, sizes


def test_a_row_that_is_done_costs_no_further_pass() -> None:
    out, sizes = run([0, 1, 2, 1])
    assert out.tokens.tolist() == [[0, 0, 0, 0], [0, 1, 2, 1], [0, 0, 0, 1]]
    assert sizes == [2, 1, 1]
    assert out.nfe.tolist() == out.steps.tolist() == [0, 3, 1]
    assert out.work.tolist() == [0.0, 3.0, 1.0]
    assert not out.ended.any()
    assert out.seeds == (1, 2, 3) and out.trajectory is None


def test_a_row_that_met_a_stop_token_ends_and_what_is_left_is_padding() -> None:
    out, sizes = run([0, STOP, 2, 1], stops=(STOP,))
    assert out.tokens.tolist() == [[0, 0, 0, 0], [0, STOP, PAD, PAD], [0, 0, 0, 1]]
    assert out.ended.tolist() == [False, True, False]
    assert sizes == [2] and out.nfe.tolist() == [0, 1, 1]


def test_an_event_tells_of_the_rows_that_were_active() -> None:
    events: list[StepEvent] = []
    run([0, 1, 2, 1], listeners=Listeners((events.append,)))
    assert [event.iteration for event in events] == [0, 1, 2]
    assert [event.rows.tolist() for event in events] == [[1, 2], [1], [1]]
    assert [event.final.tolist() for event in events] == [[False, True], [False], [True]]
    assert [event.nfe.tolist() for event in events] == [[1, 1], [2], [3]]
    assert [event.step.tolist() for event in events] == [[0, 0], [1], [2]]
    written = [event.written[0].nonzero()[:, 0].tolist() for event in events]
    assert written == [[1], [2], [3]], "from left to right"
    first = events[0]
    assert first.before.tolist() == [[0, MASK, MASK, MASK], [0, 0, 0, MASK]]
    assert first.tokens.tolist() == [[0, 1, MASK, MASK], [0, 0, 0, 1]]
    assert first.unknown.int().tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert first.forwarded.all() and not first.logprob.any()
    assert first.horizon is None and first.drawn is not None
    assert first.drawn.tolist() == [[0, Drawn.FROM_LAW, 0, 0], [0, 0, 0, Drawn.FROM_LAW]]
