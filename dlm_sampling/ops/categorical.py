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
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import NoReturn

import torch
from torch import Tensor

from dlm_sampling.ops._dispatch import kernel
from dlm_sampling.ops.combined import Pair
from dlm_sampling.ops.host_sync import sync_allowed
from dlm_sampling.ops.laws import Reading, refuse_lawless, run_at
from dlm_sampling.ops.lazy_draw import LazyDraw, Part, Plan
from dlm_sampling.ops.philox import Stream, lane_exponentials
from dlm_sampling.ops.reads import EVERYTHING, Reads
from dlm_sampling.ops.reshape import Adjust, reshaped_logits
from dlm_sampling.ops.scratch import scratch_for
from dlm_sampling.ops.sources import Block, LogitRows, Source, blocks, shape_of
from dlm_sampling.ops.temperature import (
    LOG2E,
    MODEL_LAW,
    Temperature,
    TemperedLaw,
    inverse_temperature,
    positive,
)
from dlm_sampling.ops.tiles import take_tile
from dlm_sampling.ops.vocabulary import RUN, TILE, AllowedIds, allowed_ids
from dlm_sampling.types import Draw, DrawRecord, Statistics, TokenLaw

_MODEL = TokenLaw()
_NOTHING = nullcontext()


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

    On a CPU, DLM_FUSED_CPU=on reads the logits in a compiled pass, with the same numbers; see
    `ops.fused_cpu`.

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
    wanted = (shape_of(plain)[0] if rows is None else rows.shape[0],)
    if not keys.shape == positions.shape == steps.shape == wanted:
        _refuse_shape(wanted, keys=keys, positions=positions, steps=steps)
    if temperatures is not None and temperatures.shape != wanted:
        _refuse_shape(wanted, temperatures=temperatures)
    found = draw_lazily(
        source, lambda: (keys, positions, steps), law=law, sub=sub, statistics=statistics,
        rows=rows, check=check, temperatures=temperatures, adjust=adjust,
    )  # fmt: skip
    return found if isinstance(found, DrawRecord) else DrawRecord.of(found)


def draw_lazily(
    source: Source | Pair,
    noise: Callable[[], tuple[Tensor, Tensor, Tensor]],
    *,
    law: TokenLaw = _MODEL,
    sub: int | Tensor = 0,
    statistics: Statistics = "model",
    rows: Tensor | None = None,
    check: bool = True,
    temperatures: Tensor | None = None,
    adjust: Adjust | None = None,
    reads: Reads | None = None,
) -> Draw:
    """Draw as `draw` does, and make the statistics that nobody asked for when they are read.

    Until then the logits must stay as they are.

    Args:
        source: see `draw`.
        noise: returns keys, positions and steps; not called where every token is the argmax.
        law: see `draw`, as all that follow but `reads`.
        sub: index of the draw.
        statistics: "model" or "law".
        rows: rows of the source.
        check: refuse rows that define no law.
        temperatures: one per row drawn.
        adjust: changes the logits that tokens are drawn from.
        reads: says what is made at once, and notes what is read; None: everything.
    """
    plain = source if isinstance(source, Tensor | LogitRows) else source.first
    free = sync_allowed()
    vocab, check = shape_of(plain)[1], check and free
    tabled = adjust is not None or law.reshapes
    fused = None if tabled else kernel("draw", plain, dtype=plain.dtype, vocab=vocab)
    with torch.no_grad() if torch.is_grad_enabled() else _NOTHING:
        if fused is not None:
            keys, positions, steps = noise()
            record = fused(
                source, keys=keys, positions=positions, steps=steps, law=law, sub=sub,
                statistics=statistics, rows=rows, check=check, temperatures=temperatures,
            )  # fmt: skip
            return DrawRecord(*record)
        table = source if isinstance(source, Tensor | LogitRows) else source.rows()
        index = rows if rows is None or check else rows.clamp_min(0)
        found = blocks(table, index)
        plan = _latest.plan_of(law, vocab, plain.device, statistics, temperatures, check)
        again = isinstance(source, Tensor | Pair) or source.head is not None
        if reads is None or not again or not free:
            reads = Reads()
        if tabled:
            whole = [
                _draw_reshaped(block, plan, noise, law, adjust, statistics, sub, check)
                for block in found
            ]
            return DrawRecord(*map(torch.cat, zip(*whole, strict=True))) if whole else _empty(plain)
        places = None if plan.argmax is True else noise()
        parts = [_draw_block(block, plan, places, int(sub), check, reads) for block in found]
    if not parts:
        return _empty(plain)
    return LazyDraw(plan, parts, lambda: blocks(table, index), reads)


class _Latest(threading.local):
    """Keep the plan of a thread's latest draw on the CPU: the steps of a run share one."""

    law: TokenLaw | None = None
    where: tuple[int, torch.device, Statistics] | None = None
    plan: Plan | None = None

    def plan_of(
        self,
        law: TokenLaw,
        vocab: int,
        device: torch.device,
        statistics: Statistics,
        temperatures: Tensor | None,
        check: bool,
    ) -> Plan:
        """Return the plan of a draw."""
        where = (vocab, device, statistics)
        plan = self.plan if temperatures is None else None
        if plan is not None and law is self.law and where == self.where:
            return plan
        temperature = law.temperature if temperatures is None else temperatures
        drawn = TemperedLaw(law if law.filters else None, positive(temperature, check))
        plan = Plan(
            allowed=allowed_ids(vocab, tuple(law.suppressed), device),
            shown=drawn if statistics == "law" or drawn.is_model else MODEL_LAW,
            drawn=drawn,
            argmax=temperature == 0,
            scratch=scratch_for(vocab, device),
        )
        if temperatures is None and device.type == "cpu":
            self.law, self.where, self.plan = law, where, plan
        return plan


_latest = _Latest()


def _draw_block(
    block: Block,
    plan: Plan,
    places: tuple[Tensor, Tensor, Tensor] | None,
    sub: int,
    check: bool,
    reads: Reads,
) -> Part:
    """Draw the tokens of a block."""
    found = plan.read(block, reads.wanted)
    if check:
        refuse_lawless(found.peak, block.span.start)
    if places is None:
        assert found.best is not None
        return Part(found.best, None, found, block.dtype)
    clocks = _clocks(block, plan.allowed, places, sub)
    temperature = plan.cut(plan.drawn, block).temperature
    token, logit = race(block, plan.allowed, found, temperature, clocks)
    if isinstance(plan.argmax, Tensor):
        argmax = plan.argmax[block.span]
        assert found.best is not None
        token = torch.where(argmax, found.best, token)
        logit = torch.where(argmax, found.peak.double(), logit)
    return Part(token, logit, found, block.dtype)


def _draw_reshaped(
    block: Block,
    plan: Plan,
    noise: Callable[[], tuple[Tensor, Tensor, Tensor]],
    law: TokenLaw,
    adjust: Adjust | None,
    statistics: Statistics,
    sub: int | Tensor,
    check: bool,
) -> DrawRecord:
    """Draw from a table of what passes; the model's own statistics are read off the logits."""
    every = block.logits if block.rows is None else block.logits[block.rows]
    temperature, here = plan.cut(plan.drawn, block).temperature, block.span
    table = reshaped_logits(every.to(block.dtype), law, temperature, adjust, here.start, check)
    law_of_table = TemperedLaw(None, temperature)
    argmax = plan.argmax[here] if isinstance(plan.argmax, Tensor) else plan.argmax
    inner = plan._replace(shown=law_of_table, drawn=law_of_table, argmax=argmax)
    keys, positions, steps = (part[here] for part in noise())
    places = None if argmax is True else (keys, positions, steps)
    rows = Block.of(table, None)
    drawn = _draw_block(rows, inner, places, int(sub), check, Reads())
    found = DrawRecord.of(LazyDraw(inner, [drawn], lambda: [rows], Reads()))
    if statistics == "law":
        return found
    own = plan._replace(shown=MODEL_LAW, drawn=MODEL_LAW, argmax=False)
    logit = block.at(found.token).double()
    part = Part(found.token, logit, own.read(block, EVERYTHING), block.dtype)
    model = DrawRecord.of(LazyDraw(own, [part], lambda: [block], Reads()))
    return model._replace(logprob=found.logprob)


def _clocks(
    block: Block, allowed: AllowedIds, places: tuple[Tensor, Tensor, Tensor], sub: int
) -> Tensor:
    """Return the unit exponentials of the races of a block, float64 [b, lanes].

    Lanes 0 to 31 are for the tokens of a run, 32 to 63 for the runs of a tile, then the tiles.
    Of a vocabulary of one run only the V lanes of its ids are made.
    """
    runs, tiles = allowed.width // RUN, allowed.tiles
    keys, positions, steps = places
    return lane_exponentials(
        keys[block.span],
        positions[block.span],
        steps[block.span],
        stream=Stream.TOKEN,
        lanes=block.vocab if runs == 1 else RUN + runs + (tiles if tiles > 1 else 0),
        sub=sub,
    )


def race(
    block: Block, allowed: AllowedIds, found: Reading, temperature: Temperature, clocks: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw a tile, a run in it and a token in that; return the tokens and their logits, float64.

    Args:
        block: the logits.
        allowed: the ids that may be drawn.
        found: the statistics of the block.
        temperature: of the draw, > 0.
        clocks: unit exponentials, as `_clocks` makes them.
    """
    logits, tile, law = found.tile, None, found.drawn
    assert law is not None
    if logits is None:
        tile = (law.tiles / clocks[:, RUN + TILE // RUN :]).argmax(-1, keepdim=True)
        logits = take_tile(block, tile[:, 0], allowed)
    ids = torch.arange(allowed.width, device=logits.device)
    if law.boundary is not None:
        there = ids if tile is None else ids + tile * TILE
        logits.masked_fill_(~law.boundary.keeps(logits, there), -math.inf)
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
