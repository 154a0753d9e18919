"""Two random laws over three tokens at three positions, and predictions under a guidance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.guidance import Guidance
from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.prediction.model import Counts, RunModel, full_law
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.testing import EnumerableDenoiser, NoisyEnumerableDenoiser, all_states
from dlm_sampling.types import DenoiserOutput, Pass, TokenLaw

S, LENGTH, MASK = 3, 3, 3


def joint(seed: int, length: int = LENGTH) -> Tensor:
    """A random law over S^length rows."""
    g = torch.Generator().manual_seed(seed)
    law = torch.rand((S,) * length, generator=g, dtype=torch.float64) ** 2 + 0.02
    return law / law.sum()


P, Q = joint(1), joint(2)
EXACT_P, EXACT_Q = EnumerableDenoiser(P), EnumerableDenoiser(Q)
NOISY_P, NOISY_Q = NoisyEnumerableDenoiser(P), NoisyEnumerableDenoiser(Q)
CANVASES = all_states(LENGTH, S + 1)  # every canvas of tokens and masks
CANVASES = CANVASES[(CANVASES == MASK).any(1)]
STATES = all_states(LENGTH, S)


class Remembering(EnumerableDenoiser):
    """The conditionals of a law, sharpened by a state that remembers the canvases before."""

    carries = True

    def initial_carry(self, input_ids: Tensor) -> Tensor:
        return torch.zeros(len(input_ids), dtype=torch.float64)

    def forward(self, inputs: Pass) -> DenoiserOutput:
        out = super().forward(inputs)
        sharper = out.values * (1.0 + inputs.carry)[:, None, None]
        seen = (inputs.tokens * torch.tensor([1, 2, 4])).sum(1) % 7 / 7.0
        return DenoiserOutput(sharper, carry=0.5 * inputs.carry + seen)


def predict(
    guidance: Guidance | None,
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor | float = 0.5,
    law: TokenLaw | None = None,
    given: Tensor | None = None,
) -> tuple[LazyPrediction, Predictor]:
    """A prediction of canvases under a guidance, and its predictor, which counts the passes."""
    times = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
    model = RunModel(
        denoiser, full_law(law or TokenLaw(), denoiser), Counts.zero(len(x), x.device),
        guidance=guidance,
    )  # fmt: skip
    fixed = torch.zeros_like(x, dtype=torch.bool) if given is None else given
    predictor = Predictor(model, PassRows(torch.arange(len(x)), given=fixed))
    return LazyPrediction(predictor, x, times), predictor


def log_probs(guidance: Guidance | None, denoiser: Denoiser, x: Tensor, **options: Any) -> Tensor:
    """The model's log-laws at the masks of x, [R, V]."""
    return predict(guidance, denoiser, x, **options)[0].log_probs(x == MASK)


def chain_law(conditionals: Any) -> Tensor:
    """The law of rows whose masks are written one by one in random order, [27].

    `conditionals(x)` gives the laws [n, L, S] of canvases.
    """
    mass = {(MASK,) * LENGTH: 1.0}
    for _ in range(LENGTH):
        canvases = torch.tensor(list(mass))
        laws = conditionals(canvases)
        after: dict[tuple[int, ...], float] = {}
        for (canvas, weight), law in zip(mass.items(), laws, strict=True):
            for state, share in _moves(canvas, law):
                after[state] = after.get(state, 0.0) + weight * share
        mass = after
    return torch.tensor([mass[tuple(s)] for s in STATES.tolist()], dtype=torch.float64)


def _moves(canvas: tuple[int, ...], law: Tensor) -> Iterator[tuple[tuple[int, ...], float]]:
    masks = [i for i, token in enumerate(canvas) if token == MASK]
    for i in masks:
        for v in range(S):
            yield (*canvas[:i], v, *canvas[i + 1 :]), float(law[i, v]) / len(masks)
