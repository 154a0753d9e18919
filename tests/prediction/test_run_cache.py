"""Keys and values of a run are rows like all others of its state."""

from __future__ import annotations

import torch

from dlm_sampling.caches import policy_of
from dlm_sampling.prediction.run_cache import RunCache, Shown
from dlm_sampling.types import LayerKeys
from dlm_sampling.types.rows import copy_rows, select_rows


def cache() -> RunCache:
    window = torch.tensor([[False, True, True], [True, True, False]])
    return RunCache.empty(policy_of("block"), window, window, torch.ones_like(window))


def test_nothing_is_held_before_the_first_pass_and_every_row_opens_a_block() -> None:
    empty = cache()
    assert (empty.layers, empty.nbytes) == ((), 0)
    assert not empty.held.any()
    assert empty.opened.tolist() == [True, True]
    later = RunCache(empty.policy, (), empty.held, torch.zeros(2, dtype=torch.bool), empty.state)
    assert later.enter(torch.tensor([False, True])).opened.tolist() == [False, True]


def test_rows_are_selected_with_their_keys_and_copies_share_nothing() -> None:
    empty = cache()
    keys = torch.arange(16.0).view(2, 1, 4, 2)
    whole = RunCache(
        empty.policy, ((LayerKeys(keys, -keys),),), empty.held, empty.opened, empty.state
    )
    assert whole.nbytes == 2 * 16 * 4
    some = select_rows(whole, torch.tensor([1, 1, 0]))
    assert torch.equal(some.layers[0][0].values, -keys[[1, 1, 0]])
    copied = copy_rows(whole)
    copied.layers[0][0].keys.zero_()
    assert torch.equal(whole.layers[0][0].keys, keys)


def test_the_policy_sees_the_rows_and_what_is_held() -> None:
    window = torch.tensor([[False, True, True]])
    held = RunCache.empty(policy_of("block"), window, window, window)
    view = Shown(torch.tensor([[4, 9, 9]]), window, window, window).view(held)
    assert view.opened.tolist() == [True]
    assert torch.equal(view.unknown, window)
    assert not view.held.any()
