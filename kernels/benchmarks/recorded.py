"""The library's own loop with and without cuda_graph=True: the same tokens, and the time of a step.

Whole calls of `sample`, so what a user gets: the forward pass, the sampler, the loop's own books.
A step's time is the difference of a long and a short run over the difference of their steps, which
leaves out what a call does once: the first canvas, the warm-up, the recording.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from loop import SHAPES, TINY, Model, Shape
from machine import Report
from torch import Tensor

from dlm_sampling import sample, samplers
from dlm_sampling.denoisers import Denoiser, wrap
from dlm_sampling.types import DenoiserOutput, TokenLaw

_ROUNDS = 3
_SHORT, _LONG = 8, 40
SAMPLERS = ("llada", "ancestral", "remdm-conf")  # with as many steps as are asked for
CHECKED = {
    "llada": TokenLaw(0.0),
    "llada-random": TokenLaw(),
    "ancestral": TokenLaw(),
    "first-hitting": TokenLaw(),
    "eb-sampler": TokenLaw(),
    "fast-dllm": TokenLaw(0.0),
    "p2": TokenLaw(),
    "tau-leaping": TokenLaw(),
    "remdm-conf": TokenLaw(0.8, top_p=0.9),  # filters need the kernels
    "bd3lm": TokenLaw(top_k=20),
}


@torch.no_grad()
def run(report: Report) -> None:
    """Tokens first, then times."""
    tokens(report)
    for shape in TINY if report.small else SHAPES:
        denoiser = random_model(report, shape)
        for batch in shape.batches:
            for name in SAMPLERS:
                if report.late:
                    return
                times(report, denoiser, shape, batch, name)
        del denoiser


def random_model(report: Report, shape: Shape) -> Denoiser:
    """A transformer with random weights; the last id is the mask."""
    torch.manual_seed(0)
    with torch.device(report.device):
        model = Model(shape).to(torch.float32 if report.dry else torch.bfloat16)

    def passed(input_ids: Tensor) -> DenoiserOutput:
        return DenoiserOutput(model(input_ids).view(*input_ids.shape, -1), model.head)

    facts: dict[str, Any] = {"vocab_size": shape.vocab, "mask_token_id": shape.vocab - 1}
    return wrap(passed, **facts, device=report.device)


def call(denoiser: Denoiser, name: str, size: tuple[int, int], **options: Any) -> Tensor:
    """The canvases of one run, int64 of that size."""
    canvas = torch.zeros(size, dtype=torch.int64)
    seeds = range(size[0])
    return sample(
        denoiser, samplers.create(name), canvas, canvas == 0, seeds=seeds, **options
    ).tokens


def tokens(report: Report) -> None:
    """Rows of the recorded loop against those of the ordinary one, with and without kernels."""
    shape = TINY[0] if report.small else Shape("check", 2, 64, 4, 128, 2000, 48, (3,))
    denoiser = random_model(report, shape)
    rows, steps = (1, 3) if report.dry else (3, 12)
    for name, law in list(CHECKED.items())[:: 3 if report.dry else 1]:
        for kernels in ("triton",) if law.filters else ("triton", "torch"):
            with chosen(kernels):
                options: dict[str, Any] = {"law": law, "steps": steps, "block_length": 16}
                found = [
                    call(denoiser, name, (rows, shape.length), cuda_graph=graph, **options)
                    for graph in (False, not report.dry)
                ]
            same = torch.equal(*found)
            report.add("the same tokens", sampler=name, kernels=kernels, passed=same)


def times(report: Report, denoiser: Denoiser, shape: Shape, batch: int, name: str) -> None:
    """Microseconds per step with the kernels and without, in turns."""
    found: dict[tuple[str, bool], list[float]] = {}
    short, long = (1, 2) if report.dry else (_SHORT, _LONG)
    for _ in range(1 if report.dry else _ROUNDS):
        for kernels in ("triton", "torch"):
            for graph in (False, True)[: 1 if report.dry else 2]:
                with chosen(kernels):
                    spent = [
                        seconds(report, denoiser, shape, batch, name, steps, graph)
                        for steps in (short, long)
                    ]
                each = (spent[1] - spent[0]) / (long - short)
                found.setdefault((kernels, graph), []).append(each)
    for (kernels, graph), each in found.items():
        label = {"model": shape.name, "batch": batch, "kernels": kernels, "graph": graph}
        report.add(name, **label, eager_us=median(each) * 1e6)


def seconds(
    report: Report, denoiser: Denoiser, shape: Shape, batch: int, name: str, steps: int, graph: bool
) -> float:
    """Wall time of one run of exactly so many steps."""
    start = time.perf_counter()
    options: dict[str, Any] = {"steps": steps, "every_step": True, "law": TokenLaw()}
    options["cuda_graph"] = graph and not report.dry
    call(denoiser, name, (batch, shape.length), **options)
    if not report.dry:
        torch.cuda.synchronize()
    return time.perf_counter() - start


@contextmanager
def chosen(kernels: str) -> Iterator[None]:
    """The implementation of the operators."""
    before = os.environ["DLM_KERNELS"]
    os.environ["DLM_KERNELS"] = kernels
    try:
        yield
    finally:
        os.environ["DLM_KERNELS"] = before
