"""Launch the fused output head, which draws tokens from hidden states without logits.

Three kernels of dlm_kernels.head.kernel: the exponentials of every row, H1 over the weight, and
the race.
What is written is 36 bytes per row and part, a part being 128 to 1024 ids, instead of 2 per logit.

The matrix product is summed in float32.  By default the logits are then rounded to the dtype of the
hidden states, as an output head in that dtype leaves them, so that the law is the one of
dlm_sampling.ops.head_rows; a product summed in another order may still round a logit to the other
side.  `rounded=False` keeps the float32 logits, which is closer to the model and costs less.

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from dlm_kernels.common.device_tables import (
    Filters,
    Law,
    law_inverse_temperatures,
    number,
    suppressed_table,
)
from dlm_kernels.common.results import (
    DrawRecord,
    columns,
    refuse_lawless,
    results,
    split,
    temperatures_of,
)
from dlm_kernels.common.support import FASTER_BELOW, obstacle, refuse
from dlm_kernels.common.tiles import TILE
from dlm_kernels.head.kernel import FIELDS, IDS, clock_kernel, head_kernel, race_kernel

_CHOICES = ("auto", "on", "off")
_DTYPES = (torch.float16, torch.bfloat16)
_MODEL = Law()
_ROWS = 8192  # at a time; so many rows bound the tables
_REGISTERS = 255  # left alone, the assembler spills to fit more programs on a processor
_GROUP = 16  # blocks of rows that read a part of the weight together
_PROGRAMS = 1024  # enough to fill a GPU
_LARGE = 1 << 18


class Shape(NamedTuple):
    """Hold the block sizes of the matrix product.

    All give the same tokens, but for near-ties by rounding.
    """

    rows: int  # of a block
    ids: int  # of a block
    blocks: int  # of ids per program; ids * blocks divides 1024
    depth: int  # of a step of the sum
    warps: int
    stages: int


def shape_for(capability: int, rows: int, vocab: int) -> Shape:
    """Return blocks that compile without spills; which are fastest has not been measured.

    Args:
        capability: 90 for compute capability 9.0; 0 for the interpreter, which takes as long for a
            number as for a block.
        rows: of hidden states.
        vocab: rows of the weight.
    """
    if capability == 0:
        return Shape(16, 32, 32, 64, 4, 1)
    if capability < 90:  # the warps of wider blocks would share rows
        cut = Shape(128, 32, 1, 64, 4, 3)
    elif capability < 100:
        cut = Shape(64, 128, 1, 64, 4, 4) if rows <= 64 else Shape(128, 128, 1, 64, 8, 3)
    else:
        cut = Shape(128, 64, 1, 64, 4, 3)
    programs = triton.cdiv(rows, cut.rows) * triton.cdiv(vocab, TILE.value)
    # Few rows need many programs; many rows, or a large vocabulary, small tables.
    whole = programs >= _PROGRAMS or vocab > _LARGE
    return cut._replace(blocks=TILE.value // cut.ids if whole else max(128 // cut.ids, 1))


def head_draw(
    hidden: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    keys: Tensor,
    positions: Tensor,
    steps: Tensor,
    law: Law | Any = _MODEL,
    sub: int | Tensor = 0,
    statistics: str = "model",
    rows: Tensor | None = None,
    check: bool = True,
    temperatures: Tensor | None = None,
    rounded: bool = True,
    shape: Shape | None = None,
) -> DrawRecord:
    """Draw one token per row of hidden weight^T + bias, as dlm_sampling.ops.draw does of logits.

    Args:
        hidden: [N, d], float16 or bfloat16.
        weight: [V, d], of the same dtype.
        bias: [V], of the same dtype, or None.
        keys: int64 [R].
        positions: int64 [R].
        steps: int64 [R].
        law: temperature and suppressed ids; no filters.
        sub: index of the draw within the step; an int64 tensor [] on the device may change between
            the replays of a CUDA graph.
        statistics: "model" or "law".
        rows: int64 [R], which rows of `hidden`, or None for all in order; without `check`, -1 for
            none, which is passed over.
        check: refuse rows that define no law; waits for the device.
        temperatures: float [R] instead of the law's; 0 is argmax.
        rounded: round the logits to the dtype of `hidden`, as a head in that dtype does.
        shape: the tiles of the product; None for those that are known to compile well.

    Returns:
        A `DrawRecord` of tensors [R]; the statistics are float32.

    Raises:
        ValueError: shapes do not fit, a law with filters, a suppressed id outside of the
            vocabulary; with `check`, a row that holds NaN or +inf or nothing but -inf, or a
            temperature that is negative or not finite.
        TypeError: the kernels cannot run: device, dtype, size of the vocabulary.
    """
    _refuse_misfits(hidden, weight, bias, keys.shape[0] if rows is None else hidden.shape[0])
    if shape is not None and (shape.ids % 32 or TILE.value % (shape.ids * shape.blocks)):
        raise ValueError(
            f"shape={shape}: ids must divide by 32, and ids * blocks must divide 1024."
        )
    refuse(head_obstacle(hidden, weight))
    if Filters.of(law).active:
        raise ValueError(
            f"law={law}: the fused head has no top_k, top_p or min_p; draw from "
            "dlm_sampling.ops.head_rows, or leave the filters out."
        )
    tempered = temperatures_of(law, temperatures, statistics == "law", check)
    suppressed = sorted(set(law.suppressed))
    found = [
        head_rows(
            hidden if rows is not None else hidden[span], weight, bias,
            None if rows is None else rows[span], keys[span], positions[span], steps[span],
            *split(sub), columns(tempered.inverses, span), *tempered.numbers, suppressed,
            tempered.mode, tempered.one_law, rounded, list(shape or ()),
        )
        for span in (slice(i, i + _ROWS) for i in range(0, keys.shape[0], _ROWS))
    ] or [results(keys)]  # fmt: skip
    token, record, status = (torch.cat(field, -1) for field in zip(*found, strict=True))
    if check:
        refuse_lawless(status)
    return DrawRecord(token, *record.unbind(0))


def runs_fused(hidden: Tensor, weight: Tensor, law: Law | Any, count: int) -> bool:
    """Return whether a draw from an output head runs fused; the environment decides.

    DLM_FUSED_HEAD "auto" (default) says so where it was measured faster, "on" wherever it can run,
    "off" nowhere.

    Raises:
        ValueError: DLM_FUSED_HEAD has another value.
    """
    choice = os.environ.get("DLM_FUSED_HEAD", "auto")
    if choice not in _CHOICES:
        raise ValueError(f"DLM_FUSED_HEAD={choice!r}: must be one of {', '.join(_CHOICES)}.")
    fast = choice == "on" or count <= FASTER_BELOW.get(weight.shape[1], 0)
    able = not Filters.of(law).active and head_obstacle(hidden, weight) is None
    return choice != "off" and fast and able


def head_obstacle(hidden: Tensor, weight: Tensor) -> str | None:
    """Return why the fused head cannot run, in words, or None if it can."""
    if hidden.dtype not in _DTYPES:
        return f"the hidden states are {hidden.dtype}, the fused head reads float16 and bfloat16"
    return obstacle(hidden.device, hidden.dtype, vocab=weight.shape[0])


@torch.library.custom_op(
    "dlm_kernels::head_rows",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, Tensor? rows, Tensor keys, "
    "Tensor positions, Tensor steps, int sub, Tensor? sub_there, Tensor? inverses, "
    "float statistics_temperature, float draw_temperature, int[] suppressed, int greedy, "
    "bool one_law, bool rounded, int[] shape) "
    "-> (Tensor, Tensor, Tensor)",
)
def head_rows(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, keys: Tensor,
    positions: Tensor, steps: Tensor, sub: int, sub_there: Tensor | None, inverses: Tensor | None,
    statistics_temperature: float, draw_temperature: float, suppressed: Sequence[int], greedy: int,
    one_law: bool, rounded: bool, shape: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Run the kernels as one operator, which torch.compile leaves alone, without synchronising.

    Arguments and results are those of `dlm_kernels.categorical.launch.draw_rows`, but for hidden
    [N, d], weight [V, d] and bias [V] in place of logits, whether they are `rounded`, and a
    `Shape`, or nothing for the usual one.
    """
    token, record, status = results(keys)
    count, (vocab, width), device = keys.shape[0], weight.shape, hidden.device
    if count == 0:
        return token, record, status
    # Made here, so that torch.compile sees no Python number of a law but as an argument.
    inverses = (
        law_inverse_temperatures(statistics_temperature, draw_temperature, device)
        if inverses is None
        else inverses
    )
    place = number(sub, device) if sub_there is None else sub_there
    cut = Shape(*shape) if shape else shape_for(_capability(device), count, vocab)
    part = cut.ids * cut.blocks
    parts = triton.cdiv(vocab, part)
    hidden, weight = (x if x.stride(1) == 1 else x.contiguous() for x in (hidden, weight))
    rows = None if rows is None else rows.contiguous()
    bias = None if bias is None else bias.contiguous()
    noise = [x.contiguous() for x in (keys, positions, steps)]
    rates = torch.empty(count, 64, dtype=torch.float32, device=device)
    table = torch.empty(count, FIELDS.value, parts, dtype=torch.float32, device=device)
    ids = torch.empty(count, IDS.value, parts, dtype=torch.int32, device=device)
    steps_over = (inverses.stride(1) if inverses.shape[1] > 1 else 0, inverses.stride(0))
    law = {"TWO": not one_law, "GREEDY": greedy, "HAS_ROWS": rows is not None}
    with torch.cuda.device_of(hidden):
        clock_kernel[(count,)](*noise, place, rates, num_warps=1, enable_fp_fusion=True)
        head_kernel[(triton.cdiv(count, cut.rows) * parts,)](
            hidden, weight, bias, rows, rates, table, ids,
            *suppressed_table(tuple(suppressed), vocab, device), inverses,
            count, vocab, width, parts, hidden.shape[0], hidden.stride(0), weight.stride(0),
            *steps_over, HAS_BIAS=bias is not None, ROUND=rounded, EVEN=width % cut.depth == 0,
            BM=cut.rows, BN=cut.ids, BK=cut.depth, BLOCKS=cut.blocks, GROUP=_GROUP,
            num_warps=cut.warps, num_stages=cut.stages, enable_fp_fusion=True, maxnreg=_REGISTERS,
            **law,
        )  # fmt: skip
        race_kernel[(count,)](
            rows, table, ids, inverses, *noise, place, token, record, status,
            count, vocab, parts, hidden.shape[0], *steps_over,
            TILES=triton.next_power_of_2(triton.cdiv(vocab, TILE.value)), SPLIT=TILE.value // part,
            num_warps=8 if parts > 512 else 4 if count < 1024 else 1, enable_fp_fusion=True,
            maxnreg=_REGISTERS, **law,
        )  # fmt: skip
    return token, record, status


@head_rows.register_fake
def _(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, keys: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return results(keys)


def _capability(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _refuse_misfits(hidden: Tensor, weight: Tensor, bias: Tensor | None, count: int) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        shapes = f"{tuple(hidden.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"hidden and weight have shapes {shapes}: must be [N, d] and [V, d].")
    if hidden.shape[0] != count:
        raise ValueError(
            f"hidden has {hidden.shape[0]} rows: must be {count}, one per key; or rows."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        shape = tuple(bias.shape)
        raise ValueError(f"bias has shape {shape}: must be ({weight.shape[0]},), one per token.")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.dtype != hidden.dtype:
            raise ValueError(f"{name} is {value.dtype}: must be {hidden.dtype} as hidden is.")
