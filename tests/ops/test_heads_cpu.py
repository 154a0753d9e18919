"""Tokens and numbers of the few tokens that pass are those of the weights of all."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.ops import heads_cpu
from dlm_sampling.ops.temperature import LOG2E
from dlm_sampling.types import DrawRecord, TokenLaw

VOCAB = 9001  # 41 columns beyond the last vectors
LAWS = (
    TokenLaw(top_k=1),
    TokenLaw(top_k=50),
    TokenLaw(top_k=50, top_p=0.8),
    TokenLaw(top_k=7, top_p=0.6, min_p=0.05, crossing="exclude"),
    TokenLaw(min_p=0.05),
)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note for every block whether the few tokens were enough."""
    noted: list[bool] = []
    whole = heads_cpu.read

    def noting(*arguments: Any) -> Any:
        found = whole(*arguments)
        noted.append(found is not None)
        return found

    monkeypatch.setattr(heads_cpu, "read", noting)
    return noted


def table() -> Tensor:
    """Logits with ties, with ids without a law, and with the largest in the last columns."""
    x = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(1)) * 3.0
    x[1] = (x[1] * 4.0).round() / 4.0
    x[2, ::3] = -math.inf
    x[3, -50:] += 8.0
    return x


def drawn(
    x: Tensor, law: TokenLaw, sums: bool = False, temperatures: Tensor | None = None
) -> DrawRecord:
    count = len(x)
    places = torch.arange(count) + 3, torch.arange(count), torch.zeros(count, dtype=torch.int64)
    reads = ops.Reads(sums=sums, settled=True)
    rows = torch.arange(count).flip(0)
    return DrawRecord.of(
        ops.draw_lazily(
            x, lambda: places, law=law, reads=reads, rows=rows, temperatures=temperatures
        )
    )


@pytest.mark.slow
def test_tokens_and_statistics_are_those_of_all_weights(
    taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    top = table().topk(2).indices.flatten()
    largest = tuple(sorted({int(token) for token in top}))
    each = torch.tensor([0.3, 1.0, 2.0, 0.7], dtype=torch.float64)
    cases = [
        (x, replace(law, suppressed=banned, temperature=temperature), more)
        for x, law in product((table(), table().double(), table().bfloat16()), LAWS)
        for banned, temperature, more in (
            ((), 1.0, (False, None)),
            (largest, 0.6, (False, None)),
            ((5,), 1.0, (False, each)),
        )
    ]
    found = [drawn(x, law, *more) for x, law, more in cases]
    assert sum(taken) > 0.8 * len(taken)

    def nothing(*_: object) -> None: ...

    monkeypatch.setattr(heads_cpu, "read", nothing)
    for record, (x, law, more) in zip(found, cases, strict=True):
        wanted = drawn(x, law, *more)
        assert all(torch.equal(a, b) for a, b in zip(record, wanted, strict=True)), (law, x.dtype)


def test_a_law_of_many_tokens_is_left_to_all_weights(taken: list[bool]) -> None:
    x = table()[:1]
    for law in (
        TokenLaw(top_p=0.9),
        TokenLaw(min_p=1e-9),
        TokenLaw(top_k=4000),
        TokenLaw(min_p=0.05, temperature=9.0),
    ):
        drawn(x, law)
    drawn(torch.zeros(1, VOCAB), TokenLaw(top_k=5))  # all equal
    assert taken and not any(taken)


def test_a_row_without_a_law_is_named_as_ever() -> None:
    x = table()
    x[2, 17] = math.nan
    with pytest.raises(ValueError, match="row 1 of the logits holds NaN"):
        drawn(x, TokenLaw(top_k=5))


def test_weights_are_rounded_as_those_of_whole_rows() -> None:
    x, last = table(), np.arange(VOCAB - 300, VOCAB)
    x[2] = x[0] / 3.0
    whole = torch.empty(4, VOCAB + 1)[:, :VOCAB]  # rows apart, as the tiles of a row are
    peak = x.amax(1)
    exponents = (x - peak[:, None]).mul_(LOG2E / 0.7)
    torch.exp2(exponents, out=whole)
    few = heads_cpu.Rows(x, peak, TokenLaw(top_k=300), 0.7)
    for row, found in zip(whole, heads_cpu.weights_of(few, [last] * 4), strict=True):
        assert torch.equal(torch.from_numpy(found), row[last])
