"""Launches K1 and K2: the twin of dlm_sampling.ops.draw.

The host waits for the device only where `check=True` reads whether a row defines no law.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_kernels import finish
from dlm_kernels.finish import finish_kernel
from dlm_kernels.limits import obstacle, refuse
from dlm_kernels.passes import Logits, parts, run_passes, shape_of
from dlm_kernels.tables import Filters, Law, number, row_scales
from dlm_kernels.tables import scales as temperatures

_PROBLEMS = {
    finish.NO_TOKEN.value: "no token that may be drawn",
    finish.NOT_A_NUMBER.value: "NaN",
    finish.INFINITE.value: "+inf",
}
NEVER, ALWAYS, BY_ROW = 0, 1, 2  # which rows take the argmax


class Draw(NamedTuple):
    """The fields of dlm_sampling.types.Draw, [R]."""

    token: Tensor
    logprob: Tensor
    log_confidence: Tensor
    max_logprob: Tensor
    margin: Tensor
    entropy: Tensor
    log_normalizer: Tensor


_MODEL = Law()


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
    temperature: Tensor | None = None,
) -> Draw:
    """Draw one token per row, with the random bits and the meaning of dlm_sampling.ops.draw.

    Args:
        source: logits [N, V], float32, float16 or bfloat16 of any strides; or a
            dlm_sampling.ops.LogitRows; or a dlm_sampling.ops.Pair.
        keys: int64 [R].
        positions: int64 [R].
        steps: int64 [R].
        law: temperature, filters and suppressed ids.
        sub: index of the draw within the step; an int64 tensor [] on the device may change between
            the replays of a CUDA graph.
        statistics: "model" or "law".
        rows: int64 [R], or None for all rows in order.
        check: refuse rows that define no law; waits for the device.
        temperature: float [R] instead of the law's; 0 is argmax.

    Returns:
        A `Draw` of tensors [R]; the statistics are float32.

    Raises:
        ValueError: a suppressed id outside of the vocabulary; with `check`, a row that holds NaN or
            +inf or nothing but -inf, or a temperature that is negative or not finite.
        TypeError: the kernels cannot run: device, dtype, size of the vocabulary.
    """
    refuse(obstacle(keys.device, vocab=shape_of(source)[1]))
    viewed, filters = statistics == "law", Filters.of(law)
    heat = heats(law, temperature, viewed, check)
    filtered = filters if viewed or heat.mode != ALWAYS else Filters()
    suppressed = sorted(set(law.suppressed))
    found = [
        draw_rows(
            *part.logits[:3], part.rows, keys[part.span], positions[part.span], steps[part.span],
            *_split(sub), columns(heat.scales, part.span), *heat.numbers, suppressed, *filtered,
            part.logits.kind, heat.mode, heat.one_law, viewed and filtered.active,
        )
        for part in parts(source, rows, keys.shape[0])
    ] or [_results(keys)]  # fmt: skip
    token, record, status = (torch.cat(field, -1) for field in zip(*found, strict=True))
    if check:
        refuse_lawless(status)
    return Draw(token, *record.unbind(0))


@torch.library.custom_op(
    "dlm_kernels::draw_rows",
    mutates_args=(),
    schema="(Tensor logits, Tensor? second, Tensor? mix, Tensor? rows, Tensor keys, "
    "Tensor positions, Tensor steps, int sub, Tensor? sub_there, Tensor? scales, float viewed_at, "
    "float sampled_at, int[] suppressed, int top_k, "
    "float top_p, float min_p, bool include, int kind, int greedy, bool one_law, bool viewed) "
    "-> (Tensor, Tensor, Tensor)",
)
def draw_rows(
    logits: Tensor, second: Tensor | None, mix: Tensor | None, rows: Tensor | None, keys: Tensor,
    positions: Tensor, steps: Tensor, sub: int, sub_there: Tensor | None, scales: Tensor | None,
    viewed_at: float, sampled_at: float, suppressed: Sequence[int],
    top_k: int, top_p: float, min_p: float, include: bool, kind: int, greedy: int, one_law: bool,
    viewed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """K1 and K2 as one operator, which torch.compile leaves alone; nothing waits for the device.

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
        scales: float32 [3, R], see `tables.row_scales`; None for the next two.
        viewed_at: temperature of the statistics.
        sampled_at: temperature of the draw.
        suppressed: ids that are never drawn, ascending.
        top_k: 0 for no limit.
        top_p: 1 for all.
        min_p: 0 for all.
        include: whether the token that crosses top_p is kept.
        kind: see `tiles.mixed`.
        greedy: whether rows take the argmax: 0 none, 1 all, 2 as `scales` says.
        one_law: the statistics and the draw have one temperature.
        viewed: the statistics are of the filtered law.

    Returns:
        token int64 [R]; the other fields of `Draw` float32 [6, R]; status int32 [R], 0 where the
        row defines a law.
    """
    token, record, status = _results(keys)
    count = keys.shape[0]
    if count == 0:
        return token, record, status
    # Made here, so that torch.compile sees no Python number of a law but as an argument.
    scales = temperatures(viewed_at, sampled_at, keys.device) if scales is None else scales
    place = number(sub, keys.device) if sub_there is None else sub_there
    filters = Filters(top_k, top_p, min_p, include)
    left, edges, where, options = run_passes(
        Logits(logits, second, mix, kind), rows, count, scales, tuple(suppressed), filters,
        one_law=one_law, viewed=viewed,
    )  # fmt: skip
    noise = (part.contiguous() for part in (keys, positions, steps))
    with torch.cuda.device_of(logits):
        finish_kernel[(count,)](
            *left, *noise, place, token, record, status, *edges, count, *where, **options,
            GREEDY=greedy, FILTERS=filters.active, VIEWED=viewed,
            num_warps=_finish_warps(count), enable_fp_fusion=True,
        )  # fmt: skip
    return token, record, status


@draw_rows.register_fake
def _(
    logits: Tensor, second: Tensor | None, mix: Tensor | None, rows: Tensor | None, keys: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _results(keys)


def _results(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for tokens [R], the other fields of Draw [6, R], and a status [R]."""
    count = keys.shape[0]
    return (
        torch.empty(count, dtype=torch.int64, device=keys.device),
        torch.empty(6, count, dtype=torch.float32, device=keys.device),
        torch.empty(count, dtype=torch.int32, device=keys.device),
    )


def _finish_warps(rows: int) -> int:
    """One warp issues least, four wait least; where the two cross has not been measured."""
    return 4 if rows < 1024 else 1


def _split(sub: int | Tensor) -> tuple[int, Tensor | None]:
    return (0, sub) if isinstance(sub, Tensor) else (sub, None)


class Heats(NamedTuple):
    """The temperatures of a call."""

    scales: Tensor | None  # of `tables.row_scales`, [3, R]
    numbers: tuple[float, float]  # of the statistics and of the draw, without scales
    mode: int  # which rows take the argmax
    one_law: bool  # whether the statistics and the draw have one temperature


def heats(law: Law | Any, temperature: Tensor | None, viewed: bool, check: bool) -> Heats:
    """Temperatures of the draw and of its statistics.

    Args:
        law: its temperature is read unless the next one is given.
        temperature: float [R], or None.
        viewed: whether the statistics are of the law that is drawn from.
        check: refuse impossible entries of `temperature`; waits for the device.

    Raises:
        ValueError: with `check`, a temperature that is negative or not finite.
    """
    if temperature is not None:
        if check:
            _refuse_heat(temperature)
        table = row_scales(temperature, None if viewed else 1.0)
        return Heats(table, (1.0, 1.0), BY_ROW, viewed)
    mode = NEVER if law.temperature else ALWAYS
    one_law = viewed or mode == ALWAYS or law.temperature == 1.0
    heat = law.temperature if viewed else 1.0
    return Heats(None, (float(heat), float(law.temperature)), mode, one_law)


def columns(table: Tensor | None, span: slice) -> Tensor | None:
    """The columns of some rows."""
    return None if table is None else table[:, span]


def refuse_lawless(status: Tensor) -> None:
    """Raise ValueError for the first row that is not there or has no law; waits for the device."""
    bad = status != finish.FINE.value
    if not bool(bad.any()):
        return
    row = int(bad.to(torch.uint8).argmax())
    if int(status[row]) == finish.NO_ROW.value:
        raise ValueError(f"rows[{row}] is no row of the logits: count them from 0.")
    raise ValueError(
        f"row {row} of the logits holds {_PROBLEMS[int(status[row])]}: check the model's output "
        "(a wider dtype helps against overflow), or suppress fewer ids."
    )


def _refuse_heat(temperature: Tensor) -> None:
    bad = ~(temperature.isfinite() & (temperature >= 0))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"temperature[{row}]={temperature[row].item()}: must be finite and >= 0; 0 is argmax, "
            "1 the model's law."
        )
