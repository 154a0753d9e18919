"""Multiply models: laws prod_j p_j(v)^b_j without their normaliser, as one denoiser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.types import DenoiserOutput, Pass


class ProductDenoiser(Denoiser):
    """Predict the log of prod_j p_j(v)^b_j at every position, not normalised.

    Tokens to which any of the models gives probability 0 have 0.  The masks and the suppressed ids
    of the first model are no part of the laws.  Every pass runs all models.

    Args:
        models: denoisers of one vocabulary, mask and device.
        powers: b_j, one per model.
        hidden: bool [B, L], tokens that the last model does not see: masks are put over them, as
            in the unconditional pass of classifier-free guidance; None: it sees all.  Of a run
            with K particles, each row K times: `(~editable).repeat_interleave(K, 0)`.

    Raises:
        ValueError: the models differ, there is not one power per model, or a model carries a state.
    """

    family = "product"

    def __init__(
        self,
        models: Sequence[Denoiser],
        powers: Sequence[float],
        hidden: Tensor | None = None,
    ) -> None:
        """See the class."""
        if not models or len(models) != len(powers):
            raise ValueError(
                f"powers has {len(powers)} entries for {len(models)} models: give one per model."
            )
        first = models[0]
        for model in models:
            if (model.vocab_size, model.mask_token_id) != (first.vocab_size, first.mask_token_id):
                raise ValueError(
                    "models: must have one vocabulary and mask; these have "
                    f"{[(m.vocab_size, m.mask_token_id) for m in models]}."
                )
            if model.carries or model.kind != "posterior" or model.mask_token_id is None:
                raise ValueError(
                    f"models: {model.family} cannot be multiplied; must predict clean tokens from "
                    "masks and carry no state."
                )
        super().__init__(
            vocab_size=first.vocab_size,
            mask_token_id=first.mask_token_id,
            eos_token_id=first.eos_token_id,
            pad_token_id=first.pad_token_id,
            max_length=first.max_length,
            honours_padding=all(model.honours_padding for model in models),
            time_conditioned=any(model.time_conditioned for model in models),
            schedule=first.schedule,
            suppressed=first.suppressed,
            tokenizer=first.tokenizer,
            device=first.device,
        )
        self.models, self.powers, self.hidden = tuple(models), tuple(powers), hidden
        masks = () if first.mask_token_id is None else (first.mask_token_id,)
        self._never = sorted({*first.suppressed, *masks})

    @property
    def passes(self) -> int:
        """Return the forward passes of the models in one pass of the product."""
        return len(self.models)

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return the log of the product, [n, L, V]."""
        laws = [self._law(j, inputs) for j in range(len(self.models))]
        terms = zip(self.powers, laws, strict=True)
        total = torch.stack([power * law.clamp(min=-1e30) for power, law in terms]).sum(0)
        lost = torch.stack([law == -math.inf for law in laws]).any(0)
        return DenoiserOutput(total.masked_fill(lost, -math.inf))

    def _law(self, j: int, inputs: Pass) -> Tensor:
        """Return the log-probabilities of model j, [n, L, V]."""
        seen, mask = inputs.tokens, self.mask_token_id
        if self.hidden is not None and mask is not None and j == len(self.models) - 1:
            rows = torch.arange(len(seen)) if inputs.rows is None else inputs.rows
            seen = seen.masked_fill(self.hidden[rows][:, : seen.shape[1]], mask)
        logits = self.models[j].logits(seen, inputs.attention, inputs.t)
        return logits.index_fill(2, self._ids(logits), -math.inf).log_softmax(2)

    def _ids(self, like: Tensor) -> Tensor:
        return torch.tensor(self._never, device=like.device)
