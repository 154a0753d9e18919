"""A rollout that is selected keeps its rows of every field."""

from __future__ import annotations

from dataclasses import fields

import torch

from dlm_sampling.likelihood.rollout import Rollout


def test_select_takes_its_rows_of_every_field() -> None:
    """A new field that `select` forgets fails here."""
    rows, length = 5, 3
    numbers = torch.arange(rows * length).view(rows, length)
    given = Rollout(
        tokens=numbers,
        attention_mask=numbers % 2 == 0,
        editable=numbers % 3 == 0,
        step_index=numbers.int(),
        logprob=-numbers.double(),
        seeds=tuple(range(100, 100 + rows)),
        nfe=torch.arange(rows),
        argmax=numbers % 5 == 0,
        cache="DualCache()",
    )
    order = torch.tensor([4, 0, 0])
    chosen = given.select(order)
    for field in fields(Rollout):
        value, mine = getattr(given, field.name), getattr(chosen, field.name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(mine, value[order]), field.name
        elif isinstance(value, str):  # of the run
            assert mine == value, field.name
        else:
            assert mine == tuple(value[i] for i in order.tolist()), field.name
