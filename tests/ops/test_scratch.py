"""Buffers that calls reuse: what a call returned stays, whatever the next one does."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.ops.scratch import scratch_for
from dlm_sampling.types import DrawRecord, TokenLaw

CPU = torch.device("cpu")
LAWS = (TokenLaw(), TokenLaw(temperature=0.0), TokenLaw(0.7, top_k=9, suppressed=(3,)))


def logits(rows: int, vocab: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3.0


def draw(source: ops.Source, rows: int, law: TokenLaw = LAWS[0]) -> DrawRecord:
    where = torch.arange(rows)
    return ops.draw(source, keys=where * 7, positions=where, steps=where * 0, law=law)


def equal(left: DrawRecord, right: DrawRecord) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("vocab", [5, 1000, 2500])
@pytest.mark.parametrize("law", LAWS)
def test_results_do_not_lie_in_the_buffers(vocab: int, law: TokenLaw) -> None:
    x = logits(20, vocab)
    first = draw(x, 20, law)
    table, chosen = ops.log_probs(x, law=law), ops.log_prob_of(x, first.token, law=law)
    norm = first.log_normalizer
    moved = ops.divergence(x, x.roll(1, 0), norm, norm.roll(1, 0), law=law)
    kept = [value.clone() for value in (*first, table, chosen, moved)]
    other = logits(20, vocab, seed=1)
    draw(other, 20, law)
    ops.log_probs(other, law=law)
    ops.divergence(other, other, norm, norm, law=law)
    for before, now in zip(kept, (*first, table, chosen, moved), strict=True):
        assert torch.equal(before, now)


def test_a_draw_inside_of_the_rows_of_another() -> None:
    """Rules over tables ask for laws while a draw from their result is under way."""
    x = logits(40, 700)

    def fetch(rows: Tensor) -> Tensor:
        ops.log_probs(x.flip(0))
        draw(x.flip(0), 40)
        return x[rows]

    source = ops.LogitRows(fetch, 40, 700, x.device, block=16)
    assert equal(draw(source, 40), draw(x, 40))


def test_threads_do_not_share_buffers() -> None:
    tables = [logits(200, 900, seed) for seed in range(4)]
    alone = [draw(x, 200) for x in tables]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda x: draw(x, 200), tables))
            assert all(equal(*pair) for pair in zip(found, alone, strict=True))


def test_buffers_made_in_inference_mode_serve_outside_of_it() -> None:
    x = logits(3, 77)
    with torch.inference_mode():
        inside = draw(x, 3)
    assert equal(draw(x, 3), inside)


def test_a_thread_keeps_the_buffers_of_one_vocabulary() -> None:
    one = scratch_for(50, CPU)
    assert scratch_for(50, CPU) is one
    assert scratch_for(51, CPU) is not one
    assert scratch_for(50, CPU) is not one
    wide = one.rows("a", 3, 50, torch.float64)
    assert one.rows("a", 2, 50, torch.float64).data_ptr() == wide.data_ptr()
    assert one.rows("b", 3, 50, torch.float64).data_ptr() != wide.data_ptr()
    assert one.rows("a", 3, 50, torch.float32).dtype == torch.float32


@pytest.mark.parametrize(("law", "most"), [(LAWS[1], 86), (LAWS[0], 98)])
def test_a_draw_from_a_small_vocabulary_makes_few_python_calls(law: TokenLaw, most: int) -> None:
    x, names = logits(256, 1000), []

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            names.append(frame.f_code.co_qualname)

    with torch.no_grad():
        draw(x, 256, law)
        sys.setprofile(count)
        try:
            draw(x, 256, law)
        finally:
            sys.setprofile(None)
    assert len(names) - 1 <= most, sorted(names)
