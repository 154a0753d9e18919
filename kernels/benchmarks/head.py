"""From hidden states to tokens: the fused head and the head in blocks, beside the whole logits.

Times and extra peak memory; `times_blocks` is the time over that of the best head in blocks, which
is what the fused head must beat to be switched on (`dlm_kernels.common.support.FASTER_BELOW`).
"""

from __future__ import annotations

from functools import partial

import torch
from dlm_kernels import operators
from dlm_kernels.head.launch import Shape
from floor import noise
from machine import Report, timed
from peers import head_peers, llada, mdlm, multinomial
from torch import Tensor

from dlm_sampling import ops


def run(report: Report) -> None:
    """Widths, vocabularies and rows."""
    shapes = [(768, 50258), (4096, 126464)]
    counts: tuple[int, ...] = (32, 64, 128, 256, 1024, 2048, 8192)
    if report.small:
        shapes, counts = [(16, 40)], (1,)
    for width, vocab in shapes:
        for rows in counts:
            if not report.late:
                measure(report, width, vocab, rows)


def cuts(report: Report) -> dict[str, Shape | None]:
    """The usual cut of the product, and others that compile without spills."""
    usual: dict[str, Shape | None] = {"fused head": None}
    if report.small:
        return usual
    return usual | {
        "fused head, 64 x 128": Shape(64, 128, 1, 64, 4, 4),
        "fused head, 64 x 128 x 8": Shape(64, 128, 8, 64, 4, 3),
        "fused head, 128 x 128": Shape(128, 128, 1, 64, 8, 3),
        "fused head, 128 x 128 x 8": Shape(128, 128, 8, 64, 8, 4),
        "fused head, 128 x 64 x 2": Shape(128, 64, 2, 64, 4, 4),
    }


def measure(report: Report, width: int, vocab: int, rows: int) -> None:
    """One shape."""
    generator = torch.Generator(report.device).manual_seed(0)
    like = {"dtype": torch.bfloat16, "device": report.device, "generator": generator}
    hidden, weight = torch.randn(rows, width, **like), torch.randn(vocab, width, **like)
    hidden *= 3.0 / width**0.5
    place, shape = noise(rows, report.device), {"rows": rows, "vocab": vocab, "width": width}

    def matmul(x: Tensor) -> Tensor:
        return x @ weight.T

    report.add("the head alone", **shape, **timed(report, [partial(matmul, hidden)] * 2))
    best = float("inf")
    for block in (128, 256, 1024):
        if block == 128 or block <= rows:
            source = ops.head_rows(hidden, weight, block=block)
            call = partial(operators.draw, source, check=False, **place)
            found = timed(report, [call] * 2)
            best = min(best, time_of(found))
            report.add(f"head in blocks of {block}, K1, K2", **shape, **found)
    for name, cut in cuts(report).items():
        for rounded in (True, False) if cut is None else (True,):
            call = partial(
                operators.head_draw, hidden, weight, rounded=rounded, shape=cut, check=False,
                **place,
            )  # fmt: skip
            found = timed(report, [call] * 2)
            label = name if rounded else f"{name}, float32 logits"
            report.add(label, **shape, **found, times_blocks=time_of(found) / best)
    for name, fused in head_peers().items():
        found = timed(report, [partial(fused, hidden, weight)] * 2)
        report.add(name, **shape, **found, times_blocks=time_of(found) / best)

    def whole() -> None:
        operators.draw(matmul(hidden), check=False, **place)

    report.add("whole logits, K1, K2", **shape, **timed(report, [whole] * 2))
    if rows * vocab * 32 > 60e9:
        return
    for name, peer in (("LLaDA", llada), ("MDLM", mdlm), ("softmax + multinomial", multinomial)):

        def call(peer=peer) -> None:
            peer(matmul(hidden), 1.0)

        found = timed(report, [call] * 2, graph=False)
        report.add(f"whole logits, {name}", **shape, **found)


def time_of(found: dict[str, float]) -> float:
    """Without the host where that could be measured."""
    return found.get("graph_us", found["eager_us"])
