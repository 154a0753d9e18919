"""The tokens being denoised, where each row stands in its block, and the outcome of one step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dlm_sampling.types.law import Draw


class Canvas(NamedTuple):
    """The tokens being denoised, and which positions the sampler may write in the current block.

    Without a mask, what is not yet written holds noise, and nothing marks it: every position of the
    block is unknown until the last step of its schedule.
    """

    tokens: Tensor  # int64 [B, L]
    unknown: Tensor  # bool [B, L], still to be written; never inferred from the mask id
    editable: Tensor  # bool [B, L], in the current block and not prompt, padding or infill context
    start: Tensor  # int64 [B], first position of the current block
    mask_token_id: int | None  # None under noise without a mask

    @property
    def mask(self) -> int:
        """The mask id, for rules that exist on masks only.

        Raises:
            ValueError: there is none.
        """
        if self.mask_token_id is None:
            raise ValueError("mask_token_id is None: this rule needs a model with a mask token.")
        return self.mask_token_id

    @property
    def eligible(self) -> Tensor:
        """Positions that this step may reveal: unknown and inside the block, bool [B, L]."""
        return self.unknown & self.editable

    @property
    def unknown_fraction(self) -> Tensor:
        """Unknown share of the block, float64 [B]: the time on a linear schedule."""
        width = self.editable.sum(1).clamp_min(1)
        return self.eligible.sum(1).double() / width.double()

    @property
    def committed(self) -> Tensor:
        """Positions of the block that hold a token, bool [B, L]."""
        return ~self.unknown & self.editable


class Clock(NamedTuple):
    """Where each row stands in its current block; rows need not be in step with each other."""

    step: Tensor  # int64 [B], steps already taken in this block
    steps: Tensor  # int64 [B], steps planned for this block

    @property
    def last(self) -> Tensor:
        """Whether this is the last planned step of the block, bool [B]."""
        return self.step >= self.steps - 1


class Step(NamedTuple):
    """The outcome of one step; positions that are not editable are restored by the loop."""

    tokens: Tensor  # int64 [B, L]
    unknown: Tensor  # bool [B, L]
    logprob: Tensor  # [B, L], log-probability of the tokens written in this step, else 0
    draw: Draw | None = None  # what was drawn in this step, for viewers; None: nothing is known
