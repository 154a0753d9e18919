"""How far values moved: over stored masks only, by a formula written out."""

from __future__ import annotations

import torch

from dlm_sampling.caches import AdaptiveCache
from dlm_sampling.prediction.drift import Values
from dlm_sampling.prediction.run_cache import RunCache
from dlm_sampling.types import LayerKeys

QUERY = torch.tensor([[0, 1, 2], [1, 3, 4]])  # 4 fills the second row


def stored(held: torch.Tensor, seed: int) -> RunCache:
    made = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 2, 5, 3, generator=made)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    empty = RunCache.empty(AdaptiveCache(), nothing, nothing, ~nothing)
    return RunCache(
        empty.policy, ((LayerKeys(values, values),),), held, empty.opened, None, empty.drift
    )


def test_the_drift_is_the_mean_over_stored_masks() -> None:
    held = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 1]]).bool()
    masks = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]]).bool()
    one, other = stored(held, 1), stored(held, 2)
    rows = torch.arange(2)
    found = Values.at(one, rows, QUERY).moved(Values.at(other, rows, QUERY), masks)
    counted: list[list[int]] = [[0, 2], [1, 3]]
    for row, columns in enumerate(counted):
        apart: list[float] = []
        for column in columns:
            u = one.layers[0][0].values[row, :, column].flatten().double()
            v = other.layers[0][0].values[row, :, column].flatten().double()
            apart.append(1.0 - float(torch.cosine_similarity(u, v, dim=0)))
        assert abs(float(found[row]) - sum(apart) / len(apart)) < 1e-9
    nothing = torch.zeros_like(masks)
    assert Values.at(one, rows, QUERY).moved(Values.at(other, rows, QUERY), nothing).tolist() == [
        0.0,
        0.0,
    ]


def test_nothing_moved_where_nothing_was_stored_before() -> None:
    """The first pass of a run has no values of an earlier one beside it."""
    held, rows = torch.ones(2, 4, dtype=torch.bool), torch.arange(2)
    some = stored(held, 1)
    bare = RunCache(some.policy, (), held, some.opened, None, some.drift)
    before, after = Values.at(bare, rows, QUERY), Values.at(some, rows, QUERY)
    assert before.moved(after, held).tolist() == after.moved(before, held).tolist() == [0.0, 0.0]
