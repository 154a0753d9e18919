"""The state of a run: everything that belongs to a row goes with its row."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers, wrap
from dlm_sampling.engine.blocks import plan_blocks
from dlm_sampling.engine.checks import check_canvases
from dlm_sampling.engine.output import Listeners
from dlm_sampling.engine.request import Request
from dlm_sampling.engine.run import Run
from dlm_sampling.engine.state import RunState
from dlm_sampling.engine.stepwise import Stepwise
from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.types import TokenLaw
from dlm_sampling.types.rows import copy_rows, row_tensors, select_rows, where_rows

V, MASK, LENGTH = 11, 10, 6


def logits(input_ids: Tensor) -> Tensor:
    """Depend on the whole canvas, so that a row that is mixed up with another one shows."""
    table = torch.randn(V, LENGTH, V, generator=torch.Generator().manual_seed(1))
    known = input_ids.clamp(max=V - 1)
    return sum(table[known[:, i]] for i in range(LENGTH))  # pyright: ignore[reportReturnType]


def begin(name: str = "llada", rows: int = 3) -> tuple[Run, RunState]:
    denoiser = wrap(logits, vocab_size=V, mask_token_id=MASK)
    tokens = torch.arange(rows * LENGTH).view(rows, LENGTH) % (V - 1)
    editable = torch.ones(rows, LENGTH, dtype=torch.bool)
    for row in range(rows):
        editable[row, : row % 4] = False  # rows end at different steps
    canvases = check_canvases(denoiser, tokens, editable, None, range(rows))
    request = Request(samplers.create(name), law=TokenLaw())
    plan = plan_blocks(editable, None, None)
    run = Run.of(denoiser, request, canvases, plan)
    return run, run.begin(canvases)


@pytest.mark.parametrize("name", ["llada", "klass", "remdm-conf", "first-hitting", "picard"])
def test_every_tensor_follows_its_row(name: str) -> None:
    """At any moment of a run all tensors of the state have one entry per active row."""
    run, state = begin(name, rows=4)
    with torch.no_grad():
        driver = Stepwise(run, state, Listeners())
        driver.retire(run.plan.number == 0, torch.zeros_like(driver.ended))
        sizes = set[int]()
        while len(driver.state):
            driver.advance()
            sizes.add(len(driver.state))
            assert {len(part) for part in row_tensors(driver.state)} <= {len(driver.state)}
    assert len(sizes) > 1 or name in {"remdm-conf", "picard"}, "no row ended before another"


def test_no_tensor_per_active_row_is_kept_outside_of_the_state() -> None:
    """The driver holds results of all rows; a tensor of the active ones would go out of step."""
    run, state = begin(rows=4)
    driver = Stepwise(run, select_rows(state, torch.tensor([0, 2])), Listeners())
    kept = {name for name, value in vars(driver).items() if isinstance(value, Tensor)}
    assert kept == {"tokens", "logprob", "steps", "ended"}


def numbered(state: RunState) -> RunState:
    """The state with another number in every row of every tensor, optional ones included."""
    rows = torch.arange(3)
    filled = replace(state, cache=(rows + 70, rows + 80), lineage=rows + 90)
    return filled


@dataclass(frozen=True)
class Grown(RunState):
    """What somebody adds next year."""

    added: Tensor | None = None


def test_a_new_field_is_selected_merged_and_copied_without_being_named() -> None:
    _, state = begin()
    values = {field.name: getattr(numbered(state), field.name) for field in fields(RunState)}
    grown = Grown(**values, added=torch.tensor([5, 6, 7]))
    index = torch.tensor([2, 2, 0])
    assert select_rows(grown, index).added.tolist() == [7, 7, 5]  # pyright: ignore
    rows = torch.tensor([True, False, True])
    other = replace(grown, added=torch.tensor([50, 60, 70]))
    assert where_rows(rows, other, grown).added.tolist() == [50, 6, 70]  # pyright: ignore
    copy = copy_rows(grown)
    assert copy.added is not grown.added
    for part, whole in zip(row_tensors(select_rows(grown, index)), row_tensors(grown), strict=True):
        assert torch.equal(part, whole[index])


def test_every_field_is_seen_by_the_helper() -> None:
    """A field of a kind that the helper does not walk into would be left behind in silence."""
    _, state = begin()
    state = numbered(state)
    for field in fields(state):
        value: Any = getattr(state, field.name)
        without = replace(state, **{field.name: None})
        missing = len(list(row_tensors(state))) - len(list(row_tensors(without)))
        expected = 0 if value is None or value == () else 1
        assert missing >= expected, f"{field.name}: {get_type_hints(RunState)[field.name]}"


def test_repeated_rows_go_on_as_their_ancestor() -> None:
    """Particles: rows that are repeated in the middle of a run end as the run itself does."""
    run, state = begin("remdm-conf")
    with torch.no_grad():
        plain = Stepwise(run, state, Listeners())
        while len(plain.state):
            plain.advance()
        ends: list[tuple[int, Tensor]] = []

        def listen(event: StepEvent) -> None:
            ends.extend(
                (int(event.rows[i]), event.tokens[i]) for i in event.final.nonzero().squeeze(1)
            )

        again = Stepwise(run, state, Listeners((listen,)))
        for _ in range(2):
            again.advance()
        again.state = select_rows(again.state, torch.tensor([1, 0, 1, 1]))
        while len(again.state):
            again.advance()
    assert sorted(row for row, _ in ends) == [0, 1, 1, 1]
    for row, end in ends:
        assert torch.equal(end, plain.tokens[row])
