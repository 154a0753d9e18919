"""Wrap any function or module from token ids to logits as a denoiser."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts, with_special_ids
from dlm_sampling.denoisers.columns import refuse_cache, shift_right
from dlm_sampling.denoisers.wrappers import arguments_of, needs_of
from dlm_sampling.errors import check_whole
from dlm_sampling.schedules import Schedule
from dlm_sampling.types import DenoiserOutput, Pass, PredictionKind, Process

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


CALLS = {"forward", "_wrapped_call_impl"}
"""Names of the methods that run a whole module; the second is that of `__call__`."""

OFFERED = frozenset({"attention_mask", "t", "dt", "carry", "columns"})
"""Arguments that a function gets by keyword, where its signature names them."""


class WrappedDenoiser(Denoiser):
    """Run a function as a denoiser; `wrap` makes it."""

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        accepts: frozenset[str],
        needs: frozenset[str],
        shifted: bool,
        step_conditioned: bool,
        by_module: bool,
        **facts: Any,
    ) -> None:
        """Keep the function; `facts` are those of `Denoiser`.

        `by_module`: calling the function is calling the module.
        """
        super().__init__(**facts)
        self.step_conditioned = step_conditioned
        self.fn, self.by_module = fn, by_module
        self.rows_alike = by_module  # any other function may hold labels, one per row
        self.accepts, self.needs, self.by_name = accepts, needs, bool(accepts & OFFERED)
        self.shifted = shifted

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Call the function with the arguments that it names, and check the output.

        A function that gives logits in place may return columns of its choice; see `wrap`.
        """
        refuse_cache(inputs)
        call = self.call_module if self.by_module else self.fn
        raw = call(inputs.tokens, **self.named(inputs)) if self.by_name else call(inputs.tokens)
        output = read_output(raw, inputs.tokens, self.vocab_size)
        if not self.shifted:
            return output
        if output.columns is not None:
            raise ValueError(
                "fn returned some columns only: must return all with shifted=True, since each "
                "column is scored by the one before it."
            )
        values = shift_right(output.values, inputs.attention, inputs.columns)
        return output._replace(values=values, columns=inputs.columns)

    def named(self, inputs: Pass) -> dict[str, Any]:
        """Return the arguments that the function gets by keyword."""
        attention = inputs.attention
        if attention is None and "attention_mask" in self.needs:
            attention = torch.ones_like(inputs.tokens, dtype=torch.bool)
        offered: dict[str, Any] = {
            "attention_mask": attention,
            "t": inputs.t,
            "dt": inputs.dt if self.step_conditioned else None,
            "carry": inputs.carry,
            "columns": None if self.shifted else inputs.columns,
        }
        return {
            name: value
            for name, value in offered.items()
            if name in self.accepts and (value is not None or name in self.needs)
        }


def wrap(
    fn: Callable[..., Any],
    *,
    vocab_size: int,
    mask_token_id: int | None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    max_length: int | None = None,
    honours_padding: bool | None = None,
    time_conditioned: bool | None = None,
    step_conditioned: bool | None = None,
    shifted: bool = False,
    kind: PredictionKind = "posterior",
    process: Process | None = None,
    schedule: Schedule | None = None,
    suppressed: Iterable[int] = (),
    device: torch.device | str | None = None,
) -> Denoiser:
    """Make a denoiser of any function or module `(input_ids, attention_mask?, t?) -> logits`.

    The function gets int64 [B, L] ids and, by keyword and only where its signature names them,
    `attention_mask` (bool [B, L]), `t` (float64 [B]), `dt` (float64 [B]), `carry`, and `columns`
    (int64 [B, W], the columns that are wanted; the function may still return all).  It returns
    logits [B, L, V], an object with `.logits`, or a `DenoiserOutput`.  An argument is left out of a
    pass that has nothing for it; where it has no default, it is None, and the mask True everywhere.

    Wrappers that take any keyword are looked through: `torch.compile`, data parallelism, adapters,
    and any module that holds a single one.  Behind other functions of any keyword, say what the
    function takes by `honours_padding` and `time_conditioned`.

    Args:
        fn: the function; a `torch.nn.Module` is put in evaluation mode, and so is the one that a
            method or a `functools.partial` belongs to.
        vocab_size: number of logit columns V.
        mask_token_id: the absorbing token, or None for uniform noise.
        tokenizer: used for text prompts and outputs.
        eos_token_id: default: the tokenizer's.
        pad_token_id: default: the tokenizer's.
        max_length: longest canvas, or None for no limit.
        honours_padding: whether a padded row gives the logits of the row alone; default: whether
            the signature names `attention_mask`.  The default is not believed: the first batch with
            padding runs one row with its padding and alone, two passes that NFE does not count;
            where they differ, a warning says so, and rows of different padding run separately.
            True or False is taken as the caller's word, which `doctor` checks.
        time_conditioned: whether `t` matters; default: whether the signature names `t`.
        step_conditioned: whether `dt`, the length of the step, matters; default: whether the
            signature names `dt`.  Only samplers for such models pass it, `fs-dfm`.
        shifted: True if the logits at position i score token i + 1, as in models made from causal
            ones.
        kind: meaning of the logits' law, such as "posterior"; see `types.PredictionKind`.
        process: the noise it was trained on; default: masks if there is a mask id, else uniform.
        schedule: alpha(t) of the times that the function takes; default: the sampler's own time.
        suppressed: further ids that are never drawn.
        device: device of the inputs; default: that of the module's first parameter, else CPU.

    Raises:
        TypeError: `fn` cannot be called, needs an argument that is not passed, or padding or time
            is declared but the signature lacks the argument.
        ValueError: `mask_token_id` is outside the vocabulary.
    """
    if not callable(fn):
        raise TypeError(
            f"fn is {type(fn).__name__}: must be a function or module (input_ids, ...) -> logits."
        )
    check_whole("vocab_size", vocab_size)
    check_whole("mask_token_id", mask_token_id, optional=True)
    module, by_module = network_behind(fn)
    if module is not None:
        module.eval()
    names, anything = arguments_of(module if module is not None and by_module else fn)
    asked = {"attention_mask": honours_padding, "dt": step_conditioned, "t": time_conditioned}
    accepts = names | {name for name, wish in asked.items() if anything and wish}
    if anything and not accepts & set(asked) and None in (honours_padding, time_conditioned):
        warnings.warn(
            "fn takes any keyword, so its signature does not tell what it needs: attention_mask "
            "and t are not passed. Say honours_padding= and time_conditioned=, True or False.",
            stacklevel=2,
        )
    needs = needs_of(module if module is not None and by_module else fn)
    if strange := sorted(needs - OFFERED):
        raise TypeError(
            f"fn needs {strange[0]!r}, which is not passed: give it a default, or set it with "
            f"functools.partial. Passed by name: {', '.join(sorted(OFFERED))}."
        )
    text = TextFacts(tokenizer=tokenizer, eos_token_id=eos_token_id, pad_token_id=pad_token_id)
    denoiser = WrappedDenoiser(
        fn,
        accepts=accepts,
        needs=needs,
        shifted=shifted,
        vocab_size=vocab_size,
        mask_token_id=mask_token_id,
        max_length=max_length,
        honours_padding=declared("honours_padding", honours_padding, "attention_mask", accepts),
        time_conditioned=declared("time_conditioned", time_conditioned, "t", accepts),
        step_conditioned=declared("step_conditioned", step_conditioned, "dt", accepts),
        kind=kind,
        process=process,
        schedule=schedule,
        suppressed=suppressed,
        module=module,
        by_module=by_module,
        device=device,
        **with_special_ids(text),
    )
    denoiser.padding_proven = honours_padding is not None
    return denoiser


def network_behind(fn: object) -> tuple[nn.Module | None, bool]:
    """Return the module that a function runs, if it shows, and whether the module is called itself.

    It shows in a method of the module, and in a `functools.partial` of either.
    """
    if isinstance(fn, nn.Module):
        return fn, True
    if isinstance(fn, partial):
        inside: object = fn.func
        return network_behind(inside)[0], False
    if isinstance(fn, MethodType):
        owner: object = fn.__self__
        return (owner, fn.__name__ in CALLS) if isinstance(owner, nn.Module) else (None, False)
    return None, False


def declared(option: str, value: bool | None, argument: str, accepts: frozenset[str]) -> bool:
    """Return a declared property; the signature is its default, and must not contradict it."""
    if value and argument not in accepts:
        raise TypeError(
            f"{option}=True, but fn takes no {argument!r}: add that argument or drop {option}."
        )
    return argument in accepts if value is None else value


def read_output(raw: Any, input_ids: Tensor, vocab_size: int) -> DenoiserOutput:
    """Turn the function's return value into a `DenoiserOutput`, or raise an error that explains."""
    output = raw if isinstance(raw, DenoiserOutput) else DenoiserOutput(logits_in(raw))
    values: Any = output.values
    if not isinstance(values, Tensor):
        raise TypeError(
            f"fn returned {type(raw).__name__}: must be logits [B, L, V], an object with "
            ".logits, or a DenoiserOutput."
        )
    places = input_ids.shape if output.columns is None else output.columns.shape
    expected = (*places, vocab_size)
    fits = (
        values.shape[:-1] == places if output.head is not None else tuple(values.shape) == expected
    )
    if not fits:
        raise ValueError(
            f"fn returned shape {tuple(values.shape)} for input_ids {tuple(input_ids.shape)}: "
            f"{advice(values, expected)}"
        )
    return output


@runtime_checkable
class HasLogits(Protocol):
    """Describe an output object of transformers."""

    logits: Any


def logits_in(raw: Any) -> Any:
    """Return the logits of an output object, or the output itself."""
    if isinstance(raw, Tensor):  # asked first: a protocol reads every attribute
        return raw
    return raw.logits if isinstance(raw, HasLogits) else raw


def advice(values: Tensor, expected: tuple[int, ...]) -> str:
    """Say how to change the network when the shape of its logits is wrong."""
    if values.ndim == 3 and tuple(values.shape[:2]) == expected[:2]:
        return (
            f"must be {expected}. Pass vocab_size={values.shape[-1]} if that is the output width."
        )
    if values.ndim == 3 and values.shape[0] == expected[1] and values.shape[1] == expected[0]:
        return f"must be {expected}. It looks transposed: return logits.transpose(0, 1)."
    return f"must be {expected}, one row of logits per position."
