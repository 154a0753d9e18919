"""Sum KL(p || q) between two tensors of logits in a Triton kernel."""

from __future__ import annotations

import triton
import triton.language as tl

from dlm_kernels.common.tiles import ALONE, LOG2E, TILE, load, row_of


@triton.jit
def divergence_kernel(
    logits, other, rows, norms, other_norms, starts, suppressed, out,
    vocab, tiles, height, tiny, stride_row, stride_id, stride_other_row, stride_other_id,
    HAS_ROWS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Sum KL(p || q) over a group of tiles; grid (R, ceil(tiles / GROUP)).

    out float32 [R, that]; tiny float32.
    """
    row = tl.program_id(0).to(tl.int64)
    source = row_of(rows, row, height, HAS_ROWS)
    logits += source * stride_row
    other += source * stride_other_row
    norm, other_norm = tl.load(norms + row), tl.load(other_norms + row)
    lane = tl.arange(0, TILE)
    total = norm * 0.0
    for i in range(GROUP):
        tile = tl.program_id(1) * GROUP + i
        if tile < tiles:
            ids = tile * TILE + lane
            x = load(logits, other, ids, tile, starts, suppressed, vocab, stride_id,
                     stride_other_id, norm, norm, ALONE)  # fmt: skip
            y = load(other, logits, ids, tile, starts, suppressed, vocab, stride_other_id,
                     stride_id, norm, norm, ALONE)  # fmt: skip
            p, q = tl.exp2((x - norm) * LOG2E), tl.exp2((y - other_norm) * LOG2E)
            term = p * (tl.log(p + tiny) - tl.log(q + tiny))
            total += tl.sum(tl.where(p == 0.0, 0.0, term), 0)
    tl.store(out + row * tl.num_programs(1) + tl.program_id(1), total)
