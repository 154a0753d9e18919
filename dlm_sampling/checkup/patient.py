"""Hold a denoiser under examination, and the inputs and outputs that checks share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.denoisers import Denoiser

Status = Literal["pass", "fail", "warn", "skip"]

LENGTH = 96
STRIDE = 4
PADDING = 5
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-6}
HALF_TOLERANCE = 0.1


class Finding(NamedTuple):
    """Hold the result of a check without its name; see `Check`."""

    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Patient:
    """Hold a denoiser under examination, and the inputs and outputs that checks share."""

    denoiser: Denoiser
    text: str

    @cached_property
    def tokenizer(self) -> Any:
        """Return the tokenizer, or None."""
        return self.denoiser.tokenizer

    @cached_property
    def tokens(self) -> Tensor:
        """Return one row of the text's ids, or of arbitrary ids without a tokenizer; int64 [1, L].

        For a network that writes whole canvases, the text is repeated to fill one.
        """
        canvas = self.denoiser.canvas_length or 0
        length = min(LENGTH + canvas, self.denoiser.max_length or LENGTH + canvas)
        if self.tokenizer is None:
            allowed = [v for v in range(min(self.denoiser.vocab_size, 1000)) if v != self.mask_id]
            picks = torch.randint(
                len(allowed), (1, length), generator=torch.Generator().manual_seed(0)
            )
            return torch.tensor(allowed)[picks]
        ids: list[int] = self.tokenizer(self.text, add_special_tokens=False)["input_ids"]
        return torch.tensor([(ids * (1 + canvas))[:length]])

    @property
    def mask_id(self) -> int | None:
        """Return the mask id, or None."""
        return self.denoiser.mask_token_id

    @cached_property
    def masked(self) -> Tensor:
        """Return the masked positions of `STRIDE` copies of the row, bool [STRIDE, L].

        Every position is masked in exactly one copy.
        """
        copies = torch.arange(STRIDE)[:, None]
        return torch.arange(self.tokens.shape[1]) % STRIDE == copies

    @cached_property
    def noised(self) -> Tensor:
        """Return the copies with their masked positions set to the mask id, int64 [STRIDE, L]."""
        return torch.where(self.masked, self.mask_id or 0, self.tokens)

    @cached_property
    def baseline(self) -> Tensor:
        """Return the logits of the copies as one batch, float32, on the CPU."""
        return self.logits(self.noised)

    @cached_property
    def tolerance(self) -> float:
        """Return the largest difference of logits that counts as rounding."""
        dtype = self.denoiser.dtype or self.baseline.dtype
        scale = max(1.0, float(self.baseline.nan_to_num().std()))
        return TOLERANCES.get(dtype, HALF_TOLERANCE) * scale

    def logits(self, ids: Tensor, mask: Tensor | None = None, t: float = 1 / STRIDE) -> Tensor:
        """Return the logits of one forward pass at time t, float32, on the CPU.

        A step-conditioned model gets the step from t to 0.
        """
        level = torch.full(ids.shape[:1], t, dtype=torch.float64)
        return self.denoiser.logits(ids, mask, level, level).float().cpu()
