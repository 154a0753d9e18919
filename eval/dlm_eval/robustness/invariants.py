"""Checks what every call of `generate` must keep, whatever its arguments are."""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dlm_sampling
from dlm_eval.robustness.calls import MASK, VOCAB, Call, Toy
from dlm_sampling import Denoiser, GenerateOutput, generate, samplers

PACKAGE = Path(dlm_sampling.__file__).parent
REFUSALS = (ValueError, TypeError)


@dataclass(frozen=True)
class Verdict:
    """Hold what came of a call.

    Fields:
        refused: the message, if the call was refused with a message of this library.
        broken: the invariants that did not hold, in words.
    """

    refused: str | None
    broken: tuple[str, ...]


def judge(call: Call) -> Verdict:
    """Make a call and check every invariant."""
    toy, denoiser = call.network()
    _generate(Call("ancestral", call.kind, [[1], [1, 1]], {"max_new_tokens": 1}), denoiser)
    toy.rows = 0  # the first batch with padding also proves that the network honours it
    before = _surroundings(toy)
    try:
        out = _generate(call, denoiser)
    except Exception as error:
        broken = [] if _surroundings(toy) == before else ["a refused call changed the surroundings"]
        return Verdict(str(error), (*broken, *refusal(call, error)))
    broken = [] if _surroundings(toy) == before else ["global generators, dtype or mode changed"]
    # Rows of one canvas share a pass; where blocks hide columns, a pass is less than a canvas.
    spared, told = int(out.nfe.sum()) - toy.rows, float(out.shared.sum())
    hidden = bool(call.options.get("causal_blocks"))
    if abs(spared - told) > 1e-6 and not (hidden and spared > told > 0.0):
        rows = f"the network ran {toy.rows} rows, {told:g} were shared"
        broken.append(f"nfe sums to {int(out.nfe.sum())}, {rows}")
    if call.wrong is None:
        broken += _tokens(call, out) + _cost(call, out) + _repeats(call, denoiser, out)
    return Verdict(None, tuple(broken))


def _generate(call: Call, denoiser: Denoiser, **changes: Any) -> GenerateOutput:
    options = {"sampler": call.sampler, "prompts": call.prompts, **call.options, **changes}
    return generate(denoiser, progress=False, **options)


def _surroundings(toy: Toy) -> tuple[Any, ...]:
    """Return all that a call may not change."""
    return (
        torch.random.get_rng_state().tolist(), random.getstate(),
        np.random.get_state()[1].tolist(),  # pyright: ignore
        torch.get_default_dtype(), torch.is_grad_enabled(), toy.training, toy.dropout.training,
    )  # fmt: skip


def refusal(call: Call, error: Exception) -> list[str]:
    """Check that this library refused the call itself, and that a wrong argument is named."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    where = f"{type(error).__name__}: {str(error)[:160]}"
    if not isinstance(error, REFUSALS) or PACKAGE not in last.parents:
        return [f"refused by {last.name}: {where}"]
    if call.wrong is None or call.wrong.removesuffix("s") in str(error).lower():
        return []
    rest = {name: value for name, value in call.options.items() if name != call.wrong}
    try:
        _generate(replace(call, options={"max_new_tokens": 1} | rest), call.network()[1])
    except REFUSALS as other:  # the arguments did not fit together before one was replaced
        if str(other) == str(error):
            return []
    return [f"the message does not name {call.wrong}: {where}"]


def _tokens(call: Call, out: GenerateOutput) -> list[str]:
    """Check the tokens and log-probabilities of each row."""
    broken: list[str] = []
    copies = call.options.get("num_return_sequences", 1)
    new = call.options["max_new_tokens"]
    given = call.options.get("start", ())  # a draft keeps what it holds
    suppressed = set(call.options.get("suppress_tokens", ())) - set(given)
    for i, row in enumerate(out.sequences.tolist()):
        prompt = call.prompts[i // copies]
        first = len(row) - len(prompt) - new
        if row[first : len(row) - new] != prompt:
            broken.append(f"row {i}: the prompt changed")
        written = out.token_ids[i]
        if call.kind == "absorbing" and MASK in written:
            broken.append(f"row {i}: a mask is left")
        if not all(0 <= token < VOCAB for token in written):
            broken.append(f"row {i}: an id out of range")
        if suppressed & set(written):
            broken.append(f"row {i}: wrote suppressed {suppressed & set(written)}")
        logprobs = out.logprobs[i]
        if not bool(logprobs.isfinite().all()) or bool((logprobs > 1e-6).any()):
            broken.append(f"row {i}: a log-probability above 0 or not finite")
        if bool((logprobs[: len(row) - new] != 0).any()):
            broken.append(f"row {i}: a fixed position has a log-probability")
    return broken


def _cost(call: Call, out: GenerateOutput) -> list[str]:
    """Check the number of passes against the schedule that the sampler declares."""
    sampler, new = samplers.create(call.sampler), call.options["max_new_tokens"]
    most, bound = int(out.nfe.max()), call.options.get("max_nfe")
    if bound is not None and most > bound:
        return [f"{most} passes, at most {bound} were allowed"]
    passes = 2 if call.options.get("guidance_scale", 0.0) else 1
    blocks = -(-new // call.options.get("block_length", max(new, 1))) + 1  # one may be cut in two
    steps = call.options.get("steps", sampler.own_steps or new)
    planned = sampler.schedule_length(max(1, steps))
    if planned is None:
        return []
    limit = passes * (planned + blocks * sampler.passes_per_step * max(1, planned))
    return [f"{most} passes, at most {limit} were planned"] if most > limit else []


def _repeats(call: Call, denoiser: Denoiser, out: GenerateOutput) -> list[str]:
    """Check that the seed repeats the call, and that a row alone is the row of the batch."""
    broken: list[str] = []
    again = _generate(call, denoiser)
    if not torch.equal(again.sequences, out.sequences):
        broken.append("the same seed gives other tokens")
    copies = call.options.get("num_return_sequences", 1)
    index = call.options["seed"] % len(out.seeds)
    alone = _generate(
        call, denoiser, prompts=[call.prompts[index // copies]], num_return_sequences=1,
        seed=[out.seeds[index]],
    )  # fmt: skip
    if alone.token_ids[0] != out.token_ids[index]:
        broken.append(f"row {index} alone has other tokens than in the batch")
    if int(alone.nfe[0]) != int(out.nfe[index]):
        broken.append(f"row {index} alone has another NFE than in the batch")
    return broken
