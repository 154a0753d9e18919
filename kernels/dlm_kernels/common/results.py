"""Hold the parts that launchers share: the record of a draw, its temperatures, refused rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_kernels.common import status as row_status
from dlm_kernels.common.device_tables import Law, row_inverse_temperatures

_PROBLEMS = {
    row_status.NO_TOKEN.value: "no token that may be drawn",
    row_status.NOT_A_NUMBER.value: "NaN",
    row_status.INFINITE.value: "+inf",
}
NEVER, ALWAYS, BY_ROW = 0, 1, 2  # which rows take the argmax


class DrawRecord(NamedTuple):
    """Hold the fields of dlm_sampling.types.DrawRecord, [R]."""

    token: Tensor
    logprob: Tensor
    log_confidence: Tensor
    max_logprob: Tensor
    margin: Tensor
    entropy: Tensor
    log_normalizer: Tensor


def results(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate tokens [R], the other fields of DrawRecord [6, R], and a status [R]."""
    count = keys.shape[0]
    return (
        torch.empty(count, dtype=torch.int64, device=keys.device),
        torch.empty(6, count, dtype=torch.float32, device=keys.device),
        torch.empty(count, dtype=torch.int32, device=keys.device),
    )


def split(sub: int | Tensor) -> tuple[int, Tensor | None]:
    """Return the number of a draw as two arguments of an operator: on the host, on the device."""
    return (0, sub) if isinstance(sub, Tensor) else (sub, None)


class Temperatures(NamedTuple):
    """Hold the temperatures of a call."""

    inverses: Tensor | None  # of `tables.row_inverse_temperatures`, [3, R]
    numbers: tuple[float, float]  # of the statistics and of the draw, without inverses
    mode: int  # which rows take the argmax
    one_law: bool  # whether the statistics and the draw have one temperature


def temperatures_of(
    law: Law | Any, temperatures: Tensor | None, law_statistics: bool, check: bool
) -> Temperatures:
    """Return the temperatures of the draw and of its statistics.

    Args:
        law: its temperature is read unless the next one is given.
        temperatures: float [R], or None.
        law_statistics: whether the statistics are of the law that is drawn from.
        check: refuse impossible entries of `temperatures`; waits for the device.

    Raises:
        ValueError: with `check`, a temperature that is negative or not finite.
    """
    if temperatures is not None:
        if check:
            _refuse_temperatures(temperatures)
        table = row_inverse_temperatures(temperatures, None if law_statistics else 1.0)
        return Temperatures(table, (1.0, 1.0), BY_ROW, law_statistics)
    mode = NEVER if law.temperature else ALWAYS
    one_law = law_statistics or mode == ALWAYS or law.temperature == 1.0
    temperature = law.temperature if law_statistics else 1.0
    return Temperatures(None, (float(temperature), float(law.temperature)), mode, one_law)


def columns(table: Tensor | None, span: slice) -> Tensor | None:
    """Return the columns of some rows."""
    return None if table is None else table[:, span]


def refuse_lawless(status: Tensor) -> None:
    """Raise ValueError for the first row that is not there or has no law; waits for the device."""
    bad = status != row_status.FINE.value
    if not bool(bad.any()):
        return
    row = int(bad.to(torch.uint8).argmax())
    if int(status[row]) == row_status.NO_ROW.value:
        raise ValueError(f"rows[{row}] is no row of the logits: count them from 0.")
    raise ValueError(
        f"row {row} of the logits holds {_PROBLEMS[int(status[row])]}: check the model's output "
        "(a wider dtype helps against overflow), or suppress fewer ids."
    )


def _refuse_temperatures(temperatures: Tensor) -> None:
    bad = ~(temperatures.isfinite() & (temperatures >= 0))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"temperatures[{row}]={temperatures[row].item()}: must be finite and >= 0; 0 is "
            "argmax, 1 the model's law."
        )
