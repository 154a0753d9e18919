"""Launch K1 and K2, which draw tokens from logits: the twin of dlm_sampling.ops.draw.

The host waits for the device only where `check=True` reads whether a row defines no law.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlm_kernels.categorical.kernel import draw_kernel
from dlm_kernels.common.device_tables import Filters, Law, law_inverse_temperatures, number
from dlm_kernels.common.logit_pass import Logits, blocks, run_passes, shape_of
from dlm_kernels.common.results import (
    ALWAYS,
    DrawRecord,
    columns,
    refuse_lawless,
    results,
    split,
    temperatures_of,
)
from dlm_kernels.common.support import obstacle, refuse
from dlm_kernels.head.launch import head_draw, runs_fused

_MODEL = Law()
_TILES_OF_A_WARP = 256  # with more, K2 spills registers


def draw(
    source: Tensor | Any,
    *,
    keys: Tensor,
    positions: Tensor,
    steps: Tensor,
    law: Law | Any = _MODEL,
    sub: int | Tensor = 0,
    statistics: str = "model",
    rows: Tensor | None = None,
    check: bool = True,
    temperatures: Tensor | None = None,
) -> DrawRecord:
    """Draw one token per row, with the random bits and the meaning of dlm_sampling.ops.draw.

    Args:
        source: logits [N, V], float32, float16 or bfloat16 of any strides; or a
            dlm_sampling.ops.LogitRows, of which one with a `head` may run fused, see
            `dlm_kernels.head.launch.runs_fused`; or a dlm_sampling.ops.Pair.
        keys: int64 [R].
        positions: int64 [R].
        steps: int64 [R].
        law: temperature, filters and suppressed ids.
        sub: index of the draw within the step; an int64 tensor [] on the device may change between
            the replays of a CUDA graph.
        statistics: "model" or "law".
        rows: int64 [R], or None for all rows in order.
        check: refuse rows that define no law; waits for the device.
        temperatures: float [R] instead of the law's; 0 is argmax.

    Returns:
        A `DrawRecord` of tensors [R]; the statistics are float32.

    Raises:
        ValueError: a suppressed id outside of the vocabulary; with `check`, a row that holds NaN or
            +inf or nothing but -inf, or a temperature that is negative or not finite.
        TypeError: the kernels cannot run: device, dtype, size of the vocabulary.
    """
    refuse(obstacle(keys.device, vocab=shape_of(source)[1]))
    head = getattr(source, "head", None)
    if head is not None and runs_fused(head.hidden, head.weight, law, keys.shape[0]):
        return head_draw(
            head.hidden, head.weight, bias=head.bias, keys=keys, positions=positions, steps=steps,
            law=law, sub=sub, statistics=statistics, rows=rows, check=check,
            temperatures=temperatures,
        )  # fmt: skip
    law_statistics, filters = statistics == "law", Filters.of(law)
    tempered = temperatures_of(law, temperatures, law_statistics, check)
    filtered = filters if law_statistics or tempered.mode != ALWAYS else Filters()
    suppressed = sorted(set(law.suppressed))
    found = [
        draw_rows(
            *block.logits[:3], block.rows, keys[block.span], positions[block.span],
            steps[block.span], *split(sub), columns(tempered.inverses, block.span),
            *tempered.numbers, suppressed, *filtered, block.logits.kind, tempered.mode,
            tempered.one_law, law_statistics and filtered.active,
        )
        for block in blocks(source, rows, keys.shape[0])
    ] or [results(keys)]  # fmt: skip
    token, record, status = (torch.cat(field, -1) for field in zip(*found, strict=True))
    if check:
        refuse_lawless(status)
    return DrawRecord(token, *record.unbind(0))


@torch.library.custom_op(
    "dlm_kernels::draw_rows",
    mutates_args=(),
    schema="(Tensor logits, Tensor? second, Tensor? mix, Tensor? rows, Tensor keys, "
    "Tensor positions, Tensor steps, int sub, Tensor? sub_there, Tensor? inverses, "
    "float statistics_temperature, float draw_temperature, int[] suppressed, int top_k, "
    "float top_p, float min_p, bool include, int kind, int greedy, bool one_law, "
    "bool law_statistics) -> (Tensor, Tensor, Tensor)",
)
def draw_rows(
    logits: Tensor, second: Tensor | None, mix: Tensor | None, rows: Tensor | None, keys: Tensor,
    positions: Tensor, steps: Tensor, sub: int, sub_there: Tensor | None, inverses: Tensor | None,
    statistics_temperature: float, draw_temperature: float, suppressed: Sequence[int],
    top_k: int, top_p: float, min_p: float, include: bool, kind: int, greedy: int, one_law: bool,
    law_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Run K1 and K2 as one operator, which torch.compile leaves alone, without synchronising.

    Args:
        logits: [N, V].
        second: [N, V] with `kind` > 0: the two are read as one.
        mix: float32 [2, N] or [2, 1], how.
        rows: int64 [R], or None for all rows in order.
        keys: int64 [R].
        positions: int64 [R].
        steps: int64 [R].
        sub: index of the draw within the step.
        sub_there: int64 [] on the device, instead.
        inverses: float32 [3, R], of `row_inverse_temperatures`; None for the next two.
        statistics_temperature: temperature of the statistics.
        draw_temperature: temperature of the draw.
        suppressed: ids that are never drawn, ascending.
        top_k: 0 for no limit.
        top_p: 1 for all.
        min_p: 0 for all.
        include: whether the token that crosses top_p is kept.
        kind: see `tiles.combined`.
        greedy: whether rows take the argmax: 0 none, 1 all, 2 as `inverses` says.
        one_law: the statistics and the draw have one temperature.
        law_statistics: the statistics are of the filtered law.

    Returns:
        token int64 [R]; the other fields of `DrawRecord` float32 [6, R]; status int32 [R], 0 where
        the row defines a law.
    """
    token, record, status = results(keys)
    count = keys.shape[0]
    if count == 0:
        return token, record, status
    # Made here, so that torch.compile sees no Python number of a law but as an argument.
    inverses = (
        law_inverse_temperatures(statistics_temperature, draw_temperature, keys.device)
        if inverses is None
        else inverses
    )
    place = number(sub, keys.device) if sub_there is None else sub_there
    filters = Filters(top_k, top_p, min_p, include)
    tensors, boundary, where, options = run_passes(
        Logits(logits, second, mix, kind), rows, count, inverses, tuple(suppressed), filters,
        one_law=one_law, law_statistics=law_statistics,
    )  # fmt: skip
    noise = (part.contiguous() for part in (keys, positions, steps))
    with torch.cuda.device_of(logits):
        draw_kernel[(count,)](
            *tensors, *noise, place, token, record, status, *boundary, count, *where, **options,
            GREEDY=greedy, FILTERS=filters.active, LAW_STATISTICS=law_statistics,
            num_warps=draw_warps(count, options["TILES"], filters.active), enable_fp_fusion=True,
        )  # fmt: skip
    return token, record, status


def draw_warps(rows: int, tiles: int, filtered: bool) -> int:
    """Return the warps of K2: one issues least and has no barriers; four do more work at a time.

    Args:
        rows: programs.
        tiles: of the vocabulary, rounded up to a power of 2.
        filtered: whether tokens are dropped, which is work on every token of the tile drawn.
    """
    if tiles > _TILES_OF_A_WARP:
        return 4 if tiles <= 2 * _TILES_OF_A_WARP else 8
    return 4 if filtered and rows < 1024 else 1


@draw_rows.register_fake
def _(
    logits: Tensor, second: Tensor | None, mix: Tensor | None, rows: Tensor | None, keys: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return results(keys)
