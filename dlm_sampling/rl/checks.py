"""Check the arguments of losses: one shape, values that are numbers, weights in their range."""

from __future__ import annotations

import math

from torch import Tensor

from dlm_sampling.errors import check_real, named
from dlm_sampling.types.values import int_rows


def check_shapes(form: str, **given: object) -> None:
    """Refuse tensors that do not all have one shape, so that none is spread over another.

    Args:
        form: the shape in words, "[B]" or "[B, N]".
        given: tensors by their names.

    Raises:
        TypeError: one is no tensor.
        ValueError: the shapes differ, or have another number of dimensions.
    """
    shapes: list[tuple[int, ...]] = []
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is {named(value)}: must be a tensor {form}.")
        shapes.append(tuple(value.shape))
    if len(set(shapes)) > 1 or len(shapes[0]) != form.count(",") + 1:
        told = ", ".join(f"{name} {shape}" for name, shape in zip(given, shapes, strict=True))
        raise ValueError(f"{told}: must be {form}, of one shape.")


def check_numbers(*, infinite: bool, where: Tensor | None = None, **given: Tensor) -> None:
    """Refuse values that are no numbers; a loss of them is none, and trains every weight to none.

    Args:
        infinite: whether infinite values are allowed, as of log-probabilities.
        where: bool like the tensors, the values that count; None: all.
        given: tensors by their names.

    Raises:
        ValueError: one is NaN, or infinite; the message names the first.
    """
    for name, value in given.items():
        bad = value.detach().isnan() if infinite else ~value.detach().isfinite()
        if where is not None:
            bad = bad & where
        if bool(bad.any()):
            place = int_rows(bad.nonzero())[0]
            wanted = "a log-probability" if infinite else "a finite number"
            raise ValueError(f"{name}{place} is {float(value[tuple(place)])}: must be {wanted}.")


def check_weight(name: str, value: object, *, zero: bool) -> float:
    """Return a weight after checking that it is finite and not negative.

    Args:
        name: of the argument.
        value: the weight.
        zero: whether it may be 0.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    check_real(name, value)
    number = float(value)  # pyright: ignore[reportArgumentType]
    if not 0.0 <= number < math.inf or (number == 0.0 and not zero):
        raise ValueError(f"{name}={value}: must be {'at least' if zero else 'above'} 0 and finite.")
    return number
