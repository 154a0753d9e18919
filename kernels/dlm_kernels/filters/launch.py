"""Launch the cuts of rows whose tiles are shared out among programs; see `filters.split`.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_kernels.common.device_tables import Filters
from dlm_kernels.filters.kernel import BINS, MANY
from dlm_kernels.filters.split import FACTS, boundary_kernel, sums_kernel, turn_kernel


class Cutting(NamedTuple):
    """Hold what the passes before leave, and what is filled: see `common.logit_pass`."""

    head: tuple[Any, ...]  # logits, other, rows
    tile_max: Tensor  # float32 [R, tiles]
    draw_sums: Tensor  # float32 [R, tiles]
    kept: Tensor  # float32 [2, R, tiles], filled: sums of the tokens that pass
    boundary: tuple[Tensor, ...]  # cuts, lasts, sizes int64 [R], filled; limits
    tail: tuple[Any, ...]  # starts, suppressed, inverses, mix
    where: tuple[int, ...]  # vocab, tiles, rows and strides
    options: dict[str, Any]


def cut_in_parts(given: Cutting, filters: Filters, parts: int, registers: int) -> None:
    """Fill `boundary` and `kept`, with so many programs per row (a power of 2).

    A cut takes a launch for each four bits of a logit, and two more; the host waits for nothing.
    """
    tile_max, count = given.tile_max, len(given.tile_max)
    cuts, lasts, sizes, limits = given.boundary
    cuts.zero_()
    lasts.fill_(MANY.value)
    sizes.zero_()

    def room(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=tile_max.device)

    turns = -(-(32 - given.options["SHIFT"]) // 4)
    masses = room(count, parts, dtype=torch.float64)
    memory = (
        room(turns, count, FACTS.value),
        room(turns, count, dtype=torch.float64),
        room(2, count, parts, BINS.value),
        room(2, count, parts, BINS.value, dtype=torch.float64),
        masses,
    )
    ties = room(count, parts)
    begin, end = (*given.head, tile_max, given.draw_sums), (*given.tail,)
    options: dict[str, Any] = {**given.options, "PARTS": parts, "num_warps": 8}
    options |= {"maxnreg": registers, "enable_fp_fusion": True}
    grid = (count, parts)

    def sums(last: bool) -> None:
        sums_kernel[grid](
            *begin, *given.kept.unbind(0), masses, cuts, lasts, sizes, limits, *end, *given.where,
            **options, LAST=last,
        )  # fmt: skip

    first = True
    for mass, wanted in ((False, filters.top_k > 0), (True, filters.top_p < 1.0)):
        if not wanted:
            continue
        if not first:
            sums(False)
        rule = {"MASS": mass, "FIRST": first, "INCLUDE": filters.include}
        for turn in range(turns):
            turn_kernel[grid](
                *begin, *memory, cuts, limits, *end, turn, count, *given.where, **options, **rule
            )
        for counting in (True, False):
            boundary_kernel[grid](
                *begin, *memory, ties, cuts, lasts, limits, *end, turns, count, *given.where,
                **options, **rule, COUNT=counting,
            )  # fmt: skip
        first = False
    sums(True)
