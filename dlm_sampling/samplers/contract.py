"""Check that an object is a sampler, that its `step` returns a canvas, and that its tokens exist.

The checks before and during a run read types, shapes and dtypes only, so that they never wait for
the GPU; the check of a finished run waits once.
"""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from dlm_sampling.types import Canvas, Sampler, Step
from dlm_sampling.types.rows import row_tensors

MEMBERS = tuple(name for name in vars(Sampler) if not name.startswith("_"))
"""The members of the `Sampler` protocol, in the order of its definition."""


def check_sampler(sampler: object) -> None:
    """Refuse an object that lacks a member of the `Sampler` protocol.

    Raises:
        TypeError: the object is a class, or it lacks members; the message names them.
    """
    if isinstance(sampler, type):
        raise TypeError(
            f"sampler is the class {sampler.__name__}: must be a name or an instance, such as "
            f"{sampler.__name__}()."
        )
    name, missing = type(sampler).__name__, [part for part in MEMBERS if not hasattr(sampler, part)]
    if "step" in missing:
        raise TypeError(
            f"sampler is a {name}, which has no `step`: must be a name or an instance, e.g. "
            "samplers.LLaDA(); to write your own, subclass SamplerBase (dlm_sampling.samplers)."
        )
    if missing:
        raise TypeError(
            f"sampler: {name} has no {', '.join(missing)}; subclass SamplerBase "
            "(dlm_sampling.samplers), which has a default for every member but `step`."
        )


@runtime_checkable
class Described(Protocol):
    """Define the members of a sampler with a name, which the list of samplers shows."""

    paper: str
    nfe: str


def check_described(sampler: object) -> None:
    """Refuse an object that is no sampler, or that lacks an attribute of the list of samplers.

    Raises:
        TypeError: see `check_sampler`; or `paper` or `nfe` is missing.
    """
    check_sampler(sampler)
    if not isinstance(sampler, Described):
        raise TypeError(
            f"sampler: {type(sampler).__name__} has no texts `paper` and `nfe`, which the list of "
            "samplers shows; subclass SamplerBase (dlm_sampling.samplers), which has both."
        )


def check_step(sampler: Sampler[Any], result: object, canvas: Canvas) -> None:
    """Refuse a return value of `sampler.step` that is not (state, Step).

    Args:
        sampler: the sampler, to be named in the message.
        result: the return value.
        canvas: the canvas that the step was given.

    Raises:
        TypeError: the value is no such pair, or a tensor of the Step has another dtype.
        ValueError: a tensor of the Step has another shape than the canvas, or another device; or a
            tensor of the state has another number of rows.
    """
    name = f"{type(sampler).__name__}.step"
    step = _step_of(result)
    if step is None:
        raise TypeError(
            f"{name} returned {_described(result)}: must return (state, Step), where state goes to "
            "the next step and Step is that of dlm_sampling.types; samplers.reveal(...) makes one."
        )
    try:
        state = list(row_tensors(cast("tuple[object, Step]", result)[0]))
    except TypeError as error:
        raise TypeError(f"{name} returned a state that cannot follow its rows: {error}") from error
    for part in state:
        if part.ndim == 0 or len(part) != len(canvas.tokens):
            raise ValueError(
                f"{name} returned a state with a tensor of shape {list(part.shape)}: the first "
                f"dimension of every tensor must be the {len(canvas.tokens)} batch rows."
            )
    _check_tensor(f"{name}: Step.tokens", step.tokens, canvas, torch.int64)
    _check_tensor(f"{name}: Step.unknown", step.unknown, canvas, torch.bool)
    _check_tensor(f"{name}: Step.logprob", step.logprob, canvas, None)


def check_written(
    sampler: Sampler[Any], tokens: Tensor, written: Tensor, vocab_size: int, first: int = 0
) -> None:
    """Refuse a finished canvas in which the sampler wrote an id outside of the vocabulary.

    Args:
        sampler: the sampler, to be named in the message.
        tokens: int64 [B, L], the finished canvases.
        written: bool [B, L], the positions that the sampler wrote.
        vocab_size: V; ids are 0 to V - 1.
        first: number of the first row in the whole batch.

    Raises:
        ValueError: an id is outside; the message names the first and its place.
    """
    wrong = ((tokens < 0) | (tokens >= vocab_size)) & written
    if bool(wrong.any()):
        row, column = (int(index) for index in wrong.nonzero()[0])
        raise ValueError(
            f"{type(sampler).__name__}.step wrote id {int(tokens[row, column])} in batch row "
            f"{first + row}, column {column}: must be 0 to {vocab_size - 1}, as the vocabulary has "
            f"{vocab_size} tokens."
        )


def _step_of(result: object) -> Step | None:
    """Return the Step of a pair (state, Step), or None."""
    pair = cast("tuple[object, ...]", result) if isinstance(result, tuple) else ()
    found = pair[1] if len(pair) == 2 else None
    return found if isinstance(found, Step) else None


def _check_tensor(what: str, value: object, canvas: Canvas, dtype: torch.dtype | None) -> None:
    """Refuse a value that is no tensor [B, L] of the dtype; None stands for any floating point."""
    wanted = "floating point" if dtype is None else str(dtype)
    shape, device = list(canvas.tokens.shape), canvas.tokens.device
    must = f"must be a {wanted} tensor of shape {shape} (batch rows, canvas positions)"
    if not isinstance(value, Tensor):
        raise TypeError(f"{what} is {_described(value)}: {must}.")
    fits = value.is_floating_point() if dtype is None else value.dtype == dtype
    if not fits:
        raise TypeError(f"{what} is {value.dtype}: {must}.")
    if list(value.shape) != shape:
        raise ValueError(f"{what} has shape {list(value.shape)}: {must}.")
    if value.device != device:
        raise ValueError(f"{what} is on {value.device}: {must} on {device}, as the canvas is.")


def _described(value: object) -> str:
    """Return the type of a value; of a plain tuple also the types of its parts."""
    if type(value) is tuple:
        parts = cast("tuple[object, ...]", value)
        return f"a tuple ({', '.join(type(part).__name__ for part in parts)})"
    return "None" if value is None else f"a {type(value).__name__}"
