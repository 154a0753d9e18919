"""Take M steps from one canvas, and go on with one of them: SVDD as particles of one step's memory.

    m ~ softmax(v_k / a)   over the canvases of step k,   then all M particles are copies of m
    log G_k = (v_k - v_{k-1}) / a,   v_0 = 0

It is the driver of particles whose groups go on from a single ancestor after every step: with equal
weights before the step the law of the ancestor is that of its weight.  So the estimate of
E[exp(v(x) / a)], v of finished rows, is unbiased here too, where a > 0.  The tokens are those of
`guidance.BestOf`, which makes the candidates of a step from one pass; here each has its own, which
costs M times the passes and keeps the path of all candidates.  Li et al. 2024, arXiv:2408.08252.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.caches import AnyPolicy
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.checks import check_canvases
from dlm_sampling.engine.request import BlockRequest, Canvases, Request
from dlm_sampling.engine.run import Moved, Run
from dlm_sampling.engine.state import RunState
from dlm_sampling.guidance.best_of import BestOf
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.smc.driver import Groups, ParticleDriver, Particles, particle_run, with_seeds
from dlm_sampling.smc.targets import Weighing
from dlm_sampling.smc.twisted import growth
from dlm_sampling.types import Sampler, TokenLaw
from dlm_sampling.types.values import ints


def sample_candidates(
    denoiser: Denoiser,
    sampler: Sampler[Any],
    tokens: Tensor,
    editable: Tensor,
    choice: BestOf,
    *,
    seeds: Sequence[int],
    attention_mask: Tensor | None = None,
    steps: int | None = None,
    block_length: int | None = None,
    align_blocks: bool = False,
    law: TokenLaw | None = None,
    cache: str | AnyPolicy = "auto",
    return_trajectory: bool = False,
) -> Particles:
    """Sample with M candidates per step, of which one goes on: SVDD.

    The M particles of a row end as copies of one text, the row that `sample` writes with
    `guidance=choice` and the same seed.

    Args:
        denoiser: the model.
        sampler: makes the candidates.
        tokens: int64 [G, L], as in `sample`.
        editable: bool [G, L].
        choice: value, candidates m, temperature a and kind, as for guidance.
        seeds: one per row.
        attention_mask: bool [G, L], False at padding, or None.
        steps: see `sample`.
        block_length: see `sample`.
        align_blocks: see `sample`.
        law: token law; default the model's own.
        cache: see `sample`; keys and values follow their particles.
        return_trajectory: keep the steps of all candidates, also of those that were left.

    Returns:
        `log_normalizer` is log of the unbiased estimate of E[exp(v / a)], NaN for a = 0.

    Raises:
        ValueError: the sampler sets its own pace.

    NFE: M times that of a run, and with kind "PM" M more per step.
    """
    request = Request(
        sampler,
        TokenLaw() if law is None else law,
        BlockRequest(block_length, steps, align=align_blocks),
        cache=cache,
        reads_ahead=type(choice).__name__ if choice.looks_ahead else None,
        return_trajectory=return_trajectory,
    )
    rows = check_canvases(denoiser, tokens, editable, attention_mask, seeds)
    rng = ops.Rng.from_seeds(rows.seeds)
    keys = torch.stack([rng.branch(number).keys for number in range(choice.m)], 1)
    slots = with_seeds(rows, choice.m, ints(keys.flatten()))
    with torch.no_grad():
        run = particle_run(denoiser, request, slots)
        groups = Groups(choice.m, rows.seeds)
        return _Candidates(run, slots, choice, groups, kept=return_trajectory).finish()


@dataclass(frozen=True)
class _Nothing:
    """Weigh nothing: the driver of candidates has weights of its own."""

    @property
    def looks_ahead(self) -> bool:
        """Return False: the choice says whether it does."""
        return False

    def check(self, denoiser: Denoiser, request: Request) -> None:
        """Accept every run."""

    def begin(self, rows: int, device: torch.device) -> Tensor:
        """Return the value v_0 = 0 of every slot."""
        return torch.zeros(rows, 1, dtype=torch.float64, device=device)

    def weigh(self, step: Weighing, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight 1."""
        return torch.zeros_like(memory[:, 0]), memory

    def end(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros_like(memory[:, 0])


class _Candidates(ParticleDriver):
    """Choose one candidate of each group after every step."""

    def __init__(
        self, run: Run, slots: Canvases, choice: BestOf, groups: Groups, *, kept: bool
    ) -> None:
        super().__init__(run, slots, _Nothing(), groups, kept=kept)
        self.choice = choice

    def weighed(
        self, before: RunState, moved: Moved, state: RunState, predictor: Predictor
    ) -> Tensor:
        """Return the growth of the values in units of the temperature, and keep the values."""
        value = self.choice.value_of(
            self.run.sampler, moved.canvas, moved.step, predictor, before.rng
        )
        last, self.memory[state.rows, 0] = self.memory[state.rows, 0].clone(), value
        warmth = self.choice.temperature
        return growth(last, value) / warmth if warmth > 0.0 else torch.full_like(value, math.nan)

    def due(self) -> Tensor:
        """Return True: every step ends with a choice."""
        return torch.ones(len(self.log_weights), dtype=torch.bool, device=self.log_weights.device)

    def drawn(self, before: RunState) -> Tensor:
        """Return the chosen slot of each group, M times, int64 [G, M]."""
        own = before.rows[:: self.count] // self.count
        values = self.memory[:, 0].view(-1, self.count)
        chosen = torch.zeros_like(values, dtype=torch.int64)
        picked = self.choice.choose(values[own], before.rng.select(before.rows % self.count == 0))
        chosen[own] = picked.unsqueeze(1).expand(-1, self.count)
        return chosen
