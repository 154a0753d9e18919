"""Draw exact categorical samples by a race of tiles, with the statistics of the law, in one pass.

A tile is 1024 consecutive vocabulary ids, a run is 32 consecutive ids of a tile.  The pass over the
logits leaves the sum of exponentials s_t of every tile.  With independent unit exponentials E the
tile is argmax_t s_t / E_t; then, likewise, the run inside the tile and the token inside the run.
The first of exponential clocks of rates s_t to ring is t with probability s_t / sum(s), so the
factorisation is exact, and a row needs V / 1024 + 64 random numbers instead of V.  The widths are
part of the random stream.  A vocabulary of one run has one race, of its own V ids.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from dlm_sampling.ops._dispatch import kernel
from dlm_sampling.ops.combined import Pair
from dlm_sampling.ops.host_sync import sync_allowed
from dlm_sampling.ops.laws import Reading, refuse_lawless, run_at
from dlm_sampling.ops.philox import Stream, lane_exponentials
from dlm_sampling.ops.reshape import Adjust, reshaped_logits
from dlm_sampling.ops.scratch import Scratch, scratch_for
from dlm_sampling.ops.sources import Block, LogitRows, Source, blocks, shape_of
from dlm_sampling.ops.temperature import (
    LOG2E,
    MODEL_LAW,
    Temperature,
    TemperedLaw,
    inverse_temperature,
    positive,
)
from dlm_sampling.ops.tiles import read_tiles, take_tile
from dlm_sampling.ops.vocabulary import RUN, TILE, AllowedIds, allowed_ids
from dlm_sampling.types import DrawRecord, Statistics, TokenLaw

_MODEL = TokenLaw()


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
    adjust: Adjust | None = None,
) -> DrawRecord:
    """Draw one token per row and return it with the statistics of its law.

    Args:
        source: logits [N, V] of any float dtype and strides, a `LogitRows`, or a `Pair`.
        keys: int64 [R], the seed of the row that each draw belongs to.
        positions: int64 [R], relative to the row's own position 0.
        steps: int64 [R].
        law: temperature, filters and suppressed ids; its penalties read a canvas: see `adjust`.
        sub: index of the draw within the step; an int64 tensor [] stays on the device.
        statistics: "model": of softmax(logits) without the suppressed ids; "law": of the law that
            is sampled (at temperature 0, of the filtered law at temperature 1).
        rows: int64 [R], which rows of the source; None for all of them in order.  Without `check`
            an entry may be -1: the place is passed over, and its record means nothing.
        check: refuse rows that define no law.
        temperatures: float [R], one per row drawn, instead of the law's; 0 is argmax.
        adjust: changes the logits that tokens are drawn from, and not those of the statistics of
            the model; None for no change.

    Returns:
        A `DrawRecord` of tensors [R]; float64 for float64 logits, else float32.

    Raises:
        ValueError: shapes or ids do not fit; with `check`, a row holds NaN or +inf or nothing but
            -inf, or a temperature is negative or not finite.
    """
    plain = source if isinstance(source, Tensor | LogitRows) else source.first
    count, vocab = shape_of(plain)
    wanted = (count if rows is None else rows.shape[0],)
    if not keys.shape == positions.shape == steps.shape == wanted:
        _refuse_shape(wanted, keys=keys, positions=positions, steps=steps)
    if temperatures is not None and temperatures.shape != wanted:
        _refuse_shape(wanted, temperatures=temperatures)
    check = check and sync_allowed()
    tabled = adjust is not None or law.reshapes
    fused = None if tabled else kernel("draw", keys, dtype=plain.dtype, vocab=vocab)
    with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
        if fused is not None:
            record = fused(
                source, keys=keys, positions=positions, steps=steps, law=law, sub=sub,
                statistics=statistics, rows=rows, check=check, temperatures=temperatures,
            )  # fmt: skip
            return DrawRecord(*record)
        plan = _Plan(
            allowed=allowed_ids(vocab, tuple(law.suppressed), keys.device),
            filters=law if law.filters else None,
            law=law,
            adjust=adjust,
            temperature=law.temperature if temperatures is None else temperatures,
            statistics=statistics,
            keys=keys,
            positions=positions,
            steps=steps,
            sub=int(sub),
            scratch=scratch_for(vocab, keys.device),
            check=check,
        )
        table = source if isinstance(source, Tensor | LogitRows) else source.rows()
        index = rows if rows is None or check else rows.clamp_min(0)
        drawn = _draw_reshaped if tabled else _draw_block
        parts = [drawn(block, plan) for block in blocks(table, index)]
    if not parts:
        return _empty(plain)
    token, numbers = parts[0]
    if len(parts) > 1:
        token, numbers = (torch.cat(field, -1) for field in zip(*parts, strict=True))
    return DrawRecord(token, *numbers.unbind(0))


class _Plan(NamedTuple):
    """Hold the values that all blocks of a call share."""

    allowed: AllowedIds
    filters: TokenLaw | None
    law: TokenLaw
    adjust: Adjust | None
    temperature: Temperature
    statistics: Statistics
    keys: Tensor  # int64 [R]; with the next three: which random numbers are used
    positions: Tensor
    steps: Tensor
    sub: int
    scratch: Scratch
    check: bool

    def clocks(self, block: Block) -> Tensor:
        """Return the unit exponentials of the races of a block, float64 [b, lanes].

        Lanes 0 to 31 are for the tokens of a run, 32 to 63 for the runs of a tile, then the tiles.
        Of a vocabulary of one run only the V lanes of its ids are made.
        """
        runs, tiles = self.allowed.width // RUN, self.allowed.tiles
        return lane_exponentials(
            self.keys[block.span],
            self.positions[block.span],
            self.steps[block.span],
            stream=Stream.TOKEN,
            lanes=block.vocab if runs == 1 else RUN + runs + (tiles if tiles > 1 else 0),
            sub=self.sub,
        )


def _draw_block(block: Block, plan: _Plan) -> tuple[Tensor, Tensor]:
    """Return the tokens of a block, int64 [b], and the other fields of `DrawRecord`, [6, b]."""
    temperature = plan.temperature
    if isinstance(temperature, Tensor):
        temperature = temperature[block.span]
    argmax = temperature == 0  # of all rows, of none, or bool [b]
    drawn = TemperedLaw(plan.filters, positive(temperature, plan.check))
    shown = drawn if plan.statistics == "law" or drawn.is_model else MODEL_LAW
    found = read_tiles(block, plan.allowed, shown, shown if argmax is True else drawn, plan.scratch)
    if plan.check:
        refuse_lawless(found.peak, block.span.start)
    peak = found.peak.double()
    token, logit = found.best, peak
    if argmax is not True:
        token, logit = race(block, plan.allowed, found, drawn.temperature, plan.clocks(block))
    if isinstance(argmax, Tensor):
        token, logit = torch.where(argmax, found.best, token), torch.where(argmax, peak, logit)
    if argmax is True:
        logprob = torch.zeros_like(peak)
    else:
        logprob = (logit - peak) / drawn.temperature - found.drawn.total.log()
    if isinstance(argmax, Tensor):
        logprob = logprob.masked_fill(argmax, 0.0)
    numbers = (logprob.clamp(max=0.0), *_statistics(found, shown.temperature, logit))
    return token, torch.stack(numbers).to(block.dtype)


def _statistics(found: Reading, temperature: Temperature, logit: Tensor) -> tuple[Tensor, ...]:
    """Return the last five fields of `DrawRecord` of a reading; logit [b] is that of the token."""
    peak, log_total = found.peak.double(), found.shown.total.log()
    runner_up = (found.second.double() - peak) / temperature
    if found.shown.boundary is not None:
        runner_up = runner_up.masked_fill(found.shown.boundary.size < 2, -math.inf)
    assert found.shown.entropy is not None
    return (
        ((logit - peak) / temperature - log_total).clamp(max=0.0),
        -log_total,
        -torch.expm1(runner_up) / found.shown.total,
        found.shown.entropy,
        peak / temperature + log_total,
    )


def _draw_reshaped(block: Block, plan: _Plan) -> tuple[Tensor, Tensor]:
    """Draw from a table of what passes; the model's own statistics are read off the logits."""
    every = block.logits if block.rows is None else block.logits[block.rows]
    logits, temperature = every.to(block.dtype), plan.temperature
    if isinstance(temperature, Tensor):
        temperature = temperature[block.span]
    table = reshaped_logits(
        logits, plan.law, positive(temperature, plan.check), plan.adjust, block.span.start,
        plan.check,
    )  # fmt: skip
    law = plan._replace(filters=None, statistics="law")
    token, numbers = _draw_block(Block.of(table, None, block.span.start), law)
    if plan.statistics == "model":
        found = read_tiles(block, plan.allowed, MODEL_LAW, MODEL_LAW, plan.scratch)
        own = block.at(token).double()
        numbers[1:] = torch.stack(_statistics(found, 1.0, own)).to(block.dtype)
    return token, numbers


def race(
    block: Block, allowed: AllowedIds, found: Reading, temperature: Temperature, clocks: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw a tile, a run in it and a token in that; return the tokens and their logits, float64.

    Args:
        block: the logits.
        allowed: the ids that may be drawn.
        found: the statistics of the block.
        temperature: of the draw, > 0.
        clocks: unit exponentials, as `_Plan.clocks` makes them.
    """
    logits, tile = found.tile, None
    if logits is None:
        tile = (found.drawn.tiles / clocks[:, RUN + TILE // RUN :]).argmax(-1, keepdim=True)
        logits = take_tile(block, tile[:, 0], allowed)
    ids = torch.arange(allowed.width, device=logits.device)
    if found.drawn.boundary is not None:
        there = ids if tile is None else ids + tile * TILE
        logits.masked_fill_(~found.drawn.boundary.keeps(logits, there), -math.inf)
    # Relative to the tile's own peak no weight overflows, and the largest does not vanish.
    inverse = inverse_temperature(temperature, logits.dtype, times=LOG2E)
    weights = (logits - logits.amax(-1, keepdim=True)).mul_(inverse).exp2_()
    if allowed.width == RUN:
        place = (weights[:, : block.vocab] / clocks).argmax(-1, keepdim=True)
        return place[:, 0], logits.gather(1, place)[:, 0].double()
    runs = weights.view(weights.shape[0], -1, RUN)
    run = (runs.sum(-1) / clocks[:, RUN : RUN + runs.shape[1]]).argmax(-1, keepdim=True)
    lane = (run_at(runs, run) / clocks[:, :RUN]).argmax(-1, keepdim=True)
    place = run * RUN + lane
    token = place if tile is None else place + tile * TILE
    return token[:, 0], logits.gather(1, place)[:, 0].double()


def _refuse_shape(wanted: tuple[int, ...], **values: Tensor) -> NoReturn:
    name, value = next((n, v) for n, v in values.items() if v.shape != wanted)
    shape = tuple(value.shape)
    raise ValueError(f"{name} has shape {shape}: must be ({wanted[0]},), one per row drawn.")


def _empty(source: Source) -> DrawRecord:
    dtype = torch.float64 if source.dtype == torch.float64 else torch.float32
    real = torch.empty(0, dtype=dtype, device=source.device)
    token = torch.empty(0, dtype=torch.int64, device=source.device)
    return DrawRecord(token, real, real, real, real, real, real)
