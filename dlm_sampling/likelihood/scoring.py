"""Compute log-probabilities of given tokens on given canvases, one forward pass per canvas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.likelihood.clean_prefix import CleanPrefix
from dlm_sampling.prediction.model import full_law
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.types import TokenLaw
from dlm_sampling.types.rows import split_rows


class Views(NamedTuple):
    """Hold n canvases for the model, and the tokens to score on each."""

    rows: Tensor  # int64 [n], index of each canvas's row in the batch
    canvas: Tensor  # int64 [n, L]
    tokens: Tensor  # int64 [n, L]
    where: Tensor  # bool [n, L], positions whose tokens are scored; at least one per canvas
    attention: Tensor  # bool [n, L], False at padding
    horizon: Tensor | None = None  # int64 [n], first column hidden from the model
    time: Tensor | None = None  # float64 [n], for time-conditioned models
    argmax: Tensor | None = None  # bool [n, L], tokens of `where` of log-probability 0

    @property
    def scored(self) -> Tensor:
        """Return the positions whose tokens need the model, bool [n, L]."""
        return self.where if self.argmax is None else self.where & ~self.argmax

    def split(self, size: int | None) -> Iterator[Views]:
        """Return parts of at most `size` canvases, or one part if None; no part is empty."""
        return split_rows(self, size or max(len(self.rows), 1))


class Scores(NamedTuple):
    """Hold what the model says of R tokens."""

    logprob: Tensor  # [R]
    entropy: Tensor  # [R], entropy in nats of the law of each token; [0] if it was not asked for


@dataclass(frozen=True)
class Scorer:
    """Score tokens under a denoiser.

    Fields:
        denoiser: predicts the clean tokens.
        law: None for the model's own law, else a law with temperature and filters.
        guidance_scale: w of classifier-free guidance; 0 is none.
        given: bool [B, L], tokens of the batch that the run did not write, for guidance and for the
            presence penalty.
        prefix: scores beside the clean texts, or None.

    Raises:
        ValueError: the denoiser carries a state from pass to pass, or is step-conditioned.
    """

    denoiser: Denoiser
    law: TokenLaw | None = None
    guidance_scale: float = 0.0
    given: Tensor | None = None
    prefix: CleanPrefix | None = None

    def __post_init__(self) -> None:
        check_scorable(self.denoiser)

    @property
    def passes(self) -> int:
        """Return the forward passes per canvas: 2 with guidance, else 1."""
        return 1 if self.guidance_scale == 0.0 else 2

    def __call__(self, views: Views) -> Tensor:
        """Return the log-probability of the tokens at `views.where`, [R], row-major.

        NFE 1 per canvas with a token at `views.scored`, 2 with guidance.
        """
        return self.scores(views).logprob

    def scores(self, views: Views, *, entropy: bool = False) -> Scores:
        """Return log-probabilities as the call does, and entropies (0 for an argmax) if asked."""
        law = full_law(TokenLaw() if self.law is None else self.law, self.denoiser)
        predictor = Predictor.alone(
            self.denoiser,
            law,
            views.attention,
            horizon=views.horizon,
            guidance_scale=self.guidance_scale,
            given=None if self.given is None else self.given.to(views.rows.device)[views.rows],
        )
        if self.prefix is not None:
            self.prefix.rows, self.prefix.where = views.rows, views.where
            predictor = replace(predictor, speculation=self.prefix)
        time = torch.zeros_like(views.rows).double() if views.time is None else views.time
        prediction = predictor(views.canvas, time)
        tempered = self.law is not None
        found = prediction.log_prob_of(views.tokens, views.scored, tempered=tempered)
        spread = found[:0].flatten()
        if entropy:
            spread = prediction.entropy_of(views.scored, tempered=tempered)[views.where]
        return Scores(found[views.where], spread)


def check_scorable(denoiser: Denoiser) -> None:
    """Check that the model's log-probabilities follow from a canvas and its time.

    Raises:
        ValueError: the denoiser carries a state from pass to pass, or is step-conditioned.
    """
    for problem, present in (
        ("carries a state from one pass to the next", denoiser.carries),
        ("is told the length of the step", denoiser.step_conditioned),
    ):
        if present:
            raise ValueError(
                f"denoiser ({denoiser.family}) {problem}: its log-probabilities do "
                "not follow from a canvas alone. Use a denoiser without that."
            )
