"""Make counter-based random numbers: Philox-4x32-10 and the streams drawn from it.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

Every number is a pure function of (row seed, stream, step, position, sub-draw, lane), so a row's
noise does not depend on batch composition, padding or chunking.  The layout, which any
other implementation must reproduce bit for bit:

* key: the row's 64-bit seed; k0 is its low word, k1 its high word.
* counter: c0 = lane >> 1, c1 = position modulo 2^32, c2 = sub-draw, c3 = step | stream << 28.
* one call gives four words; lane i takes (high, low) = words (2 (i & 1), 2 (i & 1) + 1).
* lane: which of the numbers of one draw; `categorical` says which it uses, all others use lane 0.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from operator import index
from typing import SupportsIndex

import torch
from torch import Tensor

from dlm_sampling.ops import philox_cpu
from dlm_sampling.ops.host_sync import sync_allowed
from dlm_sampling.ops.philox_cpu import MAX_STEP, MULTIPLIERS, ROUNDS, WEYL
from dlm_sampling.types.rows import repeat_rows, select_rows, with_parts

RANDOM_STREAM = 1
"""The version of the random stream; any change of tokens at a fixed seed raises it by one."""

_WORD = 0xFFFFFFFF
_ROW_POSITION = -1  # position of the draws that belong to a row, not to one of its positions


_BRANCH = 0x9E3779B97F4A7C15  # odd, with bits everywhere


class Stream(IntEnum):
    """Name the purpose of a random number (4 bits); numbers of two streams are independent."""

    TOKEN = 0  # the races of a categorical draw
    POSITION = 2  # which position is written
    REMASK = 3  # which written position is masked again
    COMMIT = 4  # whether a position is written in this step
    TIME = 5  # jump times
    RESAMPLE = 6  # choice between particles or candidates
    INITIAL = 7  # the first canvas of uniform noise
    MASK = 8  # which positions the likelihood bound masks
    START = 9  # which tokens of a draft are kept
    PATH = 10  # the path of a constraint through its automaton
    SUFFIX = 11  # which columns behind a block a cache shows
    USER = 15  # never used by the library


def philox4x32(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: Tensor, k1: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four words of Philox-4x32 with ten rounds.

    Public toolbox: the generator as published, so that its known answers can be checked.

    Args:
        c0: counter word, int64 holding a value in [0, 2^32); so are c1, c2, c3.  All six broadcast.
        c1: second counter word.
        c2: third counter word.
        c3: fourth counter word.
        k0: low key word, int64 in [0, 2^32).
        k1: high key word, int64 in [0, 2^32).

    Returns:
        Four int64 tensors of the broadcast shape, each holding a uniform 32-bit word.
    """
    shape = (c0 | c1 | c2 | c3 | k0 | k1).shape
    even, odd, keys = (
        torch.stack([word.expand(shape) for word in words])
        for words in ((c0, c2), (c1, c3), (k0, k1))
    )
    even, odd = _rounds(even, odd, keys)
    return even[0], odd[0], even[1], odd[1]


def _rounds(even: Tensor, odd: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Run ten rounds over counters [2, *S], in place.

    Args:
        even: (c0, c2), so that one operator serves both.
        odd: (c1, c3).
        keys: (k0, k1), [2, *K], which broadcasts: one key serves all lanes of a row.

    Returns:
        The words (w0, w2) and (w1, w3), each [2, *S].
    """
    device, one = even.device, (1,) * (even.ndim - 1)
    which = torch.arange(2, device=device).view(2, *one)
    multipliers = which * (MULTIPLIERS[1] - MULTIPLIERS[0]) + MULTIPLIERS[0]
    turns = torch.arange(ROUNDS, device=device).view(ROUNDS, 1, *one)
    bumped = turns * (which * (WEYL[1] - WEYL[0]) + WEYL[0]) + keys
    # Each round swaps the two: what is made of c0 takes the place of c2, and back.
    factors = (multipliers, multipliers.flip(0))
    bumps = (bumped.flip(1).unbind(), bumped.unbind())
    product = torch.empty_like(even)
    (c0, c2), (c1, c3), (left, right) = even.unbind(), odd.unbind(), product.unbind()
    for turn in range(ROUNDS):
        # The int64 product wraps modulo 2^64, so its low word is exact, and the arithmetic shift
        # followed by the mask gives the exact high word.  The odd words are masked at the end.
        torch.mul(even, factors[turn % 2], out=product)
        torch.bitwise_right_shift(product, 32, out=even)
        c0.bitwise_xor_(c3)
        c2.bitwise_xor_(c1)
        even.bitwise_xor_(bumps[turn % 2][turn]).bitwise_and_(_WORD)
        odd, c1, c3, product, left, right = product, left, right, odd, c1, c3
    return even, odd.bitwise_and_(_WORD)


def random_words(
    keys: Tensor,
    positions: Tensor,
    steps: Tensor,
    *,
    stream: int,
    lanes: int = 1,
    sub: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return 64 random bits for each of the lanes 0, 1, ..., as (high, low) 32-bit words.

    Args:
        keys: int64 row seeds; keys, positions and steps broadcast to a shape S.
        positions: int64, relative to the row's own position 0.
        steps: int64 in [0, 2^28).
        stream: a `Stream`.
        lanes: number of lanes.
        sub: index of the draw within the step.

    Returns:
        Two int64 tensors [*S, lanes].
    """
    high, low = _halves(keys, positions, steps, stream, lanes, sub)
    return _interleaved(high, lanes), _interleaved(low, lanes)


def lane_exponentials(
    keys: Tensor, positions: Tensor, steps: Tensor, *, stream: int, lanes: int, sub: int = 0
) -> Tensor:
    """Return a unit exponential for each of the lanes, float64 [*S, lanes]; see `random_words`."""
    halves = _halves(keys, positions, steps, stream, lanes, sub)
    return _interleaved(exponential_from_words(*halves), lanes)


def _halves(
    keys: Tensor, positions: Tensor, steps: Tensor, stream: int, lanes: int, sub: int
) -> tuple[Tensor, Tensor]:
    """Return high and low words, int64 [2, *S, pairs]: of the lanes 0, 2, ..., then 1, 3, ..."""
    make = philox_cpu.halves if keys.is_cpu else halves
    return make(keys, positions, steps, int(stream), lanes, sub)


def halves(
    keys: Tensor, positions: Tensor, steps: Tensor, stream: int, lanes: int, sub: int
) -> tuple[Tensor, Tensor]:
    """Return the words of `philox_cpu.halves` by operators that run on every device."""
    lane_pairs = torch.arange((lanes + 1) // 2, device=keys.device)
    place, turn = positions & _WORD, (steps & (MAX_STEP - 1)) | (stream << 28)
    shape = (keys | place | turn).shape
    even, odd = keys.new_empty(2, 2, *shape, lane_pairs.shape[0]).unbind()
    even[0].copy_(lane_pairs)
    even[1].fill_(sub)
    odd[0].copy_(place.unsqueeze(-1))
    odd[1].copy_(turn.unsqueeze(-1))
    one = (1,) * (len(shape) - keys.ndim)
    words = torch.stack((keys & _WORD, (keys >> 32) & _WORD))
    return _rounds(even, odd, words.view(2, *one, *keys.shape, 1))


def _interleaved(halves: Tensor, lanes: int) -> Tensor:
    """Return [*S, lanes] of numbers [2, *S, pairs] of the even and the odd lanes."""
    return halves.movedim(0, -1).flatten(-2)[..., :lanes]


def exponential_from_words(high: Tensor, low: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Map 64 random bits to a unit exponential that is accurate at both ends.

    u = high 2^-32 + (low + 1/2) 2^-64; E = -log1p(-u) for u < 1/2, and E = -log(1 - u) with 1 - u
    formed from the complemented words otherwise, so that no digits are lost near u = 0 (where the
    winners of a race are) or u = 1.  E lies in [2^-65, 45.1].

    Args:
        high: int64 in [0, 2^32).
        low: int64 in [0, 2^32).
        dtype: torch.float32 or torch.float64.
    """
    upper = high >> 31
    flip = upper * _WORD
    v = (low ^ flip).to(dtype).add_(0.5).mul_(2.0**-64)
    v.add_(flip.bitwise_xor_(high).to(dtype).mul_(2.0**-32))
    far = v.log()
    return torch.where(upper.bool(), far, v.neg_().log1p_()).neg_()


def uniform_from_words(high: Tensor, low: Tensor) -> Tensor:
    """Map 64 random bits to a float64 uniform in (0, 1), ends excluded: (k + 1/2) 2^-52."""
    return (((high << 20) | (low >> 12)).double() + 0.5) * 2.0**-52


@dataclass(frozen=True)
class Rng:
    """Make the random numbers of a batch of rows at one step; equal calls give equal numbers.

    Args:
        keys: int64 [B], the rows' seeds.
        step: int64 [B], the rows' steps, in [0, 2^28).
        origin: int64 [B], canvas column of the row's position 0, so that left padding changes
            nothing.
    """

    keys: Tensor
    step: Tensor
    origin: Tensor

    @classmethod
    def from_seeds(cls, seeds: Sequence[int], *, device: torch.device | str = "cpu") -> Rng:
        """Make rows with these seeds at step 0, without padding."""
        keys = torch.tensor([_signed64(s) for s in seeds], dtype=torch.int64, device=device)
        return cls(keys, torch.zeros_like(keys), torch.zeros_like(keys))

    def select(self, rows: Tensor) -> Rng:
        """Return the rows at these indices (int64 or bool [B])."""
        return select_rows(self, rows)

    def with_step(self, step: Tensor) -> Rng:
        """Return the same rows at another step, int64 [B]."""
        return with_parts(self, step=step)

    def spread(self, steps: Tensor) -> Rng:
        """Repeat each row n times, copy i at step `steps[:, i]` (int64 [B, n]); B n rows."""
        return repeat_rows(self, steps.shape[1]).with_step(steps.flatten())

    def branch(self, number: int) -> Rng:
        """Return the same rows with other numbers, those of candidate `number`; 0 keeps these."""
        return replace(self, keys=self.keys + _signed64(number * _BRANCH % 2**64))

    def at(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys, positions and steps of places of the canvas for `draw`, int64 [R]."""
        return self.keys[rows], columns - self.origin[rows], self.step[rows]

    def uniform(self, stream: int, like: Tensor, sub: int = 0) -> Tensor:
        """Return uniforms in (0, 1), float64, per position of `like` [B, L] or row of `like` [B].

        Raises:
            ValueError: `like` has another number of rows or dimensions.
        """
        places = self._places(like)
        if self.keys.is_cpu and sync_allowed():
            return philox_cpu.uniform(*places, int(stream), sub)
        return uniform_from_words(*_lane(places, stream, sub))

    def exponential(self, stream: int, like: Tensor, sub: int = 0) -> Tensor:
        """Return unit exponentials, float64, shaped like `like`; the noise of a race."""
        return exponential_from_words(*_lane(self._places(like), stream, sub), torch.float64)

    def gumbel(self, stream: int, like: Tensor, sub: int = 0) -> Tensor:
        """Return standard Gumbel numbers -log E, float64, shaped like `like`."""
        return -torch.log(self.exponential(stream, like, sub))

    def _places(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys, positions and steps that broadcast to the shape of `like`."""
        if like.ndim not in (1, 2) or like.shape[0] != self.keys.shape[0]:
            shape, rows = tuple(like.shape), self.keys.shape[0]
            raise ValueError(f"like has shape {shape}: must be [B] or [B, L] with B={rows} rows.")
        if like.ndim == 1:
            return self.keys, torch.full_like(self.keys, _ROW_POSITION), self.step
        columns = torch.arange(like.shape[1], device=self.keys.device)
        return self.keys[:, None], columns - self.origin[:, None], self.step[:, None]


def _lane(places: tuple[Tensor, Tensor, Tensor], stream: int, sub: int) -> tuple[Tensor, Tensor]:
    """Return the words of lane 0 of some places."""
    if places[0].is_cpu:
        high, low = philox_cpu.halves(*places, int(stream), 1, sub)
        return high[0, ..., 0], low[0, ..., 0]
    high, low = random_words(*places, stream=stream, sub=sub)
    return high[..., 0], low[..., 0]


def row_seeds(seed: SupportsIndex | Iterable[SupportsIndex], n: int) -> list[int]:
    """Return seeds of n rows: blake2b of the row index keyed by `seed`, 63 bits; a sequence as is.

    Raises:
        TypeError: it is no whole number, and no sequence of them.
        ValueError: a sequence of another length, or a seed outside of [-2^63, 2^64).
    """
    try:
        seeds = [index(s) for s in seed] if isinstance(seed, Iterable) else index(seed)
    except TypeError:
        raise TypeError(
            f"seed={seed!r}: must be a whole number, or a sequence of them, one per row."
        ) from None
    if isinstance(seeds, list):
        if len(seeds) != n:
            raise ValueError(
                f"seed has {len(seeds)} entries for {n} rows: pass an int, or n of them."
            )
        return [check_seed(s) for s in seeds]
    key = (check_seed(seeds) % (1 << 64)).to_bytes(8, "little")
    names = (i.to_bytes(8, "little") for i in range(n))
    hashes = (hashlib.blake2b(name, key=key, digest_size=8).digest() for name in names)
    return [int.from_bytes(value, "little") >> 1 for value in hashes]


def fresh_seed() -> int:
    """Return a seed of 53 bits from the system's entropy (53: JSON readers may use doubles)."""
    return secrets.randbits(53)


def check_seed(seed: int) -> int:
    """Return a seed after checking that it fits in 64 bits.

    Raises:
        ValueError: it does not.
    """
    if not -(1 << 63) <= seed < 1 << 64:
        raise ValueError(f"seed={seed}: must fit in 64 bits.")
    return seed


def _signed64(seed: int) -> int:
    check_seed(seed)
    return seed - (1 << 64) if seed >= 1 << 63 else seed
