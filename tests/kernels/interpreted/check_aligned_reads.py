"""Rows that begin anywhere, under the interpreter: K1 reads them in aligned windows of 16 bytes.

A logit that lands in a wrong tile, or in none, moves the largest logit or the sums of that tile.
"""

from __future__ import annotations

import ctypes
import math
import mmap

import pytest
import torch
from dlm_kernels.common.aligned_reads import ALIGNED, ANY, TILE, WINDOWS
from dlm_kernels.common.device_tables import Filters, law_inverse_temperatures
from dlm_kernels.common.logit_pass import Logits, run_passes
from dlm_kernels.common.tiles import GUIDED
from torch import Tensor

from dlm_sampling.ops import Guided
from dlm_sampling.types import TokenLaw
from tests.kernels.interpreted.twins import agree, normal

INF, PAGE = math.inf, mmap.PAGESIZE
SIZE: int = TILE.value
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def packed(rows: int, vocab: int, dtype: torch.dtype, offset: int) -> Tensor:
    """Logits in a larger buffer of large numbers, `offset` of them before the first row."""
    buffer = torch.full((offset + rows * vocab + 16,), 99.0, dtype=dtype)
    view = buffer[offset : offset + rows * vocab].view(rows, vocab)
    return view.copy_(normal(rows, vocab, offset))


def begins(logits: Tensor) -> set[int]:
    """At which logits of 16 bytes the rows begin."""
    size = logits.element_size()
    return {row.data_ptr() % 16 // size for row in logits}


def how(*logits: Tensor) -> int:
    from dlm_kernels.common.logit_pass import _read

    return _read(logits[0], logits[1] if len(logits) > 1 else None)


def expected_tiles(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Largest logit and sum of every tile, [R, tiles]."""
    tiles = x.double().split(SIZE, 1)
    peak = torch.stack([tile.amax(1) for tile in tiles], 1)
    sums = [((t - t.amax(1, True)) / temperature).exp().sum(1) for t in tiles]
    return peak, torch.stack(sums, 1)


def check_tiles(logits: Tensor, suppressed: tuple[int, ...] = ()) -> None:
    table = law_inverse_temperatures(1.0, 0.7, logits.device)
    passed = run_passes(
        Logits(logits), None, len(logits), table, suppressed, Filters(),
        one_law=False, law_statistics=False,
    )  # fmt: skip
    peak, sums, _, sampled = passed.tensors[3:7]
    x = logits.float().index_fill(1, torch.tensor(suppressed, dtype=torch.int64), -INF)
    for temperature, found in ((1.0, sums), (0.7, sampled)):
        largest, total = expected_tiles(x, temperature)
        assert torch.equal(peak.double(), largest)
        torch.testing.assert_close(found.double(), total, rtol=3e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_place_a_row_can_begin_at(dtype: torch.dtype) -> None:
    logits = packed(8, 2051, dtype, 3)
    assert how(logits) == WINDOWS.value
    assert begins(logits) == set(range(16 // logits.element_size()))
    check_tiles(logits)
    # One at a time, as a tile with one is done again: in lanes taken from the next window or not.
    for one in (0, 1023, 1024, 2045):
        check_tiles(logits, (one,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tokens_are_those_of_aligned_rows(dtype: torch.dtype) -> None:
    logits = packed(8, 2051, dtype, 5)
    aligned = torch.zeros(8, 2064, dtype=dtype)[:, :2051].copy_(logits)
    assert how(aligned) == ALIGNED.value
    law = TokenLaw(0.8, suppressed=(1023, 1019))
    found, other = (agree(x, 3, rows=torch.tensor([7, 2, 5]), law=law) for x in (logits, aligned))
    assert torch.equal(found.token, other.token)
    torch.testing.assert_close(tuple(found), tuple(other), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lane", [0, 1019, 1023, 1024, 2047])
def test_infinities_and_nan_are_seen_in_every_lane(lane: int) -> None:
    logits = packed(4, 2049, torch.bfloat16, 2)
    logits[:, lane] = -INF
    check_tiles(logits)
    logits[::2, lane] = math.nan
    run = run_passes(
        Logits(logits), None, 4, law_inverse_temperatures(1.0, 1.0, logits.device), (), Filters(),
        one_law=True, law_statistics=False,
    )  # fmt: skip
    sick = run.tensors[3].isnan()
    assert sick.any(1).tolist() == [True, False] * 2
    assert sick[::2].int().argmax(1).tolist() == [lane // SIZE] * 2


def between_walls() -> Tensor:
    """Two pages of bytes between two that may not be touched."""
    room = mmap.mmap(-1, 4 * PAGE)
    place = ctypes.addressof(ctypes.c_char.from_buffer(room))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for wall in (place, place + 3 * PAGE):
        assert protect(ctypes.c_void_p(wall), ctypes.c_size_t(PAGE), 0) == 0
    return torch.frombuffer(room, dtype=torch.uint8)[PAGE : 3 * PAGE]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_outside_of_the_memory_is_read(dtype: torch.dtype) -> None:
    """Whole tiles up to the ends of the memory; a read beyond would end this process."""
    memory = between_walls().view(dtype)
    memory.copy_(normal(1, len(memory))[0])
    rows = memory.unfold(0, SIZE, 1)  # a row for every beginning
    for ends in (rows[:8], rows[-8:]):
        assert how(ends) == WINDOWS.value
        assert begins(ends) == set(range(16 // memory.element_size()))
        check_tiles(ends)
    aligned = memory.view(-1, SIZE)
    assert how(aligned) == ALIGNED.value
    check_tiles(aligned)


def test_pairs_that_begin_alike_and_pairs_that_do_not() -> None:
    one, other = (packed(3, 2051, torch.bfloat16, offset) for offset in (3, 11))
    assert how(one, other) == WINDOWS.value
    agree(Guided(one, other, 1.5), 3, law=TokenLaw(suppressed=(1023, 2046)))
    shifted = packed(3, 2051, torch.bfloat16, 4).copy_(other)
    assert how(one, shifted) == ANY.value
    assert how(one, other.float()) == ANY.value
    left, right = (agree(Guided(one, u, 1.5), 3) for u in (other, shifted))
    assert torch.equal(left.token, right.token)
    assert GUIDED.value == Guided(one, other, 1.5).kind
