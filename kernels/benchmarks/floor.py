"""K1 and K2 beside one read of the logits, and beside published ways to draw.

The floor is the faster of two read-only reductions over the same logits in the same run.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from dlm_kernels import operators
from dlm_kernels.common import logit_pass
from dlm_kernels.common.device_tables import Law
from machine import Report, rotated, timed
from peers import peers
from torch import Tensor

BAR = 1.15  # times the floor, from 2048 rows up
_SPREAD = 3.0  # standard deviation of the logits
_PEER_BYTES = 40e9  # of float64 copies; larger peers would not fit


@triton.jit
def read_kernel(logits, out, vocab, stride_row, tiles, GROUP: tl.constexpr, TILE: tl.constexpr):
    """Grid (R, ceil(tiles / GROUP)): the largest logit of every tile, and nothing else."""
    row = tl.program_id(0).to(tl.int64)
    for i in range(GROUP):
        tile = tl.program_id(1) * GROUP + i
        if tile < tiles:
            ids = tile * TILE + tl.arange(0, TILE)
            x = tl.load(logits + row * stride_row + ids, mask=ids < vocab, other=float("-inf"))
            tl.store(out + row * tiles + tile, tl.max(x.to(tl.float32), 0))


def read_once(logits: Tensor) -> Tensor:
    """Read every logit."""
    count, vocab = logits.shape
    tiles = triton.cdiv(vocab, 1024)
    out = torch.empty(count, tiles, device=logits.device)
    read_kernel[(count, triton.cdiv(tiles, 4))](
        logits, out, vocab, logits.stride(0), tiles, GROUP=4, TILE=1024, num_warps=1
    )
    return out


def noise(rows: int, device: torch.device) -> dict[str, Tensor]:
    """Addresses of the random numbers."""
    index = torch.arange(rows, device=device)
    return {"keys": index * 7919, "positions": index, "steps": torch.zeros_like(index)}


def run(report: Report) -> None:
    """All shapes, dtypes and laws; peers once per shape."""
    wide = ((50258, 126464, 152064), (32, 256, 2048, 8192), (torch.bfloat16, torch.float32))
    small = ((1030,), (1,), (torch.bfloat16,))
    vocabs, counts, dtypes = small if report.small else wide
    laws = {
        "temperature 1": Law(),
        "temperature 0": Law(0.0),
        "temperature 0.7": Law(0.7),
        "top-p 0.95": Law(top_p=0.95),
        "min-p 0.05": Law(min_p=0.05),
        "top-k 50": Law(top_k=50),
    }
    if report.dry:
        laws = {name: laws[name] for name in ("temperature 1", "top-p 0.95")}
    for rows in counts:
        for vocab in vocabs:
            for dtype in dtypes:
                if not report.late:
                    measure(report, rows, vocab, dtype, laws)


def measure(
    report: Report, rows: int, vocab: int, dtype: torch.dtype, laws: dict[str, Law]
) -> None:
    """One shape."""
    generator = torch.Generator(report.device).manual_seed(0)

    def make(_: int) -> Tensor:
        pitch = -(-vocab // 64) * 64  # rows that can be read 16 bytes at a time
        whole = torch.empty(rows, pitch, dtype=dtype, device=report.device)
        return whole.normal_(0.0, _SPREAD, generator=generator)[:, :vocab]

    inputs, place = rotated(report, make), noise(rows, report.device)
    shape = {"rows": rows, "vocab": vocab, "dtype": str(dtype).removeprefix("torch.")}
    reads = {
        "one read": timed(report, [partial(read_once, x) for x in inputs]),
        "amax": timed(report, [partial(torch.amax, x, -1) for x in inputs]),
    }
    best = min(_time(found) for found in reads.values())
    size = rows * vocab * dtype.itemsize
    for name, found in reads.items():
        report.add(name, **shape, **found, gigabytes_per_second=size / _time(found) / 1e3)
    for name, law in laws.items():
        draw = partial(operators.draw, law=law, check=False, **place)
        found = timed(report, [partial(draw, x) for x in inputs])
        ratio = _time(found) / best
        within = ratio <= BAR if rows >= 2048 and name == "temperature 1" else None
        report.add(f"K1 + K2, {name}", **shape, **found, times_floor=ratio, within_bar=within)
    for name, choices, law in alternatives(laws, rows, report.dry):
        draw = partial(operators.draw, law=law, check=False, **place)
        logit_pass.CHOICES = choices
        try:
            found = timed(report, [partial(draw, x) for x in inputs])
        finally:
            logit_pass.CHOICES = logit_pass.Choices()
        report.add(f"K1 + K2, {name}", **shape, **found, times_floor=_time(found) / best)
    logits = inputs[0].contiguous()
    del inputs
    if rows * vocab * 32 > _PEER_BYTES:
        return
    for name, peer in peers(compiled=not report.small).items():
        found = timed(report, [partial(peer, logits, 1.0)] * 2, graph=False)
        report.add(name, **shape, **found, times_floor=_time(found) / best)


def alternatives(
    laws: dict[str, Law], rows: int, dry: bool
) -> list[tuple[str, logit_pass.Choices, Law]]:
    """What is open: tiles per program, two in flight, and, for few rows, programs per cut."""
    plain = laws["temperature 1"]
    found = [
        (f"{tiles} tiles{', two in flight' * ahead}", logit_pass.Choices(tiles, ahead), plain)
        for tiles, ahead in (
            ((2, True),) if dry else ((1, False), (4, False), (4, True), (8, True))
        )
    ]
    parts = [] if rows > 256 else [(name, law) for name, law in laws.items() if name[:3] == "top"]
    found += [
        (f"{name}, {count} programs a row", logit_pass.Choices(parts=count), law)
        for name, law in parts
        for count in ((2,) if dry else (8, 32))
    ]
    return found


def _time(found: dict[str, float]) -> float:
    """Without the host where that could be measured."""
    return found.get("graph_us", found["eager_us"])
