"""Blocks of a pipeline follow their rows."""

import torch

from dlm_sampling.types import UnderWay
from dlm_sampling.types.rows import repeat_rows, select_rows


def test_rows_keep_their_blocks_and_share_the_count() -> None:
    number = torch.tensor([[0, 0, 1], [0, 1, 2]])
    blocks = UnderWay(number, number == 0, torch.tensor([0, 1]), 3)
    chosen = select_rows(blocks, torch.tensor([1]))
    assert chosen.number.tolist() == [[0, 1, 2]]
    assert chosen.first.tolist() == [1]
    assert repeat_rows(blocks, 2).active[:, 1].tolist() == [True, True, False, False]
    assert chosen.most == 3
