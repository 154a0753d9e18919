"""Make the words of Philox-4x32-10 on the CPU with NumPy, bit for bit those of `ops.philox`.

A draw of a few positions is some eighty operators on small arrays, whose calls cost more than
their arithmetic; a call of NumPy costs less than half of a call of PyTorch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MAX_STEP = 1 << 28

_WORD, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_FACTORS: Words = np.array(MULTIPLIERS, np.uint64)
_BUMPS: Words = np.arange(ROUNDS, dtype=np.uint64)[:, None] * np.array(WEYL, np.uint64)


def halves(
    keys: Tensor, positions: Tensor, steps: Tensor, stream: int, lanes: int, sub: int
) -> tuple[Tensor, Tensor]:
    """Return high and low words, int64 [2, *S, pairs]: of the lanes 0, 2, ..., then 1, 3, ...

    Args:
        keys: int64 on the CPU; keys, positions and steps broadcast to a shape S.
        positions: int64.
        steps: int64 in [0, 2^28).
        stream: a `Stream`.
        lanes: number of lanes; pairs = ceil(lanes / 2).
        sub: index of the draw within the step.
    """
    key, place = keys.numpy(), positions.numpy()
    turn = (steps.numpy() & (MAX_STEP - 1)) | (stream << 28)
    shape = (key | place | turn).shape
    pairs = (lanes + 1) // 2
    room = torch.empty(3, 2, *shape, pairs, dtype=torch.int64)
    even, odd, product = room.numpy().view(np.uint64)
    even[0], even[1] = np.arange(pairs, dtype=np.uint64), sub
    odd[0], odd[1] = place[..., None] & 0xFFFFFFFF, turn[..., None]
    words = np.empty((2, *(1,) * (len(shape) - key.ndim), *key.shape, 1), np.uint64)
    words[0], words[1] = (key & 0xFFFFFFFF)[..., None], ((key >> 32) & 0xFFFFFFFF)[..., None]
    # Each round swaps the two: what is made of c0 takes the place of c2, and back.
    one = (1,) * (len(shape) + 1)
    bumped, factors = _BUMPS.reshape(ROUNDS, 2, *one) + words, _FACTORS.reshape(2, *one)
    turns = ((factors, bumped[:, ::-1]), (factors[::-1], bumped))
    for number in range(ROUNDS):
        factor, bump = turns[number % 2]
        np.multiply(even, factor, out=product)  # modulo 2^64: exact in both words
        np.right_shift(product, _HALF, out=even)
        even ^= odd[::-1]
        even ^= bump[number]
        even &= _WORD  # the odd words are masked at the end
        odd, product = product, odd
    odd &= _WORD
    return room[0], room[1]  # after an even number of rounds `odd` is where it began


def uniform(keys: Tensor, positions: Tensor, steps: Tensor, stream: int, sub: int) -> Tensor:
    """Return `philox.uniform_from_words` of lane 0, float64 of shape S; see `halves`."""
    high, low = halves(keys, positions, steps, stream, 1, sub)
    first, second = (words.numpy()[0, ..., 0] for words in (high, low))
    whole = (first << 20) | (second >> 12)
    return torch.from_numpy(np.asarray((whole.astype(np.float64) + 0.5) * 2.0**-52))
