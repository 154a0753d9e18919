"""Exact categorical sampling by a race of tiles, with the statistics of the law, in one pass.

A tile is 1024 consecutive vocabulary ids, a run is 32 consecutive ids of a tile.  The pass over the
logits leaves the sum of exponentials s_t of every tile.  With independent unit exponentials E the
tile is argmax_t s_t / E_t; then, likewise, the run inside the tile and the token inside the run.
The first of exponential clocks of rates s_t to ring is t with probability s_t / sum(s), so the
factorisation is exact, and a row needs V / 1024 + 64 random numbers instead of V.  The widths are
part of the random stream.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.ops._dispatch import kernel
from dlm_sampling.ops.combined import Pair, dtype_of, plain_of
from dlm_sampling.ops.host_sync import sync_allowed
from dlm_sampling.ops.philox import Stream, exponential_from_words, random_words
from dlm_sampling.ops.sources import RUN, TILE, Block, Scratch, Source, blocks, shape_of
from dlm_sampling.ops.temperature import cold_rows, heated
from dlm_sampling.ops.tiles import LOG2E, Heat, Heated, Sums, Table, column, sweep, take
from dlm_sampling.types import DrawRecord, Statistics, TokenLaw

_MODEL = TokenLaw()


@torch.no_grad()
def draw(
    source: Source | Pair,
    *,
    keys: Tensor,
    positions: Tensor,
    steps: Tensor,
    law: TokenLaw = _MODEL,
    sub: int | Tensor = 0,
    statistics: Statistics = "model",
    rows: Tensor | None = None,
    check: bool = True,
    temperatures: Tensor | None = None,
) -> DrawRecord:
    """Draw one token per row and return it with the statistics of its law.

    Args:
        source: logits [N, V] of any float dtype and strides, a `LogitRows`, or a `Pair`.
        keys: int64 [R], the seed of the row that each draw belongs to.
        positions: int64 [R], relative to the row's own position 0.
        steps: int64 [R].
        law: temperature, filters and suppressed ids.
        sub: index of the draw within the step; an int64 tensor [] stays on the device.
        statistics: "model": of softmax(logits) without the suppressed ids; "law": of the law that
            is sampled (at temperature 0, of the filtered law at temperature 1).
        rows: int64 [R], which rows of the source; None for all of them in order.  Without `check`
            an entry may be -1: the place is passed over, and its record means nothing.
        check: refuse rows that define no law.
        temperatures: float [R], one per row drawn, instead of the law's; 0 is argmax.

    Returns:
        A `DrawRecord` of tensors [R]; float64 for float64 logits, else float32.

    Raises:
        ValueError: shapes or ids do not fit; with `check`, a row holds NaN or +inf or nothing but
            -inf, or a temperature is negative or not finite.
    """
    check = check and sync_allowed()
    count, vocab = shape_of(plain_of(source))
    wanted = count if rows is None else rows.shape[0]
    named = (("keys", keys), ("positions", positions), ("steps", steps))
    for name, value in (*named, ("temperatures", temperatures)):
        if value is not None and value.shape != (wanted,):
            shape = tuple(value.shape)
            raise ValueError(f"{name} has shape {shape}: must be ({wanted},), one per row drawn.")
    fused = kernel("draw", keys, dtype=dtype_of(source), vocab=vocab)
    if fused is not None:
        record = fused(
            source, keys=keys, positions=positions, steps=steps, law=law, sub=sub,
            statistics=statistics, rows=rows, check=check, temperatures=temperatures,
        )  # fmt: skip
        return DrawRecord(*record)
    source = source.rows() if isinstance(source, Pair) else source
    if rows is not None and not check:
        rows = rows.clamp_min(0)
    table = Table.build(vocab, law, keys.device)
    plan = _Plan(table, law, statistics, Scratch(), check)
    parts: list[DrawRecord] = []
    for block in blocks(source, rows):
        noise = _Noise(keys[block.span], positions[block.span], steps[block.span], int(sub))
        heat = law.temperature if temperatures is None else temperatures[block.span]
        parts.append(_draw_block(block, noise, plan, heat))
    if not parts:
        return _empty(source)
    return DrawRecord(*(torch.cat(field) for field in zip(*parts, strict=True)))


class _Noise(NamedTuple):
    """Which random numbers a block uses; int64 [b]."""

    keys: Tensor
    positions: Tensor
    steps: Tensor
    sub: int

    def arrivals(self, tiles: int) -> tuple[Tensor, Tensor, Tensor]:
        """Unit exponentials, float64: lanes 0-31 for the tokens, 32-63 the runs, then the tiles."""
        lanes = RUN + TILE // RUN + tiles
        words = random_words(
            self.keys, self.positions, self.steps, stream=Stream.TOKEN, lanes=lanes, sub=self.sub
        )
        arrival, split = exponential_from_words(*words), RUN + TILE // RUN
        return arrival[:, :RUN], arrival[:, RUN:split], arrival[:, split:]


class _Plan(NamedTuple):
    """What all blocks of a call share."""

    table: Table
    law: TokenLaw
    statistics: Statistics
    scratch: Scratch
    check: bool


class _Peaks(NamedTuple):
    """The largest logits of each row; tensors [b]."""

    token: Tensor
    first: Tensor
    second: Tensor


def _draw_block(block: Block, noise: _Noise, plan: _Plan, temperature: Heat) -> DrawRecord:
    table, law, statistics, scratch, check = plan
    sampled, cold = Heated(law, heated(temperature, check)), cold_rows(temperature)
    viewed = sampled if statistics == "law" else Heated(TokenLaw(suppressed=law.suppressed), 1.0)
    found = sweep(block, table, viewed, viewed if cold is True else sampled, scratch, check)
    peaks = _peaks(block, found.tile_max, table)
    token, logit, logprob = peaks.token, peaks.first, torch.zeros_like(peaks.first)
    if cold is not True:
        drawn, height = _race(block, noise, table, found.sampled, sampled.heat)
        fall = _gap(height, peaks.first, sampled.heat) - found.sampled.total.log()
        token, logit, logprob = (
            (drawn, height, fall)
            if cold is False
            else (
                torch.where(cold, token, drawn),
                torch.where(cold, logit, height),
                fall.masked_fill(cold, 0.0),
            )
        )
    stats, log_total = found.viewed, found.viewed.total.log()
    second = _gap(peaks.second, peaks.first, viewed.heat)
    if stats.edge is not None:
        second = second.masked_fill(stats.edge.size < 2, -math.inf)
    record = (
        logprob.clamp(max=0.0),
        (_gap(logit, peaks.first, viewed.heat) - log_total).clamp(max=0.0),
        -log_total,
        -torch.expm1(second) / stats.total,
        stats.entropy,
        peaks.first.double() / viewed.heat + log_total,
    )
    return DrawRecord(token, *(field.to(block.dtype) for field in record))


def _gap(logit: Tensor, peak: Tensor, heat: Heat) -> Tensor:
    """Log of a weight relative to the largest one, float64."""
    return (logit.double() - peak.double()) / heat


def _peaks(block: Block, tile_max: Tensor, table: Table) -> _Peaks:
    tile = tile_max.argmax(-1, keepdim=True)
    logits = take(block, tile[:, 0], table)
    place = logits.argmax(-1, keepdim=True)
    first = logits.gather(1, place)
    inside = logits.scatter_(1, place, -math.inf).amax(-1)
    outside = tile_max.scatter(1, tile, -math.inf).amax(-1)
    return _Peaks((tile * TILE + place)[:, 0], first[:, 0], torch.maximum(inside, outside))


def _race(
    block: Block, noise: _Noise, table: Table, sums: Sums, heat: Heat
) -> tuple[Tensor, Tensor]:
    """Draw the tile, the run in the tile, the token in the run; returns the token and its logit."""
    token_arrival, run_arrival, tile_arrival = noise.arrivals(table.tiles)
    tile = (sums.tiles / tile_arrival).argmax(-1)
    logits = take(block, tile, table)
    if sums.edge is not None:
        ids = tile[:, None] * TILE + torch.arange(table.width, device=tile.device)
        logits.masked_fill_(~sums.edge.keeps(logits, ids), -math.inf)
    # Relative to the tile's own peak no weight overflows, and the largest does not vanish.
    scale = column(heat, slice(None), logits, times=LOG2E)
    weights = (logits - logits.amax(-1, keepdim=True)).mul_(scale).exp2_()
    runs = weights.view(len(weights), -1, RUN).sum(-1)
    run = (runs / run_arrival[:, : runs.shape[1]]).argmax(-1, keepdim=True)
    columns = run * RUN + torch.arange(RUN, device=run.device)
    place = (weights.gather(1, columns) / token_arrival).argmax(-1, keepdim=True) + run * RUN
    return tile * TILE + place[:, 0], logits.gather(1, place)[:, 0]


def _empty(source: Source) -> DrawRecord:
    dtype = torch.float64 if dtype_of(source) == torch.float64 else torch.float32
    real = torch.empty(0, dtype=dtype, device=source.device)
    token = torch.empty(0, dtype=torch.int64, device=source.device)
    return DrawRecord(token, real, real, real, real, real, real)
