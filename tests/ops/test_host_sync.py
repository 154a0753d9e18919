"""The switch that forbids operators to wait for the device."""

from __future__ import annotations

import threading

import pytest
import torch

from dlm_sampling import ops


def test_checks_are_on_by_default_and_a_context_restores_what_it_found() -> None:
    assert ops.sync_allowed()
    with ops.without_sync():
        assert not ops.sync_allowed()
        with ops.without_sync():
            assert not ops.sync_allowed()
        assert not ops.sync_allowed()
    assert ops.sync_allowed()
    with pytest.raises(RuntimeError), ops.without_sync():
        raise RuntimeError
    assert ops.sync_allowed()


def test_an_empty_mask_is_skipped_only_where_one_may_look() -> None:
    some, none = torch.tensor([False, True]), torch.tensor([False, False])
    assert ops.any_or_assume(some) and not ops.any_or_assume(none)
    with ops.without_sync():
        assert ops.any_or_assume(some) and ops.any_or_assume(none)


def test_no_value_is_checked_inside_of_the_context() -> None:
    bad, tokens = torch.tensor([[float("nan"), 0.0]]), torch.tensor([2])
    with pytest.raises(ValueError, match="row 0"):
        ops.log_probs(bad)
    with pytest.raises(ValueError, match=r"2\.\.2"):
        ops.log_prob_of(torch.zeros(1, 2), tokens)
    with ops.without_sync():
        assert ops.log_probs(bad).isnan().all()


def test_the_switch_belongs_to_one_thread() -> None:
    seen: list[bool] = []
    with ops.without_sync():
        thread = threading.Thread(target=lambda: seen.append(ops.sync_allowed()))
        thread.start()
        thread.join(60)
    assert seen == [True]
