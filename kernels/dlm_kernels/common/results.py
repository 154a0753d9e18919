"""What the launchers share: the record of a draw, its temperatures, and rows that are refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_kernels.categorical import kernel as finish
from dlm_kernels.common.device_tables import Law, row_scales

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


def results(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for tokens [R], the other fields of Draw [6, R], and a status [R]."""
    count = keys.shape[0]
    return (
        torch.empty(count, dtype=torch.int64, device=keys.device),
        torch.empty(6, count, dtype=torch.float32, device=keys.device),
        torch.empty(count, dtype=torch.int32, device=keys.device),
    )


def finish_warps(rows: int) -> int:
    """One warp issues least, four wait least; where the two cross has not been measured."""
    return 4 if rows < 1024 else 1


def split(sub: int | Tensor) -> tuple[int, Tensor | None]:
    """The number of a draw as the two arguments of an operator: on the host, on the device."""
    return (0, sub) if isinstance(sub, Tensor) else (sub, None)


class Heats(NamedTuple):
    """The temperatures of a call."""

    scales: Tensor | None  # of `tables.row_scales`, [3, R]
    numbers: tuple[float, float]  # of the statistics and of the draw, without scales
    mode: int  # which rows take the argmax
    one_law: bool  # whether the statistics and the draw have one temperature


def heats(law: Law | Any, temperatures: Tensor | None, viewed: bool, check: bool) -> Heats:
    """Temperatures of the draw and of its statistics.

    Args:
        law: its temperature is read unless the next one is given.
        temperatures: float [R], or None.
        viewed: whether the statistics are of the law that is drawn from.
        check: refuse impossible entries of `temperatures`; waits for the device.

    Raises:
        ValueError: with `check`, a temperature that is negative or not finite.
    """
    if temperatures is not None:
        if check:
            _refuse_heat(temperatures)
        table = row_scales(temperatures, None if viewed else 1.0)
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


def _refuse_heat(temperatures: Tensor) -> None:
    bad = ~(temperatures.isfinite() & (temperatures >= 0))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"temperatures[{row}]={temperatures[row].item()}: must be finite and >= 0; 0 is "
            "argmax, 1 the model's law."
        )
