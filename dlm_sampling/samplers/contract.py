"""Check that an object is a sampler, that its methods answer as they must, and its tokens exist.

The checks before and during a run read types, shapes and dtypes only, so that they never wait for
the GPU; the check of a finished run waits once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast, get_args, runtime_checkable

import torch
from torch import Tensor

from dlm_sampling.errors import named
from dlm_sampling.types import (
    Canvas,
    ClockUse,
    HeardDraw,
    NoiseKind,
    Pipeline,
    Process,
    Sampler,
    Schedule,
    Step,
    TokenLaw,
)
from dlm_sampling.types.rows import row_tensors

S = TypeVar("S")

MEMBERS = tuple(name for name in vars(Sampler) if not name.startswith("_"))
"""The members of the `Sampler` protocol, in the order of its definition."""

KINDS: tuple[str, ...] = get_args(NoiseKind)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_kinds(value: object) -> bool:
    found = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (None,)
    return all(kind in KINDS for kind in found)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_count_or_none(value: object) -> bool:
    return value is None or _is_count(value)


_SOME_KINDS = (_is_kinds, f"a tuple of kinds of noise, of {', '.join(map(repr, KINDS))}")
_CHOICES = f"one of {', '.join(map(repr, get_args(ClockUse)))}"
_FLAG = (_is_flag, "True or False")
_COUNT = (_is_count, "a whole number of at least 1")
_COUNT_OR_NONE = (_is_count_or_none, f"{_COUNT[1]}, or None")

TRAITS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "law": (lambda value: isinstance(value, TokenLaw), "a TokenLaw, such as TokenLaw()"),
    "runs_on": _SOME_KINDS,
    "recorded_on": _SOME_KINDS,
    "scored_on": _SOME_KINDS,
    "unscored": (lambda value: isinstance(value, str), "a string"),
    "looks_ahead": _FLAG,
    "constrainable": _FLAG,
    "schedule": (
        lambda value: isinstance(value, Schedule),
        "a Schedule, with the methods alpha, rate and time_of",
    ),
    "own_steps": _COUNT_OR_NONE,
    "pipeline": (
        lambda value: value is None or isinstance(value, Pipeline),
        "a Pipeline of dlm_sampling.types, or None",
    ),
    "passes_per_step": _COUNT,
    "clock_use": (lambda value: value in get_args(ClockUse), _CHOICES),
    "revises": _FLAG,
    "exact": _FLAG,
}
"""What each member that is no method must be: a test of its value, and the same in words."""

ANSWERS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "canvas_process": (
        lambda value: value is None or isinstance(value, Process),
        "a Process of dlm_sampling.processes, or None",
    ),
    "schedule_length": _COUNT_OR_NONE,
    "patience": _COUNT,
}
"""What the methods that are asked before a run must return."""


def check_sampler(sampler: object) -> None:
    """Refuse an object that lacks a member of the `Sampler` protocol, or has it of a wrong type.

    Raises:
        TypeError: the object is a class, or lacks members, or one is of another type; the message
            names them.
    """
    if isinstance(sampler, type):
        raise TypeError(
            f"sampler is the class {sampler.__name__}: must be a name or an instance, such as "
            f"{sampler.__name__}()."
        )
    name, missing = type(sampler).__name__, [part for part in MEMBERS if not hasattr(sampler, part)]
    if "step" in missing:
        raise TypeError(
            f"sampler is {named(sampler)}, which has no `step`: must be a name or an "
            "instance, e.g. samplers.LLaDA(); to write your own, subclass SamplerBase "
            "(dlm_sampling.samplers)."
        )
    if missing:
        raise TypeError(
            f"sampler: {name} has no {', '.join(missing)}; subclass SamplerBase "
            "(dlm_sampling.samplers), which has a default for every member but `step`."
        )
    for member in MEMBERS:
        value = getattr(sampler, member)
        fits, must = TRAITS.get(member, (callable, "a method"))
        if not fits(value):
            raise TypeError(f"sampler: {name}.{member} is {value!r}: must be {must}.")


def check_answer(sampler: Sampler[Any], method: str, answer: S) -> S:
    """Return what a method of `ANSWERS` returned, or refuse it.

    Raises:
        TypeError: it is of another type than the contract says.
    """
    fits, must = ANSWERS[method]
    if not fits(answer):
        name = f"{type(sampler).__name__}.{method}"
        raise TypeError(f"sampler: {name} returned {answer!r}: must return {must}.")
    return answer


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
    check_state(sampler, "step", cast("tuple[object, Step]", result)[0], canvas)
    _check_tensor(f"{name}: Step.tokens", step.tokens, canvas, torch.int64)
    _check_tensor(f"{name}: Step.unknown", step.unknown, canvas, torch.bool)
    _check_tensor(f"{name}: Step.logprob", step.logprob, canvas, None)


def check_state(sampler: Sampler[Any], method: str, state: object, canvas: Canvas) -> None:
    """Refuse a state that cannot follow the rows of its canvas.

    Args:
        sampler: the sampler, to be named in the message.
        method: the method that returned it, `init` or `step`.
        state: the state.
        canvas: the canvas that the method was given.

    Raises:
        TypeError: it holds something that is no part of a tree of row tensors, such as a list.
        ValueError: one of its tensors has another number of rows than the canvas.
    """
    name = f"{type(sampler).__name__}.{method}"
    try:
        parts = list(row_tensors(state))
    except TypeError as error:
        raise TypeError(f"{name} returned a state that cannot follow its rows: {error}") from error
    for part in parts:
        if part.ndim == 0 or len(part) != len(canvas.tokens):
            raise ValueError(
                f"{name} returned a state with a tensor of shape {list(part.shape)}: the first "
                f"dimension of every tensor must be the {len(canvas.tokens)} batch rows."
            )


def check_draw(sampler: Sampler[Any], step: Step, canvas: Canvas) -> None:
    """Refuse a `Step.draw` that listeners cannot read; it computes what they read.

    Args:
        sampler: the sampler, to be named in the message.
        step: the outcome of its step.
        canvas: the canvas that the step was given.

    Raises:
        TypeError: `draw` is neither a Draw nor None, or a table of it is of another dtype.
        ValueError: a table has another shape than the canvas, or another device.
    """
    if step.draw is None:
        return
    what = f"{type(sampler).__name__}.step: Step.draw"
    if not isinstance(step.draw, HeardDraw):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"{what} is {_described(step.draw)}, without log_confidence or entropy: must be a "
            "Draw, such as predict(...).draw(...) returns, or None."
        )
    _check_tensor(f"{what}.log_confidence", step.draw.log_confidence, canvas, None)
    _check_tensor(f"{what}.entropy", step.draw.entropy, canvas, None)


def check_finished(sampler: Sampler[Any], finished: object, rows: int) -> None:
    """Refuse an answer of `finished` that is neither None nor a bool tensor of the rows.

    Raises:
        TypeError: it is no bool tensor.
        ValueError: it has another shape than [rows].
    """
    name = f"sampler: {type(sampler).__name__}.finished returned"
    must = f"must return a bool tensor of shape [{rows}] (batch rows), or None"
    if not isinstance(finished, Tensor):
        raise TypeError(f"{name} {finished!r}: {must}.")
    if finished.dtype is not torch.bool:
        raise TypeError(f"{name} a tensor of {finished.dtype}: {must}.")
    if finished.shape != (rows,):
        raise ValueError(f"{name} a tensor of shape {list(finished.shape)}: {must}.")


def check_written(
    sampler: Sampler[Any],
    tokens: Tensor,
    written: Tensor,
    vocab_size: int,
    numbers: Sequence[int] | None = None,
) -> None:
    """Refuse a finished canvas in which the sampler wrote an id outside of the vocabulary.

    Args:
        sampler: the sampler, to be named in the message.
        tokens: int64 [B, L], the finished canvases.
        written: bool [B, L], the positions that the sampler wrote.
        vocab_size: V; ids are 0 to V - 1.
        numbers: the rows' numbers in the whole batch; None counts from 0.

    Raises:
        ValueError: an id is outside; the message names the first and its place.
    """
    wrong = ((tokens < 0) | (tokens >= vocab_size)) & written
    if bool(wrong.any()):
        row, column = (int(index) for index in wrong.nonzero()[0])
        number = numbers[row] if numbers else row
        raise ValueError(
            f"{type(sampler).__name__}.step wrote id {int(tokens[row, column])} in batch row "
            f"{number}, column {column}: must be 0 to {vocab_size - 1}, as the vocabulary has "
            f"{vocab_size} tokens."
        )


def check_logprobs(
    sampler: Sampler[Any], logprob: Tensor, numbers: Sequence[int] | None = None
) -> None:
    """Refuse log-probabilities of a finished canvas that are NaN.

    Args:
        sampler: the sampler, to be named in the message.
        logprob: [B, L].
        numbers: the rows' numbers in the whole batch; None counts from 0.

    Raises:
        ValueError: one is NaN; the message names the first and its place.
    """
    wrong = logprob.isnan()
    if bool(wrong.any()):
        row, column = (int(index) for index in wrong.nonzero()[0])
        number = numbers[row] if numbers else row
        raise ValueError(
            f"{type(sampler).__name__}.step returned NaN in Step.logprob for batch row "
            f"{number}, column {column}: must be the log-probability of what it wrote."
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
    return "None" if value is None else named(value)
