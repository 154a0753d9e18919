"""Launch the passes that every draw and every log-probability begins with: K1, and the filters.

Shapes and launch parameters are fixed by the number of rows, V and dtype; nothing is tuned at call
time, and the host does not wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from dlm_kernels.common.aligned_reads import ALIGNED, ANY, TILE, WINDOWS
from dlm_kernels.common.device_tables import Filters, limits, suppressed_table
from dlm_kernels.common.support import obstacle, refuse
from dlm_kernels.common.tiles import ALONE, REMAINDER, tile_kernel
from dlm_kernels.filters.kernel import filter_kernel
from dlm_kernels.filters.launch import Cutting, cut_in_parts

_MOST_TILES = 4  # tiles per program of K1
# Programs of K1 that a large GPU holds at a time: 132 processors, 18 warps of 112 registers each.
_RESIDENT = 2376
# Left alone, the assembler spills a few numbers to fit more programs on a processor.
_CUT_REGISTERS = 128
_SHIFTS = {torch.bfloat16: 16, torch.float16: 13}  # bits of float32 that these leave zero


@dataclass
class Choices:
    """Hold what is open until a GPU has measured it; the tokens do not depend on it.

    Fields:
        tiles: tiles per program of K1, a power of 2; None: see `tiles_per_program`.
        ahead: whether K1 loads the next tile before it is done with one.
        parts: programs per row that find the cuts of filters, a power of 2: `filters.split`, and
            `filters.kernel` where it is 1.
    """

    tiles: int | None = None
    ahead: bool = False
    parts: int = 1


CHOICES = Choices()
"""What launches do; `kernels/benchmarks floor` measures the alternatives."""


def tiles_per_program(rows: int, tiles: int) -> int:
    """Return how many tiles a program of K1 reads: fewer where that leaves processors idle."""
    group = _MOST_TILES
    while group > 1 and rows * triton.cdiv(tiles, group) < _RESIDENT:
        group //= 2
    return group


def k1_registers(capability: int, kind: int, read: int) -> int:
    """Return the most registers that K1 may take: those it needs without spills.

    Args:
        capability: 80 for compute capability 8.0.
        kind: the rule that makes one logit of two.
        read: the windows of a tile, see `windows`.
    """
    if capability < 100:
        return 112 if read == WINDOWS.value else 96
    if kind == REMAINDER.value:
        return 144
    return 120 if read == WINDOWS.value else 112


class Logits(NamedTuple):
    """Hold logits, or two tensors of logits that are read as one."""

    first: Tensor  # [N, V]
    second: Tensor | None = None  # [N, V]
    mix: Tensor | None = None  # float32 [2, N] or [2, 1]
    kind: int = ALONE.value


class Block(NamedTuple):
    """Hold some of the rows asked for."""

    logits: Logits
    rows: Tensor | None  # int64 [r] into the logits, or None for all of them in order
    span: slice  # which of the rows asked for


class Passed(NamedTuple):
    """Hold the tensors that the passes leave, and other arguments of later kernels."""

    tensors: tuple[Any, ...]  # logits, other, rows, tile_max, sums, ..., inverses, mix
    boundary: tuple[Any, ...]  # cuts, lasts, sizes, limits
    where: tuple[int, ...]  # vocab, tiles, rows and strides
    options: dict[str, Any]


def blocks(source: Tensor | Any, rows: Tensor | None, count: int) -> Iterator[Block]:
    """Split a tensor, or a Pair or LogitRows of dlm_sampling.ops, into blocks of rows."""
    if count == 0:
        return
    whole = slice(0, count)
    if isinstance(source, Tensor):
        yield Block(Logits(source), rows, whole)
    elif hasattr(source, "fetch"):
        for start in range(0, count, source.block):
            span = slice(start, min(start + source.block, count))
            every = torch.arange(span.start, span.stop, device=source.device)
            if rows is None:
                yield Block(Logits(source.fetch(every)), None, span)
                continue
            here = rows[span]  # -1 is no row: something is made in its place, and not read
            index = torch.where(here < 0, -1, every - span.start)
            yield Block(Logits(source.fetch(here.clamp_min(0))), index, span)
    else:
        yield Block(Logits(source.first, source.second, source.mix(), source.kind), rows, whole)


def shape_of(source: Tensor | Any) -> tuple[int, int]:
    """Return rows and vocabulary of a source."""
    if hasattr(source, "fetch"):
        return source.count, source.vocab_size
    return tuple((source if isinstance(source, Tensor) else source.first).shape)


def run_passes(
    logits: Logits, rows: Tensor | None, count: int, inverses: Tensor, suppressed: tuple[int, ...],
    filters: Filters, *, one_law: bool, law_statistics: bool,
) -> Passed:  # fmt: skip
    """Run K1, and find the boundary of the tokens that pass the filters.

    Args:
        logits: [N, V].
        rows: int64 [R], or None for all rows in order.
        count: R, at least 1.
        inverses: of `tables`, [3, R] or [3, 1].
        suppressed: ids that are never drawn, ascending.
        filters: of the law that is sampled.
        one_law: whether both temperatures in `inverses` are the same for every row.
        law_statistics: whether the statistics are of the filtered law; needs `one_law`.
    """
    first, second, mix, kind = logits
    vocab, device = first.shape[1], first.device
    refuse(obstacle(device, first.dtype, vocab=vocab))
    tiles = triton.cdiv(vocab, TILE.value)
    room = torch.empty(3 + (not one_law), count, tiles, dtype=torch.float32, device=device)
    tables = room.unbind(0)
    tile_max, sums, entropy_sums = tables[:3]
    draw_sums = sums if one_law else tables[3]
    table = suppressed_table(suppressed, vocab, device)
    head = (first, second, None if rows is None else rows.contiguous())
    tail = (*table, inverses, mix)
    other = (0, 0) if second is None else second.stride()
    mixed = (0, 0) if mix is None else _strides(mix)
    along = _strides(inverses)[::-1]
    where = (vocab, tiles, first.shape[0], *first.stride(), *other, *along, *mixed)
    options = {"HAS_ROWS": rows is not None, "MIX": kind}
    shift = _SHIFTS.get(first.dtype, 0) if second is None else 0
    options_cut = {"SHIFT": shift, "TILES": triton.next_power_of_2(tiles)}
    boundary: tuple[Any, ...] = (None,) * 4
    read, group = _read(first, second), CHOICES.tiles or tiles_per_program(count, tiles)
    with torch.cuda.device_of(first):
        tile_kernel[(count, triton.cdiv(tiles, group))](
            *head, tile_max, sums, entropy_sums, draw_sums, *tail, *where, **options,
            TWO=not one_law, READ=read, GROUP=group, AHEAD=CHOICES.ahead and group > 1, num_warps=1,
            maxnreg=_registers(first, kind, read), enable_fp_fusion=True,
        )  # fmt: skip
        if filters.active:
            both = torch.empty_like(room[:2])
            kept, kept_entropy_sums = both.unbind(0)
            found = torch.empty(3, count, dtype=torch.int64, device=device).unbind(0)
            boundary = (*found, limits(filters, vocab, device))
            if CHOICES.parts > 1:
                together = options | options_cut
                cutting = Cutting(head, tile_max, draw_sums, both, boundary, tail, where, together)
                cut_in_parts(cutting, filters, CHOICES.parts, _CUT_REGISTERS)
            else:
                filter_kernel[(count,)](
                    *head, tile_max, draw_sums, kept, kept_entropy_sums, *boundary, *tail, *where,
                    **options, **options_cut, TOP_K=filters.top_k > 0, TOP_P=filters.top_p < 1.0,
                    INCLUDE=filters.include, num_warps=8, maxnreg=_CUT_REGISTERS,
                    enable_fp_fusion=True,
                )  # fmt: skip
            sums, entropy_sums, draw_sums = (
                (kept, kept_entropy_sums, kept) if law_statistics else (sums, entropy_sums, kept)
            )
    tensors = (*head, tile_max, sums, entropy_sums, draw_sums, *tail)
    return Passed(tensors, boundary, where, options | options_cut)


def _read(first: Tensor, second: Tensor | None) -> int:
    """Return how K1 may read whole tiles, see `aligned_reads`; two tensors must begin alike."""
    both = [first] if second is None else [first, second]
    if any(x.stride(1) != 1 for x in both):
        return ANY.value
    begins = [(x.data_ptr() % 16, x.stride(0) * x.element_size() % 16) for x in both]
    if not any(map(any, begins)):
        return ALIGNED.value
    alike = begins[0] == begins[-1] and both[0].dtype == both[-1].dtype
    return WINDOWS.value if alike else ANY.value


def _registers(logits: Tensor, kind: int, read: int) -> int | None:
    if not logits.is_cuda:
        return None
    major, minor = torch.cuda.get_device_capability(logits.device)
    return k1_registers(10 * major + minor, kind, read)


def _strides(table: Tensor) -> tuple[int, int]:
    """Return the strides of a table [n, R] or [n, 1]; one column serves every row."""
    return table.stride(0), table.stride(1) if table.shape[1] > 1 else 0
