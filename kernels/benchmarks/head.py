"""From hidden states to tokens: the head in blocks with the kernels, beside the whole logits."""

from __future__ import annotations

from functools import partial

import dlm_kernels
import torch
from floor import noise
from machine import Report, timed
from peers import llada, mdlm, multinomial
from torch import Tensor

from dlm_sampling import ops


def run(report: Report) -> None:
    """Widths, vocabularies and rows."""
    shapes = [(768, 50258), (4096, 126464)]
    counts: tuple[int, ...] = (32, 256, 1024, 8192)
    if report.small:
        shapes, counts = [(16, 40)], (1,)
    for width, vocab in shapes:
        for rows in counts:
            if not report.late:
                measure(report, width, vocab, rows)


def measure(report: Report, width: int, vocab: int, rows: int) -> None:
    """One shape."""
    dtype = torch.float32 if report.dry else torch.bfloat16
    generator = torch.Generator(report.device).manual_seed(0)
    like = {"dtype": dtype, "device": report.device, "generator": generator}
    hidden, weight = torch.randn(rows, width, **like), torch.randn(vocab, width, **like)
    hidden *= 3.0 / width**0.5
    place, shape = noise(rows, report.device), {"rows": rows, "vocab": vocab, "width": width}

    def matmul(x: Tensor) -> Tensor:
        return x @ weight.T

    report.add("the head alone", **shape, **timed(report, [partial(matmul, hidden)] * 2))
    for block in (128, 256, 1024):
        if block == 128 or block <= rows:
            source = ops.head_rows(hidden, weight, block=block)
            call = partial(dlm_kernels.draw, source, check=False, **place)
            report.add(f"head in blocks of {block}, K1, K2", **shape, **timed(report, [call] * 2))

    def whole() -> None:
        dlm_kernels.draw(matmul(hidden), check=False, **place)

    report.add("whole logits, K1, K2", **shape, **timed(report, [whole] * 2))
    if rows * vocab * 32 > 60e9:
        return
    for name, peer in (("LLaDA", llada), ("MDLM", mdlm), ("softmax + multinomial", multinomial)):

        def call(peer=peer) -> None:
            peer(matmul(hidden), 1.0)

        found = timed(report, [call] * 2, graph=False)
        report.add(f"whole logits, {name}", **shape, **found)
