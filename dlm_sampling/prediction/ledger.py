"""Note how each token of a step was drawn, so that a replay scores the law that was sampled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.types import Drawn


@dataclass
class Ledger:
    """Hold how each position of the active rows was drawn in the current step.

    Fields:
        canvas: int64 [A, L], the tokens before the step.
        how: int8 [A, L], a `Drawn` of each position; it is replaced at every draw.
    """

    canvas: Tensor
    how: Tensor

    @classmethod
    def of(cls, canvas: Tensor) -> Ledger:
        """Return the ledger of a step that has drawn nothing yet."""
        return cls(canvas, torch.full_like(canvas, Drawn.NOT, dtype=torch.int8))

    def note(self, x: Tensor, where: Tensor, greedy: Tensor | None, *, own_law: bool) -> None:
        """Note a draw at `where` (bool [A, L]); nothing waits for the device.

        Args:
            x: int64 [A, L], the canvases that were predicted.
            where: positions that were drawn.
            greedy: bool [A], rows that took the argmax, or None.
            own_law: whether the law is that of the run, from one prediction of x.
        """
        same = torch.ones_like(x[:, 0], dtype=torch.bool)
        if x is not self.canvas:
            same = (x == self.canvas).all(1)
        new = torch.where(same & own_law, Drawn.FROM_LAW, Drawn.OTHERWISE)
        if greedy is not None:
            new = torch.where(greedy, Drawn.ARGMAX, new)
        new = new.to(torch.int8).unsqueeze(1)
        # A position that is drawn twice in a step may have kept either token.
        unclear = (self.how != Drawn.NOT) & (self.how != new)
        self.how = torch.where(where, new.masked_fill(unclear, Drawn.OTHERWISE), self.how)
