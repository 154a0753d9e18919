"""Guide by the difference of two passes, with and without a condition: classifier-free guidance.

    log p~ = (w + 1) log p_c - w log p_u - log Z            gamma = w + 1

w is LLaDA's cfg_scale and `guidance_scale` of `generate`, which is this guidance with a number and
a masked prompt.  w = 0 asks the conditional pass only, w = -1 the unconditional one.  Ho and
Salimans 2022, arXiv:2207.12598; Nie et al. 2025, arXiv:2502.09992 (masked prompt); Schiff et al.
2024, arXiv:2412.10193 (D-CFG; posteriors under uniform noise).  Once rows have more than one
position this is not the product law of whole rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import named
from dlm_sampling.guidance.base import Guidance, Moment, View
from dlm_sampling.guidance.scales import RatioAware, Scale, check_scale, per_row, rows_of, scale_at
from dlm_sampling.types import Pass, Sampler


@dataclass(frozen=True)
class MaskedPrompt:
    """Show the unconditional pass masks in place of all fixed tokens, as LLaDA does."""

    def shown(self, inputs: Pass, moment: Moment) -> Pass:
        """Return the pass that does not see the prompt."""
        assert moment.mask is not None
        return inputs._replace(tokens=inputs.tokens.masked_fill(moment.fixed, moment.mask))

    def check(self, denoiser: Denoiser) -> None:
        """Refuse a denoiser without a mask."""
        if denoiser.mask_token_id is None:
            raise ValueError(
                "unconditional=MaskedPrompt(): this denoiser has no mask; use NegativePrompt(ids), "
                "NullLabel({...}) or a denoiser."
            )


@dataclass(frozen=True)
class NegativePrompt:
    """Show the unconditional pass another prompt.

    It ends where the row's own prompt ends, directly left of the first position to write; what is
    left of it is hidden as padding.

    Fields:
        ids: its tokens, at most as many as each row has left of its first position to write.
    """

    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "ids", tuple(int(i) for i in self.ids))
        except (TypeError, ValueError):
            raise TypeError(
                f"NegativePrompt: ids is {self.ids!r}: must be token ids; for a text, "
                'NegativePrompt(denoiser.tokenizer("the text")["input_ids"]).'
            ) from None
        if not self.ids:
            raise ValueError("NegativePrompt: ids is empty; use MaskedPrompt() to hide the prompt.")

    def shown(self, inputs: Pass, moment: Moment) -> Pass:
        """Return the pass with the other prompt."""
        length = len(self.ids)
        first = (~moment.fixed).long().argmax(1)
        real = torch.ones_like(moment.fixed) if inputs.attention is None else inputs.attention
        column = torch.arange(inputs.tokens.shape[1], device=first.device)
        place = column - (first - length).unsqueeze(1)
        inside = (place >= 0) & (place < length)
        ids = torch.tensor(self.ids, device=first.device)[place.clamp(0, length - 1)]
        seen = real & (place >= 0)
        return inputs._replace(
            tokens=torch.where(inside, ids, inputs.tokens),
            attention=None if bool(seen.all()) else seen,
        )

    def check_prompts(self, lengths: Tensor) -> None:
        """Refuse rows with a shorter prompt.

        Raises:
            ValueError: there is one.
        """
        if bool((lengths < len(self.ids)).any()):
            raise ValueError(
                f"NegativePrompt: {len(self.ids)} tokens for a prompt of {int(lengths.min())}: it "
                "must not be longer than the row's own; shorten it."
            )

    def check(self, denoiser: Denoiser) -> None:
        """Refuse ids outside of the vocabulary."""
        for token in self.ids:
            if not 0 <= token < denoiser.vocab_size:
                size = denoiser.vocab_size
                raise ValueError(f"NegativePrompt: {token} is no id; must be in [0, {size}).")


@dataclass(frozen=True)
class NullLabel:
    """Show the unconditional pass other ids for the labels among the fixed tokens.

    Fields:
        swap: label id -> id of the null label.
    """

    swap: Mapping[int, int]

    def shown(self, inputs: Pass, moment: Moment) -> Pass:
        """Return the pass with null labels."""
        tokens = inputs.tokens
        for label, null in self.swap.items():
            tokens = tokens.masked_fill(moment.fixed & (inputs.tokens == label), null)
        return inputs._replace(tokens=tokens)

    def check(self, denoiser: Denoiser) -> None:
        """Refuse ids outside of the vocabulary."""
        for token in (*self.swap, *self.swap.values()):
            if not 0 <= token < denoiser.vocab_size:
                raise ValueError(
                    f"NullLabel: {token} is no token id; must be in [0, {denoiser.vocab_size})."
                )


Unconditional = MaskedPrompt | NegativePrompt | NullLabel | Denoiser


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Guide by the difference of a conditional and an unconditional pass.

    Fields:
        scale: w: a number, a list of one per row of the batch, a function of times [n], such as
            `Annealed(2.0)`, or `RatioAware(2.0)`.
        unconditional: condition of the second pass: `MaskedPrompt()`, `NegativePrompt(ids)`,
            `NullLabel({label: null})`, or a `Denoiser`, such as the network with its null label.

    NFE: 2; 1 in rows whose scale is 0 or -1 at that time.
    """

    scale: Scale = 1.0
    unconditional: Unconditional = MaskedPrompt()

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", per_row(self.scale))
        check_scale("scale", self.scale)
        known = (MaskedPrompt, NegativePrompt, NullLabel, Denoiser)
        if not isinstance(self.unconditional, known):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"unconditional is {named(self.unconditional)}: must be MaskedPrompt(), "
                "NegativePrompt(ids), NullLabel({...}) or a Denoiser."
            )

    @property
    def shorthand(self) -> float | None:
        """Return the scale, where it is a number for a masked prompt and asks both passes."""
        scale = self.scale
        if isinstance(scale, int | float) and isinstance(self.unconditional, MaskedPrompt):
            return None if scale == -1.0 else float(scale)
        return None

    @property
    def views(self) -> tuple[View, ...]:
        """Return the conditional and the unconditional pass."""
        other = self.unconditional
        second = View(other) if isinstance(other, Denoiser) else View(shown=other.shown)
        return View(), second

    def weights(self, moment: Moment) -> Tensor:
        """Return w + 1 and -w."""
        w = scale_at(self.scale, moment.t, moment.rows)
        return torch.stack((w + 1.0, -w))

    def settle(self, weights: Tensor, laws: Callable[[int], Tensor], where: Tensor) -> Tensor:
        """Return the weights, by the laws where the scale is `RatioAware`."""
        if not isinstance(self.scale, RatioAware):
            return weights
        w = self.scale.of(laws(0), laws(1), where)
        return torch.stack((w + 1.0, -w))

    def part(self, first: int, last: int) -> Guidance:
        """Return the guidance of some rows."""
        if isinstance(self.scale, tuple):
            return replace(self, scale=self.scale[first:last])
        return self

    def check(self, denoiser: Denoiser, sampler: Sampler[Any], rows: int) -> None:
        """Check the second pass, and that there is a scale for every row."""
        super().check(denoiser, sampler, rows)
        given = rows_of(self.scale)
        if given is not None and given != rows:
            raise ValueError(
                f"scale has {given} entries for {rows} rows: give one per row of the "
                "batch, or one number."
            )
        if not isinstance(self.unconditional, Denoiser):
            self.unconditional.check(denoiser)

    def check_prompts(self, lengths: Tensor) -> None:
        """Check that another prompt fits in place of the rows' own."""
        if isinstance(self.unconditional, NegativePrompt):
            self.unconditional.check_prompts(lengths)
