"""Write everything behind an end-of-text as soon as the end is written: eos="fill".

    j     first position to write that holds a stop token
    the unknown positions behind j hold that token too, from the next pass on

What this changes: the tokens left of j that are still unknown are drawn from the law of a canvas
with ends of text behind j, where a run without it shows masks or a text that is cut away later.  As
of that step they follow another law; a run that writes from left to right, or a model that hides
later columns, draws the same text.  A filled position is no draw: it counts as written with
probability one, log-probability 0, so that the sum of a row is that of its text and the end.  No
pass is made for filled positions, and the row stops once all left of j is known.  A cache forgets
the keys and values of their masks, and the next pass computes those of the ends.

Rule of the released d3LLM loop; it also shortens the canvas, which this does not.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dlm_sampling.engine.request import Request
from dlm_sampling.engine.state import RunState
from dlm_sampling.types import Process, Step
from dlm_sampling.types.values import some


def check_early_end(request: Request, process: Process) -> None:
    """Check that a run can write what is behind an end-of-text.

    Raises:
        ValueError: the sampler may change a written token, or nothing marks what is unknown.
    """
    if not request.fills_behind:
        return
    name = type(request.sampler).__name__
    if process.mask_token_id is None:
        raise ValueError(
            'eos="fill": without masks every token may change until the last step; use eos="stop".'
        )
    if request.sampler.revises:
        raise ValueError(
            f'eos="fill": {name} may change an end-of-text that it has written; use eos="stop", '
            "which ends a row with its block."
        )


def filled_behind(
    state: RunState, step: Step, filled: Step | None, stops: Tensor
) -> tuple[RunState, Step | None]:
    """Return the state with the end-of-text everywhere behind it, and what was filled.

    Args:
        state: the rows after a step, and after the fill of a finished schedule.
        step: the step.
        filled: that fill, or None.
        stops: int64 [k], ids that end a row.
    """
    is_stop = (state.tokens.unsqueeze(2) == stops).any(2) & state.editable & ~state.unknown
    is_stop = is_stop & state.may_stop.unsqueeze(1)
    behind = (is_stop.cumsum(1) > 0) & state.unknown & state.editable
    if not some(behind):
        return state, filled
    end = state.tokens.gather(1, is_stop.long().argmax(1, keepdim=True))
    state = replace(
        state,
        tokens=torch.where(behind, end, state.tokens),
        unknown=state.unknown & ~behind,
        # Most lie outside of the block, where a policy would keep what it has of the masks.
        cache=None if state.cache is None else state.cache.forget(behind),
    )
    if filled is None:
        blank = torch.zeros_like(step.logprob)
        return state, Step(state.tokens, state.unknown, blank)
    return state, filled._replace(tokens=state.tokens, unknown=state.unknown)
