"""The words of the CPU are those of every other device, bit for bit."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.ops import philox, philox_cpu

ENDS = (-(1 << 63), -1, 0, 1, (1 << 32) - 1, 1 << 32, (1 << 63) - 1)


@pytest.mark.parametrize("lanes", [1, 2, 7, 64])
@pytest.mark.parametrize("shape", [(), (5,), (5, 7)])
def test_words_equal_those_of_the_operators_of_torch(shape: tuple[int, ...], lanes: int) -> None:
    keys = torch.tensor(ENDS)[: shape[0] if shape else 1].view(-1, *(1,) * (len(shape) - 1))
    positions = torch.tensor([-1, 0, 1 << 31, (1 << 32) - 1, -(1 << 40), 5, 1 << 33])
    positions = positions[: shape[-1]] if shape else positions[:1]
    steps = torch.tensor([0, 1, (1 << 28) - 1, 77, 1 << 27])[: len(keys)].view_as(keys)
    if not shape:
        keys, positions, steps = keys[0], positions[0], steps[0]
    for stream, sub in ((0, 0), (15, 7), (8, 1 << 31)):
        given = keys, positions, steps, stream, lanes, sub
        for found, wanted in zip(philox_cpu.halves(*given), philox.halves(*given), strict=True):
            assert found.dtype == wanted.dtype == torch.int64
            assert found.shape == (2, *shape, (lanes + 1) // 2)
            assert torch.equal(found, wanted)
