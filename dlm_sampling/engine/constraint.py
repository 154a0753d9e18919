"""Check before the first step that a constraint fits a run, and that every row can satisfy it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.constraints import TokenAutomaton
from dlm_sampling.constraints.messages import Masses
from dlm_sampling.engine.request import Canvases, Request
from dlm_sampling.engine.state import RunState
from dlm_sampling.prediction.constrained import Constrained
from dlm_sampling.types import Process
from dlm_sampling.types.values import ints


@dataclass(frozen=True)
class RunConstraint:
    """Hold the constraint of a run.

    Fields:
        automaton: on the device of the canvases.
        text: bool [B, L], the text that the constraint is about.
        mask: the mask id.
        sampler: name of the sampler, for messages.
    """

    automaton: TokenAutomaton
    text: Tensor
    mask: int
    sampler: str

    @classmethod
    def of(cls, request: Request, canvases: Canvases, process: Process) -> RunConstraint | None:
        """Return the constraint of a run, None if it has none.

        Raises:
            ValueError: the noise has no mask, or a row has no room for a text that satisfies it.
        """
        automaton = request.constraint
        if automaton is None or automaton.trivial:
            return None
        name = type(request.sampler).__name__
        if not request.sampler.constrainable:
            raise ValueError(
                f"constraint: {name} replaces written tokens, or joins tokens of several draws, so "
                "its texts cannot be constrained; use a sampler that draws unknown tokens once, "
                "such as llada, ancestral or fast-dllm."
            )
        if process.mask_token_id is None:
            raise ValueError(
                f"constraint: holds where masks are written, and the sampler edits {process.name} "
                "noise; use a model with a mask."
            )
        device, editable = canvases.tokens.device, canvases.editable
        automaton = automaton.to(device)
        column = torch.arange(editable.shape[1], device=device)
        begin = canvases.attention.long().argmax(1) if canvases.begin is None else canvases.begin
        text = ((column >= begin.unsqueeze(1)) & canvases.attention) | editable
        beta = Masses.known(automaton, canvases.tokens, text, editable).backward()
        lost = editable.any(1) & (beta[:, 0, 0] == -math.inf)
        if bool(lost.any()):
            row = ints(lost.nonzero().flatten())[0]
            raise ValueError(
                f"constraint: row {row} has {int(editable[row].sum())} positions to write, and no "
                f"text that fits there satisfies {automaton.name}; change max_new_tokens, the "
                "fixed tokens, or the constraint."
            )
        return cls(automaton, text, process.mask_token_id, name)

    def in_step(self, state: RunState) -> Constrained:
        """Return the constraint of the active rows before a step."""
        return Constrained(
            self.automaton,
            self.text[state.rows],
            state.tokens,
            state.unknown,
            state.window.editable,
            self.mask,
            self.sampler,
        )
