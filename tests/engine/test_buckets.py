"""Rows of similar length run together, and nobody who looks at the batch can tell."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers, wrap
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.buckets import buckets, run_buckets
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.engine.request import BlockRequest, Canvases, Request
from dlm_sampling.engine.sample import run_request
from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.types import TokenLaw
from dlm_sampling.types.values import ints

V, MASK, PAD, LONG, NEW = 9, 8, 7, 20, 4
TABLE = torch.randn(V, LONG, V, generator=torch.Generator().manual_seed(0))
LENGTHS = [6, 5, 20, 6, 7, 5, 6, 6]


def test_rows_at_most_half_as_long_run_apart_where_that_spares_a_long_row() -> None:
    assert buckets([6, 5, 20, 6]) == [[2], [0, 1, 3]]
    assert buckets([20, 11, 12, 11]) == [[0, 1, 2, 3]]  # all more than half as long
    assert buckets([10, 20]) == [[0, 1]]  # spares 10 columns: half a row
    assert buckets([10, 20, 10]) == [[1], [0, 2]]  # 20 columns: one row
    assert buckets([2, 2, 2, 8, 8, 40, 2]) == [[5], [3, 4], [0, 1, 2, 6]]
    assert buckets([4, 4]) == [[0, 1]]
    assert buckets([0]) == [[0]]
    assert buckets([]) == []


class Network:
    """Logits that depend on all real tokens of a row; counts the columns it computes."""

    def __init__(self) -> None:
        self.columns = 0

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.columns += input_ids.numel()
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        place = (keep.cumsum(1) - 1).clamp_min(0)
        seen = TABLE[input_ids, place] * keep.unsqueeze(2)
        return seen.double().sum(1, keepdim=True).float() + TABLE[MASK][place]


def canvases(rows: list[int]) -> Canvases:
    """Left-padded rows of these numbers; the last columns are to be written."""
    width = max(LENGTHS[row] for row in rows)
    tokens = torch.full((len(rows), width), PAD)
    attention = torch.zeros(tokens.shape, dtype=torch.bool)
    for place, row in enumerate(rows):
        attention[place, width - LENGTHS[row] :] = True
        tokens[place, width - LENGTHS[row] :] = row % 3
    editable = attention & (torch.arange(width) >= width - NEW)
    tokens[editable] = MASK
    stops = torch.ones(len(rows), dtype=torch.bool)
    return Canvases(tokens, editable, attention, tuple(rows), stops)


def denoiser(network: Network) -> Denoiser:
    found = wrap(network, vocab_size=V, mask_token_id=MASK, pad_token_id=PAD, honours_padding=True)
    found.padding_proven = True
    return found


def request(**options: Any) -> Request:
    sampler = samplers.create("ancestral")
    return Request(sampler, TokenLaw(), BlockRequest(2, 4), return_trajectory=True, **options)


def run(
    function: Any, rows: list[int], made: Request, **changes: Any
) -> tuple[SampleOutput, list[StepEvent], int]:
    heard: list[StepEvent] = []
    network = Network()
    shown = replace(canvases(rows), **changes)
    out = function(denoiser(network), made, shown, [heard.append])
    return out, heard, network.columns


@pytest.mark.parametrize(
    "options", [{}, {"stop_token_ids": (1,)}, {"guidance_scale": 0.5}, {"max_nfe": 4}]
)
def test_buckets_give_what_the_whole_gives(options: dict[str, Any]) -> None:
    made, every = request(**options), list(range(8))
    (whole, told, _), (out, heard, _) = (run(f, every, made) for f in (run_request, run_buckets))
    for name in ("tokens", "logprob", "nfe", "work", "steps", "ended", "seeds", "forced"):
        one, other = getattr(out, name), getattr(whole, name)
        same = torch.equal(one, other) if isinstance(one, Tensor) else one == other
        assert same, name
    assert out.trajectory is not None and whole.trajectory is not None
    assert torch.equal(out.trajectory.initial, whole.trajectory.initial)
    assert len(out.trajectory.events) == len(heard) > len(told)
    split, joint = (
        {(int(row), int(event.iteration)): (event, i) for event in events
         for i, row in enumerate(event.rows)}
        for events in (heard, told)
    )  # fmt: skip
    assert split.keys() == joint.keys()
    for key, (event, i) in split.items():
        other, j = joint[key]
        for field in fields(StepEvent):
            one, two = getattr(event, field.name), getattr(other, field.name)
            if isinstance(one, Tensor):
                assert torch.equal(one[i].nan_to_num(), two[j].nan_to_num()), field.name
            else:
                assert one == two, field.name


def test_hidden_columns_and_complete_texts_are_those_of_the_batch() -> None:
    asked: list[tuple[int, tuple[int, ...], int]] = []

    def complete(row: int) -> Any:
        def ask(tokens: Tensor, known: int) -> bool:
            asked.append((row, tuple(ints(tokens)), known))
            return row == 3

        return ask

    made = replace(request(), blocks=BlockRequest(2, 4, causal=True))
    tables = {"complete": tuple(complete(row) for row in range(8))}
    whole, told, _ = run(run_request, list(range(8)), made, **tables)
    first = sorted(asked)
    asked.clear()
    out, heard, _ = run(run_buckets, list(range(8)), made, **tables)
    short = [(row, tokens[-LENGTHS[row] :], known) for row, tokens, known in sorted(asked)]
    assert short == [(row, tokens[-LENGTHS[row] :], known) for row, tokens, known in first]
    assert all(len(tokens) == LONG for _, tokens, _ in asked)
    assert torch.equal(out.tokens, whole.tokens) and torch.equal(out.ended, whole.ended)
    assert int(whole.ended.sum()) == 1 and bool(whole.ended[3])
    ends = [{int(h) for event in events for h in event.horizon} for events in (heard, told)]  # type: ignore
    assert ends[0] == ends[1] == {LONG - 2, LONG}


def test_short_rows_beside_a_long_one_compute_what_they_compute_alone() -> None:
    made, every = request(every_step=True), list(range(8))
    short = [row for row in every if LENGTHS[row] < LONG]
    whole, _, together = run(run_buckets, every, made)
    alone, _, apart = run(run_buckets, short, made)
    _, _, long = run(run_buckets, [2], made)
    assert together == apart + long
    assert run(run_request, every, made)[2] > 2 * together
    assert torch.equal(whole.work[short], alone.work)


def test_a_message_names_the_row_of_the_batch() -> None:
    class Wrong(type(samplers.create("ancestral"))):
        """Give no number for what it writes in the short row of seed 4."""

        def step(self, state: Any, canvas: Any, clock: Any, predict: Any, rng: Any) -> Any:
            state, step = super().step(state, canvas, clock, predict, rng)
            wrong = canvas.editable & (rng.keys == 4).unsqueeze(1)
            return state, step._replace(logprob=step.logprob.masked_fill(wrong, torch.nan))

    made = replace(request(), sampler=Wrong())
    with pytest.raises(ValueError, match=r"returned NaN .* batch row 14, "):
        run_buckets(denoiser(Network()), made, canvases(list(range(8))), (), 10)
