"""Make error messages that name the value given, the values allowed and a remedy.

A wrong name is answered with the closest right one: first a table of what other libraries call the
same thing, then `difflib`.  Spelling alone would answer `gen_length` with `block_length`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import cache
from operator import index
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    SupportsFloat,
    SupportsIndex,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)


class SamplingWarning(UserWarning):
    """Say that a run gives something other than its caller may expect; the command shows it."""


class UsageError(ValueError):
    """Signal wrong usage of the command, as opposed to a failure; exit code 2."""


class NoLawError(ValueError):
    """Signal logits that define no law: the model failed, not its caller; exit code 1."""


class FailedRowsError(RuntimeError):
    """Signal that rows of a job failed; exit code 3."""


class JobMismatchError(ValueError):
    """Signal that an output was begun with other options; exit code 4."""


class DeviceLostError(RuntimeError):
    """Signal that the device answers no more and the process must end; exit code 70."""


ARGUMENT_ALIASES: Mapping[str, tuple[str, str]] = {
    "alg": ("sampler", "Dream's alg"),
    "alg_temp": ("sampler_options", "Dream's alg_temp"),
    "enable_thinking": ("chat_template_kwargs", "the chat template's enable_thinking"),
    "eps": ("sampler_options", "Dream's eps"),
    "eta": ("sampler_options", "ReMDM's eta"),
    "block_size": ("block_length", "BD3-LM's block_size"),
    "cfg": ("guidance_scale", "cfg"),
    "cfg_scale": ("guidance_scale", "LLaDA's cfg_scale"),
    "diffusion_steps": ("steps", "diffusion_steps"),
    "do_sample": ("temperature", "transformers' do_sample (0 is argmax)"),
    "regex": ("constraint", "An expression"),
    "json_schema": ("constraint", "A schema, as Constraint(json_schema=...),"),
    "grammar": ("constraint", "A grammar, as Constraint(grammar=...),"),
    "gen_length": ("max_new_tokens", "LLaDA's gen_length"),
    "generator": ("seed", "diffusers' generator"),
    "mask_id": ("mask_token_id", "LLaDA's mask_id"),
    "mask_index": ("mask_token_id", "MDLM's mask_index"),
    "max_gen_toks": ("max_new_tokens", "lm_eval's max_gen_toks"),
    "max_length": ("max_new_tokens", "transformers' max_length (prompt included)"),
    "max_tokens": ("max_new_tokens", "vLLM's max_tokens"),
    "n": ("num_return_sequences", "vLLM's n"),
    "num_diffusion_steps": ("steps", "num_diffusion_steps"),
    "num_inference_steps": ("steps", "diffusers' num_inference_steps"),
    "num_samples": ("num_return_sequences", "num_samples"),
    "num_steps": ("steps", "num_steps"),
    "nucleus_p": ("top_p", "MDLM's nucleus_p"),
    "output_history": ("return_trajectory", "Dream's output_history"),
    "predictor": ("sampler", "MDLM's predictor"),
    "prompt": ("prompts", "prompt"),
    "random_seed": ("seed", "random_seed"),
    "remasking": ("sampler", "LLaDA's remasking"),
    "sampling_steps": ("steps", "MDLM's sampling_steps"),
    "stop_strings": ("stop", "transformers' stop_strings"),
    "temp": ("temperature", "temp"),
    "until": ("stop", "lm_eval's until"),
}
"""What other libraries call an argument: foreign name -> (the name here, whose name it is)."""

SAMPLER_ALIASES: Mapping[str, tuple[str, str]] = {
    "confidence": ("llada", "confidence order"),
    "ddpd": ("planned-greedy", "DDPD's released loop"),
    "ddpm": ("ancestral", "MDLM's ddpm"),
    "ddpm_cache": ("ancestral", "MDLM's ddpm_cache"),
    "dream": ("dream-maskgit-plus", "Dream's maskgit_plus"),
    "entropy": ("dream-entropy", "Dream's entropy"),
    "fhs": ("first-hitting", "fhs"),
    "low_confidence": ("llada", "LLaDA's low_confidence"),
    "maskgit_plus": ("dream-maskgit-plus", "Dream's maskgit_plus"),
    "mdlm": ("ancestral", "MDLM's sampler"),
    "origin": ("dream-origin", "Dream's origin"),
    "random": ("llada-random", "LLaDA's random"),
    "remdm": ("remdm-cap", "The paper's ReMDM with its cap"),
    "topk_margin": ("dream-topk-margin", "Dream's topk_margin"),
}
"""What other libraries call a sampler: foreign name -> (the name here, whose name it is)."""


def named(value: object) -> str:
    """Return the name of a value's class with its indefinite article, such as "an int"."""
    return _with_article(type(value).__name__)


def _with_article(word: str) -> str:
    return f"{'an' if word[0].lower() in 'aeio' else 'a'} {word}"


def closest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that is spelled most like `name`, or None if nothing comes near.

    Args:
        name: the name that was given.
        valid: the names that exist.

    Returns:
        One of `valid`, compared without regard to case, "-" and "_"; or None.
    """
    by_fold = {fold(candidate): candidate for candidate in valid}
    found = get_close_matches(fold(name), list(by_fold), n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


def fold(name: str) -> str:
    """Return `name` as it is compared: lower case, "-" and spaces as "_"."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def suggestion(
    name: str, valid: Iterable[str], aliases: Mapping[str, tuple[str, str]] | None = None
) -> str:
    """Return the sentence that points from a wrong name to the right one, or "" if there is none.

    Args:
        name: the name that was given.
        valid: the names that exist.
        aliases: foreign name -> (the name here, whose name it is); asked before the spelling is,
            and only where the name here is one of `valid`.

    Returns:
        "LLaDA's gen_length is max_new_tokens here.", "Did you mean 'steps'?" or "".
    """
    names = list(valid)
    by_fold = {fold(key): value for key, value in (aliases or {}).items()}
    ours, theirs = by_fold.get(fold(name), ("", ""))
    if ours in names:
        return f"{theirs} is {ours} here."
    near = closest(name, names)
    return f"Did you mean '{near}'?" if near is not None else ""


def unknown_argument(name: str, valid: Iterable[str]) -> TypeError:
    """Return the error for a keyword argument that does not exist.

    Args:
        name: the argument that was given.
        valid: the arguments that exist.
    """
    names = sorted(valid)
    hint = suggestion(name, names, ARGUMENT_ALIASES) or f"Valid: {', '.join(names)}."
    return TypeError(f"Unknown argument '{name}'. {hint}")


def unknown_sampler(name: str, valid: Iterable[str]) -> ValueError:
    """Return the error for a sampler that is not registered.

    Args:
        name: the sampler that was asked for.
        valid: the registered names.
    """
    hint = suggestion(name, valid, SAMPLER_ALIASES)
    listing = "List all: dlm-sampling samplers"
    return ValueError(" ".join(filter(None, [f"Unknown sampler '{name}'.", hint, listing])))


def unknown_choice(
    argument: str, value: object, valid: Iterable[object], remedy: str = ""
) -> ValueError:
    """Return the error for a value that is none of the allowed ones.

    Args:
        argument: the argument's name.
        value: the value that was given.
        valid: the allowed values.
        remedy: one more sentence; by default the allowed value spelled most like `value`.
    """
    names = [str(choice) for choice in valid]
    hint = remedy or suggestion(str(value), names)
    text = f"{argument}={value!r}: must be one of {', '.join(names)}."
    return ValueError(f"{text} {hint}".rstrip())


def check_arguments(given: Iterable[str], valid: Iterable[str]) -> None:
    """Refuse the first argument of `given` that is not in `valid`, naming the closest valid one.

    Args:
        given: names of the arguments that were passed, for example the keys of `**kwargs`.
        valid: names of the arguments that exist.

    Raises:
        TypeError: an argument does not exist.
    """
    names = set(valid)
    for name in given:
        if name not in names:
            raise unknown_argument(name, names)


_MOST = 2**31 - 1  # of a whole number: counts of steps, positions and ids


def check_whole(argument: str, value: object, *, optional: bool = False) -> None:
    """Refuse a value that is no whole number, or larger than any count of steps, positions or ids.

    Args:
        argument: the argument's name.
        value: the value that was given.
        optional: whether None is allowed too.

    Raises:
        TypeError: the value is of another type; 2.0 is a float, True is no number.
        ValueError: the value is beyond 32 bits.
    """
    if optional and value is None:
        return
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        try:
            number = index(value)
        except TypeError:  # a tensor of floats has the method, and refuses
            pass
        else:
            if not -_MOST <= number <= _MOST:
                raise ValueError(f"{argument}={value}: must be at most {_MOST}.")
            return
    raise TypeError(f"{argument}={value!r}: must be a whole number, such as 4.")


def check_real(argument: str, value: object, *, optional: bool = False) -> None:
    """Refuse a value that is no number.

    Args:
        argument: the argument's name.
        value: the value that was given.
        optional: whether None is allowed too.

    Raises:
        TypeError: the value is of another type; True is no number.
    """
    if optional and value is None:
        return
    if isinstance(value, SupportsFloat) and not isinstance(value, bool):
        try:
            float(value)
        except (TypeError, ValueError, RuntimeError):  # an array or a tensor of several numbers
            pass
        except OverflowError:
            raise ValueError(f"{argument} is too large for a number of floating point.") from None
        else:
            return
    raise TypeError(f"{argument}={value!r}: must be a number, such as 1.0.")


def check_pair(argument: str, value: object) -> tuple[float, float]:
    """Return a pair of numbers after checking that it is one.

    Args:
        argument: the argument's name.
        value: the value that was given.

    Raises:
        TypeError: it is something else.
    """
    pair = cast("Sequence[object]", value)
    if not isinstance(value, Sequence) or isinstance(value, str) or len(pair) != 2:
        raise TypeError(f"{argument}={value!r}: must be a pair of numbers, such as (0.2, 0.8).")
    for place, number in enumerate(pair):
        check_real(f"{argument}[{place}]", number)
    low, high = cast("Sequence[float]", pair)
    return low, high


def check_flag(argument: str, value: object, *, optional: bool = False) -> None:
    """Refuse a value that is neither True nor False.

    Args:
        argument: the argument's name.
        value: the value that was given.
        optional: whether None is allowed too.

    Raises:
        TypeError: it is something else.
    """
    if not (optional and value is None) and not isinstance(value, bool):
        raise TypeError(f"{argument}={value!r}: must be True or False{', or None' * optional}.")


def check_mapping(argument: str, value: object, example: str) -> None:
    """Refuse a value that is neither None nor a mapping of names to values.

    Args:
        argument: the argument's name.
        value: the value that was given.
        example: a mapping, for the message.

    Raises:
        TypeError: it is something else.
    """
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) for key in cast("Mapping[object, object]", value)
    ):
        raise TypeError(
            f"{argument}={value!r}: must be a mapping of names to values, such as {example}."
        )


def check_fields(owner: object) -> None:
    """Refuse a field of a dataclass whose value is of another type than its annotation says.

    Numbers, True and False, choices (`Literal`), and classes are checked, each also as `| None`;
    any other annotation allows every value.  Call it before a field is compared with its range.

    Raises:
        TypeError: a value is of another type.
        ValueError: a value is none of the choices.
    """
    for name, kinds, example in _kinds_of(type(owner)):
        value = getattr(owner, name)
        if value is None and NoneType in kinds:
            continue
        _check_kind(name, value, kinds, example)


@cache
def _kinds_of(owner: type) -> list[tuple[str, tuple[Any, ...], object]]:
    """Return name, allowed types and default of every field of a dataclass."""
    try:
        hints = get_type_hints(owner)
    except NameError:  # annotations of a module that imports their names for type checkers only
        return []
    found: list[tuple[str, tuple[Any, ...], object]] = []
    for field in fields(owner):
        hint = hints[field.name]
        union = get_origin(hint) in (Union, UnionType)
        found.append((field.name, get_args(hint) if union else (hint,), field.default))
    return found


def _check_kind(name: str, value: object, kinds: tuple[Any, ...], example: object) -> None:
    """Refuse a value that is of none of the types; `example` is the field's default."""
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        if not isinstance(value, str | int) or value not in choices:
            raise unknown_choice(name, value, choices)
    elif int in kinds:
        check_whole(name, value)
    elif float in kinds:
        check_real(name, value)
    elif bool in kinds:
        check_flag(name, value)
    else:
        classes = [get_origin(kind) or kind for kind in kinds]
        items = [get_args(kind)[0] for kind in kinds if get_origin(kind) in (tuple, Sequence)]
        if items and isinstance(value, Sequence) and not isinstance(value, str | bytes):
            for item in cast("Sequence[object]", value):
                _check_kind(name, item, (items[0],), MISSING)
            return
        if not all(_checkable(kind) for kind in classes):
            return
        if items or not isinstance(value, tuple(classes)):
            names = (
                "None" if kind is NoneType else _with_article(kind.__name__) for kind in classes
            )
            hint = "" if example in (MISSING, None) else f", such as {example!r}"
            raise TypeError(f"{name}={value!r}: must be {' or '.join(names)}{hint}.")


def _checkable(kind: Any) -> bool:
    """Return whether `isinstance` accepts it: a class, or a protocol checkable at run time."""
    if not isinstance(kind, type) or kind is Any:
        return False
    return not getattr(kind, "_is_protocol", False) or getattr(kind, "_is_runtime_protocol", False)
