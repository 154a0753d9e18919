"""SPG's loss by hand."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.rl import spg_loss


def test_good_rows_raise_the_lower_bound_and_bad_ones_lower_the_upper() -> None:
    lower = torch.tensor([-3.0, -4.0, -5.0], requires_grad=True)
    upper = torch.tensor([-1.0, -2.0, -2.5], requires_grad=True)
    loss = spg_loss(lower, upper, torch.tensor([2.0, -1.0, 0.0]), mix=0.25)
    assert float(loss) == pytest.approx(-(2 * -3 + -1 * (0.25 * -2 + 0.75 * -4)) / 3)
    low, high = torch.autograd.grad(loss, (lower, upper))
    assert low.tolist() == pytest.approx([-2 / 3, 0.75 / 3, 0.0])
    assert high.tolist() == pytest.approx([0.0, 0.25 / 3, 0.0])
    with pytest.raises(ValueError, match=r"mix=1\.5"):
        spg_loss(lower, upper, torch.zeros(3), mix=1.5)
    with pytest.raises(ValueError, match=r"must be \[B\]"):
        spg_loss(lower, upper[:2], torch.zeros(3))
