"""The generator inside a kernel: published known answers, and the bits of the torch one."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from dlm_kernels.common import philox as gpu
from torch import Tensor

from dlm_sampling.ops import philox as spec

# Random123's published known-answer vectors for philox4x32 with ten rounds: counter, key, output.
KNOWN = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@triton.jit
def philox_kernel(counter, key, out, WIDTH: tl.constexpr):
    at = tl.arange(0, WIDTH)
    w0, w1, w2, w3 = gpu.philox4x32(
        tl.load(counter + at).to(tl.uint32),
        tl.load(counter + WIDTH + at).to(tl.uint32),
        tl.load(counter + 2 * WIDTH + at).to(tl.uint32),
        tl.load(counter + 3 * WIDTH + at).to(tl.uint32),
        tl.load(key + at).to(tl.uint32),
        tl.load(key + WIDTH + at).to(tl.uint32),
    )
    tl.store(out + at, w0.to(tl.int64))
    tl.store(out + WIDTH + at, w1.to(tl.int64))
    tl.store(out + 2 * WIDTH + at, w2.to(tl.int64))
    tl.store(out + 3 * WIDTH + at, w3.to(tl.int64))


@triton.jit
def words_kernel(key, position, step, high, low, sub, WIDTH: tl.constexpr, STREAM: tl.constexpr):
    row = tl.program_id(0)
    lane = tl.arange(0, WIDTH)
    where = tl.load(position + row), tl.load(step + row)
    words = gpu.random_words(tl.load(key + row), where[0], where[1], sub, lane, STREAM)
    tl.store(high + row * WIDTH + lane, words[0].to(tl.int64))
    tl.store(low + row * WIDTH + lane, words[1].to(tl.int64))


@triton.jit
def exponential_kernel(high, low, out, WIDTH: tl.constexpr):
    at = tl.arange(0, WIDTH)
    words = tl.load(high + at).to(tl.uint32), tl.load(low + at).to(tl.uint32)
    tl.store(out + at, gpu.exponential_from_words(words[0], words[1]))


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def test_known_answers() -> None:
    counter = torch.tensor([words(c) for c, _, _ in KNOWN] + [[0] * 4]).T.contiguous()
    key = torch.tensor([words(k) for _, k, _ in KNOWN] + [[0] * 2]).T.contiguous()
    out = torch.zeros(4, 4, dtype=torch.int64)
    philox_kernel[(1,)](counter, key, out, WIDTH=4)
    assert out.T[:3].tolist() == [words(answer) for _, _, answer in KNOWN]


@pytest.mark.parametrize(("stream", "sub"), [(0, 0), (15, 7)])
def test_words_are_those_of_the_specification(stream: int, sub: int) -> None:
    keys = torch.tensor([0, -1, 0x123456789ABCDEF0, -(1 << 63)])
    positions = torch.tensor([0, -1, 5, (1 << 33) + 9])
    steps = torch.tensor([0, (1 << 28) - 1, 3, 77])
    high, low = torch.zeros(2, 4, 128, dtype=torch.int64)
    words_kernel[(4,)](keys, positions, steps, high, low, sub, WIDTH=128, STREAM=stream)
    expected = spec.random_words(keys, positions, steps, stream=stream, lanes=128, sub=sub)
    assert torch.equal(high, expected[0])
    assert torch.equal(low, expected[1])


def edge_words() -> tuple[Tensor, Tensor]:
    """Words at both ends and at the seam u = 1/2, then words of the generator."""
    ends = [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]
    pairs = torch.cartesian_prod(torch.tensor(ends), torch.tensor(ends))
    one = torch.zeros(1, dtype=torch.int64)
    high, low = spec.random_words(one, one, one, stream=0, lanes=1024 - len(pairs))
    return torch.cat([pairs[:, 0], high[0]]), torch.cat([pairs[:, 1], low[0]])


def test_exponentials_agree_within_units_in_the_last_place() -> None:
    high, low = edge_words()
    out = torch.zeros(1024, dtype=torch.float64)
    exponential_kernel[(1,)](high, low, out, WIDTH=1024)
    expected = spec.exponential_from_words(high, low)
    assert out.min() == expected.min() == 2.0**-65
    assert ((out - expected).abs() <= 4 * torch.finfo(torch.float64).eps * expected).all()
