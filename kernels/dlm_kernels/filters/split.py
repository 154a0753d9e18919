"""Find the cuts of rows whose tiles are shared out among programs: for a few rows on a large GPU.

The rule is that of `filters.kernel`, one program per row there.  Here a row has PARTS programs, and
what they must tell one another goes through memory, from one launch to the next:

    turn        each part counts what reaches 16 keys between the bounds; the next turn adds the
                counts of all parts, and narrows the bounds
    ties        each part counts the tokens at the boundary that are equal
    boundary    the part that holds the last of them which passes says which id it has
    sums        each part sums its tiles; sizes are added up

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dlm_kernels.common.float_order import kth_largest, ordered
from dlm_kernels.common.tiles import ALONE, FLOOR, TILE, gaps, largest, load, row_of
from dlm_kernels.filters.kernel import (
    BINS,
    MANY,
    count_kept,
    keeps,
    key_of,
    mass_floor,
)

FACTS = tl.constexpr(5)  # numbers of a state: low, high, reach, above, members


@triton.jit
def _row(
    logits, other, rows, tile_max, draw_sums, inverses, mix, tiles, height, stride_row,
    stride_other_row, stride_inverse, stride_law, stride_mix, stride_mix_row,
    HAS_ROWS: tl.constexpr, MIX: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Return where a row stands, its numbers for mixing, peaks of tiles, peak and total."""
    row = tl.program_id(0).to(tl.int64)
    source = row_of(rows, row, height, HAS_ROWS)
    logits += source * stride_row
    inverse = tl.load(inverses + stride_law + row * stride_inverse)
    mix0, mix1 = inverse, inverse
    if MIX != ALONE:
        other += source * stride_other_row
        mix0 = tl.load(mix + source * stride_mix_row)
        mix1 = tl.load(mix + stride_mix + source * stride_mix_row)
    lane = tl.arange(0, TILES)
    inside = lane < tiles
    peaks = tl.load(tile_max + row * tiles + lane, mask=inside, other=float("-inf"))
    peak = tl.reduce(peaks, 0, largest)
    s = tl.load(draw_sums + row * tiles + lane, mask=inside, other=0.0).to(tl.float64)
    total = tl.sum(s * tl.exp2(gaps(peaks, peak) * inverse).to(tl.float64), 0)
    return row, logits, other, inverse, mix0, mix1, peaks, peak, total


@triton.jit
def _bounds(
    turn, row, state, mass_state, counts, masses, count, peaks, peak, inverse, total, limit, vocab,
    tiles, cuts, limits, MASS: tl.constexpr, FIRST: tl.constexpr, INCLUDE: tl.constexpr,
    SHIFT: tl.constexpr, TILES: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Return the state before a turn: low, high, reach, above, members, and the mass above."""
    low = key_of(peak, SHIFT) * 0
    high = key_of(peak, SHIFT) + 1
    members = low + MANY
    reach, above = members, low
    mass_above = low.to(tl.float64)
    if turn == 0:
        if MASS:
            floor = mass_floor(tl.load(limits + 1), total, vocab, inverse, peak)
            low = key_of(floor, SHIFT)
            if not FIRST:
                low = tl.maximum(low, tl.load(cuts + row))
        else:
            inside = tl.arange(0, TILES) < tiles
            found = kth_largest(ordered(peaks, False), inside, limit.to(tl.int32), False)
            low = (found >> SHIFT).to(tl.int64)
    else:
        place = state + ((turn - 1) * count + row) * FACTS
        low, high, reach = tl.load(place), tl.load(place + 1), tl.load(place + 2)
        above, members = tl.load(place + 3), tl.load(place + 4)
        mass_above = tl.load(mass_state + (turn - 1) * count + row)
        if (high - low > 1) & (members > 1):
            column = tl.arange(0, BINS).to(tl.int64)
            edges = low + (high - low) * (column + 1) // BINS
            part = tl.arange(0, PARTS)
            held = ((((turn - 1) % 2) * count + row) * PARTS + part[:, None]) * BINS
            held += tl.arange(0, BINS)[None, :]
            number = tl.sum(tl.load(counts + held), 0)
            mass = tl.sum(tl.load(masses + held), 0)
            if MASS:
                beyond = mass >= limit if INCLUDE else mass > limit
            else:
                beyond = number >= limit.to(tl.int64)
            reach = tl.min(tl.where(beyond, number, reach), 0)
            above = tl.max(tl.where(beyond, 0, number), 0)
            mass_above = tl.max(tl.where(beyond, 0.0, mass), 0)
            low, high = (
                tl.max(tl.where(beyond, edges, low), 0),
                tl.min(tl.where(beyond, high, edges), 0),
            )
            members = reach - above
    return low, high, reach, above, members, mass_above


@triton.jit
def _limit(limits, total, row, part_masses, MASS: tl.constexpr, FIRST: tl.constexpr,
           PARTS: tl.constexpr):  # fmt: skip
    """Return what the boundary reaches, a number of tokens or a mass, and the mass of all."""
    if MASS:
        if not FIRST:  # of the tokens that top-k keeps
            total = tl.sum(tl.load(part_masses + row * PARTS + tl.arange(0, PARTS)), 0)
        return tl.load(limits + 1) * total, total
    else:
        return tl.load(limits), total


@triton.jit
def turn_kernel(
    logits, other, rows, tile_max, draw_sums, state, mass_state, counts, masses, part_masses,
    cuts, limits, starts, suppressed, inverses, mix, turn, count,
    vocab, tiles, height, stride_row, stride_id, stride_other_row, stride_other_id,
    stride_inverse, stride_law, stride_mix, stride_mix_row,
    HAS_ROWS: tl.constexpr, MIX: tl.constexpr, MASS: tl.constexpr, FIRST: tl.constexpr,
    INCLUDE: tl.constexpr, SHIFT: tl.constexpr, TILES: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Narrow the bounds by one turn, and count for the next; grid (R, PARTS).

    state int64 [turns, R, 5], mass_state float64 [turns, R]; counts int64 and masses float64
    [2, R, PARTS, 16], of even and of odd turns; part_masses float64 [R, PARTS], of `sums_kernel`.
    FIRST: no other filter has cut the row before.
    """
    row, logits, other, inverse, mix0, mix1, peaks, peak, total = _row(
        logits, other, rows, tile_max, draw_sums, inverses, mix, tiles, height, stride_row,
        stride_other_row, stride_inverse, stride_law, stride_mix, stride_mix_row, HAS_ROWS, MIX,
        TILES,
    )  # fmt: skip
    part = tl.program_id(1)
    limit, total = _limit(limits, total, row, part_masses, MASS, FIRST, PARTS)
    low, high, reach, above, members, mass_above = _bounds(
        turn, row, state, mass_state, counts, masses, count, peaks, peak, inverse, total, limit,
        vocab, tiles, cuts, limits, MASS, FIRST, INCLUDE, SHIFT, TILES, PARTS,
    )  # fmt: skip
    if part == 0:
        place = state + (turn * count + row) * FACTS
        tl.store(place, low)
        tl.store(place + 1, high)
        tl.store(place + 2, reach)
        tl.store(place + 3, above)
        tl.store(place + 4, members)
        tl.store(mass_state + turn * count + row, mass_above)
    if (high - low > 1) & (members > 1):
        lane, column = tl.arange(0, TILE), tl.arange(0, BINS).to(tl.int64)
        edges = low + (high - low) * (column + 1) // BINS
        number, mass = column * 0, (column * 0).to(tl.float64)
        each = tl.cdiv(tiles, PARTS)
        tile = part * each
        stop = tl.minimum(tile + each, tiles)
        while tile < stop:
            if key_of(tl.load(tile_max + row * tiles + tile), SHIFT) >= low:
                x = load(logits, other, tile * TILE + lane, tile, starts, suppressed, vocab,
                         stride_id, stride_other_id, mix0, mix1, MIX)  # fmt: skip
                reached = (ordered(x, False) >> SHIFT)[:, None] >= edges.to(tl.uint32)[None, :]
                number += tl.sum(reached.to(tl.int32), 0).to(tl.int64)
                if MASS:
                    weight = tl.exp2(gaps(x, peak) * inverse)[:, None]
                    mass += tl.sum(tl.where(reached, weight, 0.0), 0).to(tl.float64)
            tile += 1
        held = (((turn % 2) * count + row) * PARTS + part) * BINS + tl.arange(0, BINS)
        tl.store(counts + held, number)
        tl.store(masses + held, mass)


@triton.jit
def boundary_kernel(
    logits, other, rows, tile_max, draw_sums, state, mass_state, counts, masses, part_masses, ties,
    cuts, lasts, limits, starts, suppressed, inverses, mix, turn, count,
    vocab, tiles, height, stride_row, stride_id, stride_other_row, stride_other_id,
    stride_inverse, stride_law, stride_mix, stride_mix_row,
    HAS_ROWS: tl.constexpr, MIX: tl.constexpr, MASS: tl.constexpr, FIRST: tl.constexpr,
    INCLUDE: tl.constexpr, SHIFT: tl.constexpr, TILES: tl.constexpr, PARTS: tl.constexpr,
    COUNT: tl.constexpr,
):  # fmt: skip
    """Count the tokens at the boundary that are equal (COUNT), then store the cut; grid (R, PARTS).

    ties int64 [R, PARTS]; cuts and lasts int64 [R], where FIRST is False those of the cut before.
    turn is the number of turns taken.
    """
    row, logits, other, inverse, mix0, mix1, peaks, peak, total = _row(
        logits, other, rows, tile_max, draw_sums, inverses, mix, tiles, height, stride_row,
        stride_other_row, stride_inverse, stride_law, stride_mix, stride_mix_row, HAS_ROWS, MIX,
        TILES,
    )  # fmt: skip
    part = tl.program_id(1)
    limit, total = _limit(limits, total, row, part_masses, MASS, FIRST, PARTS)
    low, high, _, above, members, mass_above = _bounds(
        turn, row, state, mass_state, counts, masses, count, peaks, peak, inverse, total, limit,
        vocab, tiles, cuts, limits, MASS, FIRST, INCLUDE, SHIFT, TILES, PARTS,
    )  # fmt: skip
    kept = count_kept(low, high, members, above, mass_above, limit, peak, inverse, MASS, INCLUDE,
                      SHIFT)  # fmt: skip
    tied = (kept > 0) & (kept < members)
    lane, each = tl.arange(0, TILE), tl.cdiv(tiles, PARTS)
    if COUNT:
        number = low * 0
        if tied:
            tile = part * each
            stop = tl.minimum(tile + each, tiles)
            while tile < stop:
                if key_of(tl.load(tile_max + row * tiles + tile), SHIFT) >= low:
                    x = load(logits, other, tile * TILE + lane, tile, starts, suppressed, vocab,
                             stride_id, stride_other_id, mix0, mix1, MIX)  # fmt: skip
                    number += tl.sum((key_of(x, SHIFT) == low).to(tl.int32), 0)
                tile += 1
        tl.store(ties + row * PARTS + part, number)
    else:
        parts = tl.arange(0, PARTS)
        held = tl.load(ties + row * PARTS + parts)
        seen = tl.sum(tl.where(parts < part, held, 0), 0)
        own = tl.sum(tl.where(parts == part, held, 0), 0)
        last, mine = low * 0 + MANY, part == 0
        if tied:
            mine = (seen < kept) & (kept <= seen + own)
            if mine:
                tile = part * each
                stop = tl.minimum(tile + each, tiles)
                while tile < stop:
                    if key_of(tl.load(tile_max + row * tiles + tile), SHIFT) >= low:
                        ids = tile * TILE + lane
                        x = load(logits, other, ids, tile, starts, suppressed, vocab, stride_id,
                                 stride_other_id, mix0, mix1, MIX)  # fmt: skip
                        equal = key_of(x, SHIFT) == low
                        rank = seen + tl.cumsum(equal.to(tl.int32), 0)
                        last = tl.min(tl.where(equal & (rank == kept), ids, last), 0)
                        seen += tl.sum(equal.to(tl.int32), 0)
                    tile += 1
        if mine:
            cut = tl.where(kept > 0, low, high)
            if not FIRST:
                before, end = tl.load(cuts + row), tl.load(lasts + row)
                last = tl.where(
                    cut > before, last, tl.where(cut < before, end, tl.minimum(last, end))
                )
                cut = tl.maximum(cut, before)
            tl.store(cuts + row, cut)
            tl.store(lasts + row, last)


@triton.jit
def sums_kernel(
    logits, other, rows, tile_max, draw_sums, kept, kept_entropy_sums, part_masses, cuts, lasts,
    sizes, limits, starts, suppressed, inverses, mix,
    vocab, tiles, height, stride_row, stride_id, stride_other_row, stride_other_id,
    stride_inverse, stride_law, stride_mix, stride_mix_row,
    HAS_ROWS: tl.constexpr, MIX: tl.constexpr, SHIFT: tl.constexpr, TILES: tl.constexpr,
    PARTS: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Sum the tokens that pass, tile by tile; grid (R, PARTS).

    kept, kept_entropy_sums float32 [R, tiles]; part_masses float64 [R, PARTS].  LAST: min-p is
    applied, and `sizes` (int64 [R], 0 before) counts the tokens.
    """
    row, logits, other, inverse, mix0, mix1, _, peak, _ = _row(
        logits, other, rows, tile_max, draw_sums, inverses, mix, tiles, height, stride_row,
        stride_other_row, stride_inverse, stride_law, stride_mix, stride_mix_row, HAS_ROWS, MIX,
        TILES,
    )  # fmt: skip
    part, each, lane = tl.program_id(1), tl.cdiv(tiles, PARTS), tl.arange(0, TILE)
    cut, last = tl.load(cuts + row), tl.load(lasts + row)
    least = peak * 0.0
    if LAST:
        least = tl.load(limits + 2).to(tl.float32)
    size = cut * 0
    mass = size.to(tl.float64)
    tile = part * each
    stop = tl.minimum(tile + each, tiles)
    while tile < stop:
        top = tl.load(tile_max + row * tiles + tile)
        s, t = mass.to(tl.float32) * 0.0, mass.to(tl.float32) * 0.0
        if key_of(top, SHIFT) >= cut:
            ids = tile * TILE + lane
            x = load(logits, other, ids, tile, starts, suppressed, vocab, stride_id,
                     stride_other_id, mix0, mix1, MIX)  # fmt: skip
            keep = keeps(x, ids, peak, inverse, cut, last, least, SHIFT)
            d = tl.maximum(gaps(x, top) * inverse, FLOOR)
            weight = tl.where(keep, tl.exp2(d), 0.0)
            s, t = tl.sum(weight, 0), tl.sum(weight * d, 0)
            size += tl.sum(keep.to(tl.int32), 0)
            mass += tl.sum(tl.where(keep, tl.exp2(gaps(x, peak) * inverse), 0.0), 0).to(tl.float64)
        tl.store(kept + row * tiles + tile, s)
        tl.store(kept_entropy_sums + row * tiles + tile, t)
        tile += 1
    tl.store(part_masses + row * PARTS + part, mass)
    if LAST:
        tl.atomic_add(sizes + row, size)
