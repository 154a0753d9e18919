"""The cache of a run: empty at first, open where a block begins, as large as its tensors."""

from __future__ import annotations

from dataclasses import replace

import torch

from dlm_sampling.caches import DkvCache, DualCache
from dlm_sampling.ops import Rng
from dlm_sampling.prediction.run_cache import RunCache, Shown

WINDOW = torch.tensor([[False, True], [True, False]])
UNKNOWN, REAL = ~WINDOW, torch.ones_like(WINDOW)


def test_nothing_is_held_before_the_first_pass_and_every_row_is_open() -> None:
    cache = RunCache.empty(DualCache(), WINDOW, UNKNOWN, REAL)
    assert cache.held.tolist() == [[False] * 2] * 2
    assert cache.opened.tolist() == [True, True]
    assert cache.layers == () and cache.nbytes == 0
    stateful = RunCache.empty(DkvCache(), WINDOW, UNKNOWN, REAL)
    assert stateful.policy == DkvCache() and stateful.state is not None


def test_rows_open_where_they_enter_a_block() -> None:
    cache = RunCache.empty(DualCache(), WINDOW, UNKNOWN, REAL)
    shut = replace(cache, opened=torch.tensor([False, False]))
    assert shut.enter(torch.tensor([False, True])).opened.tolist() == [False, True]
    half = replace(cache, opened=torch.tensor([True, False]))
    assert half.enter(torch.tensor([False, False])).opened.tolist() == [True, False]


def test_what_is_forgotten_is_held_no_more() -> None:
    cache = replace(RunCache.empty(DualCache(), WINDOW, UNKNOWN, REAL), held=REAL)
    assert cache.forget(WINDOW).held.tolist() == UNKNOWN.tolist()


def test_memory_is_that_of_keys_and_values_of_both_passes() -> None:
    layer = (torch.zeros(2, 3, dtype=torch.float16), torch.zeros(4))
    cache = RunCache.empty(DualCache(), WINDOW, UNKNOWN, REAL)
    full = replace(cache, layers=((layer, layer), (layer,)))
    assert full.nbytes == 3 * (2 * 3 * 2 + 4 * 4)


def test_a_policy_sees_the_canvas_and_what_is_held() -> None:
    cache = RunCache.empty(DualCache(), WINDOW, UNKNOWN, REAL)
    rng = Rng.from_seeds([1, 2])
    view = Shown(torch.zeros(2, 2).long(), UNKNOWN, WINDOW, REAL, rng, REAL).view(cache)
    wanted = (UNKNOWN, WINDOW, REAL, cache.opened, cache.held, rng, cache.drift, REAL)
    assert all(found is given for found, given in zip(view, wanted, strict=True))
