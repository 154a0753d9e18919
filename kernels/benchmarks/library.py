"""Every registered sampler, under every noise that it runs on: its tokens here against the CPU's.

The denoiser adds two rows of a table per position, so its logits are the same bits on every device;
what differs is rounding inside a draw, and with it a near-tie now and then.  The ordinary loop with
the torch operators and with the kernels, and the recorded step where the sampler can be recorded.
"""

from __future__ import annotations

from typing import Any

import torch
from machine import Report
from recorded import chosen
from torch import Tensor

from dlm_sampling import sample, samplers
from dlm_sampling.denoisers import Denoiser, wrap
from dlm_sampling.engine.sample import SampleOutput
from dlm_sampling.processes import Absorbing, RateMatrix, Uniform
from dlm_sampling.types import Process

VOCAB, MASK = 61, 60
SIZE, TINY = (32, 24), (1, 8)  # rows and positions; tiny for a dry run
FEW = ("ancestral", "llada", "remdm-cap", "tau-leaping")  # of a dry run
NEAR_TIES = 1  # rows that may differ by rounding


def processes() -> dict[str, Process]:
    """A noise of each kind."""
    rates = torch.full((VOCAB, VOCAB), 1.0 / VOCAB, dtype=torch.float64) - torch.eye(VOCAB)
    return {"absorbing": Absorbing(MASK), "uniform": Uniform(), "matrix": RateMatrix(rates)}


def tables(device: torch.device, process: Process) -> Denoiser:
    """Logits of a position: a row by place, and a row by the token to the left."""
    generator = torch.Generator().manual_seed(5)
    place = torch.randn(SIZE[1], VOCAB, generator=generator).to(device)
    left = torch.randn(VOCAB, VOCAB, generator=generator).to(device)

    def logits(input_ids: Tensor) -> Tensor:
        return place[: input_ids.shape[1]] + left[input_ids.roll(1, 1)]

    facts: dict[str, Any] = {"vocab_size": VOCAB, "mask_token_id": process.mask_token_id}
    return wrap(logits, **facts, process=process, device=device)


@torch.no_grad()
def run(report: Report) -> None:
    """All of them."""
    for name, entry in samplers.available().items():
        for kind in entry.runs_on:
            if report.late:
                return
            if not report.dry or (name in FEW and kind == "absorbing"):
                compare(report, name, kind, recordable=kind in entry.recorded_on)


def compare(report: Report, name: str, kind: str, *, recordable: bool) -> None:
    """Rows whose tokens differ from those of the CPU, by implementation."""
    process, size = processes()[kind], TINY if report.dry else SIZE
    with chosen("torch"):
        expected = call(torch.device("cpu"), process, name, size)
    different: dict[str, Any] = {}
    for kernels in ("torch", "triton"):
        for graph in (False, True) if recordable and not report.dry else (False,):
            with chosen(kernels):
                try:
                    found = call(report.device, process, name, size, cuda_graph=graph)
                except RuntimeError as error:
                    different[f"{kernels}{', recorded' if graph else ''}"] = str(error)[:200]
                    continue
            rows = (found.tokens.cpu() != expected.tokens).any(1)
            different[f"{kernels}{', recorded' if graph else ''}"] = int(rows.sum())
    filters = samplers.create(name).law.filters
    excused = {"torch, recorded"} if filters else set[str]()  # torch's filters cannot be recorded
    wrong = [
        how
        for how, rows in different.items()
        if how not in excused and (isinstance(rows, str) or rows > NEAR_TIES)
    ]
    report.add(name, noise=kind, **different, passed=not wrong)


def call(
    device: torch.device, process: Process, name: str, size: tuple[int, int], **options: Any
) -> SampleOutput:
    """One run of ragged blocks."""
    tokens = torch.full(size, 3)
    editable = torch.ones_like(tokens, dtype=torch.bool)
    editable[:, :5] = False
    return sample(
        tables(device, process), samplers.create(name), tokens, editable, seeds=range(size[0]),
        steps=10, block_length=8, **options,
    )  # fmt: skip
