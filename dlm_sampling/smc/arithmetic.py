"""Draw the N rows of a prompt from evenly spaced codes: arithmetic sampling.

    c_n = (n / N + u) mod 1,  u uniform,  one u for all N rows
    token of a site   v with F(v - 1) <= c < F(v),  F the cumulated law;  c <- (c - F(v - 1)) / p(v)

Each row alone has the model's law, as its code is uniform; together the rows share the law out: of
the N first tokens floor(N p(v)) or one more are v.  Sites are read in the order of steps, from left
to right within a step.  Rows of a prompt write the same positions in every step where the sampler's
choice reads no token, since they share all other random numbers.  A code of 53 bits is used up by
tokens of 40 bits; then its 8 leading bits stay, and the rest is a new (n / N + u') mod 1.

Vilnis et al. 2023, "Arithmetic Sampling: Parallel Diverse Decoding for Large Language Models",
arXiv:2210.15458, there from left to right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.engine.sample import sample
from dlm_sampling.errors import check_whole
from dlm_sampling.guidance.best_of import SharedPasses
from dlm_sampling.ops.philox import Stream
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.contract import check_sampler
from dlm_sampling.smc.targets import check_weighable
from dlm_sampling.types import (
    Canvas,
    Clock,
    Pipeline,
    Predict,
    RandomSource,
    Sampler,
    Step,
    TokenLaw,
)

USED_BITS = 40.0  # of 53; a code with fewer fresh ones is refilled
KEPT = 256.0  # its leading 8 bits stay
_SUB = 16  # sub-draws of a step from here on are those of the codes


def sample_arithmetic(
    denoiser: Denoiser,
    sampler: Sampler[Any],
    tokens: Tensor,
    editable: Tensor,
    *,
    rows: int,
    seeds: Sequence[int],
    attention_mask: Tensor | None = None,
    steps: int | None = None,
    block_length: int | None = None,
    law: TokenLaw | None = None,
) -> SampleOutput:
    """Sample N rows of each prompt that share the law out among them.

    Args:
        denoiser: a model with masks.
        sampler: writes positions that are chosen without the drawn tokens, in one pass, such as
            llada-random; tokens it would write as an argmax are drawn from the law too.
        tokens: int64 [G, L], as in `sample`.
        editable: bool [G, L].
        rows: N, per prompt; with 1 the code is uniform and the row one of a plain run, of other
            random numbers.
        seeds: one per prompt.
        attention_mask: bool [G, L], False at padding, or None.
        steps: see `sample`.
        block_length: see `sample`.
        law: temperature and filters of the draws; default the model's own.

    Returns:
        The output of `sample` of G N rows, those of a prompt adjacent; `logprob` is that of the
        law, of each row by itself.

    Raises:
        ValueError: rows < 1, or the sampler's positions depend on tokens.
    """
    check_whole("rows", rows)
    if rows < 1:
        raise ValueError(f"rows={rows}: must be at least 1; try 8.")
    check_sampler(sampler)
    check_weighable("arithmetic codes", denoiser, sampler)
    given = attention_mask
    return sample(
        denoiser,
        Coded(sampler, rows),
        tokens.repeat_interleave(rows, 0),
        editable.repeat_interleave(rows, 0),
        attention_mask=None if given is None else given.repeat_interleave(rows, 0),
        seeds=[seed for seed in seeds for _ in range(rows)],
        steps=steps,
        block_length=block_length,
        law=TokenLaw() if law is None else law,
    )


class CodeState(NamedTuple):
    """Hold the code of every row.

    base: state of the sampler.  place: float64 [B], n / N.  code: float64 [B], in [0, 1), NaN
    before the first step.  used: float64 [B], bits of it that tokens have used up.
    """

    base: Any
    place: Tensor
    code: Tensor
    used: Tensor


@dataclass(frozen=True)
class Coded(SamplerBase[CodeState]):
    """Take the steps of a sampler, with tokens from codes; rows of a prompt adjacent, N of them.

    Fields:
        base: the sampler.
        rows: N.
    """

    base: Sampler[Any]
    rows: int

    recorded_on = ()
    unscored = "its tokens come from codes that several rows share"

    def __post_init__(self) -> None:
        object.__setattr__(self, "clock_use", self.base.clock_use)
        object.__setattr__(self, "schedule", self.base.schedule)

    @property
    def looks_ahead(self) -> bool:
        """Return whether the sampler looks ahead."""
        return self.base.looks_ahead

    @property
    def own_steps(self) -> int | None:
        """Return the sampler's own steps."""
        return self.base.own_steps

    @property
    def pipeline(self) -> Pipeline | None:
        """Return the sampler's pipeline."""
        return self.base.pipeline

    @property
    def constrainable(self) -> bool:
        """Return False: codes do not see a constraint."""
        return False

    def schedule_length(self, steps: int) -> int | None:
        """Return the loop steps of the sampler."""
        return self.base.schedule_length(steps)

    def finished(self, state: CodeState, canvas: Canvas, clock: Clock) -> Tensor | None:
        """Return the rows whose block the sampler ends."""
        return self.base.finished(state.base, canvas, clock)

    def init(self, canvas: Canvas) -> CodeState:
        """Return the places of all rows, and no codes yet."""
        place = (torch.arange(len(canvas.start)) % self.rows).double() / self.rows
        place = place.to(canvas.start.device)
        none = torch.full_like(place, torch.nan)
        return CodeState(self.base.init(canvas), place, none, torch.zeros_like(place))

    def step(
        self, state: CodeState, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[CodeState, Step]:
        """Take the sampler's step, and draw its tokens anew."""
        shared = SharedPasses(predict)
        after, step = self.base.step(state.base, canvas, clock, shared, rng)
        first = (rng.uniform(Stream.RESAMPLE, canvas.start, _SUB) + state.place) % 1.0
        code = torch.where(state.code.isnan(), first, state.code)
        state = CodeState(after, state.place, code, state.used)
        where = canvas.eligible & ~step.unknown
        if not bool(where.any()):
            return state, step
        asked = [(t, made) for (x, t, *_), made in shared.seen if torch.equal(x, canvas.tokens)]
        if not asked:
            raise ValueError(
                f"sampler: {type(self.base).__name__} writes tokens without a pass over the "
                "canvas before them, so that codes have no law to read; try llada-random."
            )
        t, prediction = asked[0]
        alpha = self.schedule.alpha(t.double())
        law = prediction.table(where, alpha=alpha, reads="posterior")
        state, token, logprob = read_codes(state, where, law, rng)
        tokens = canvas.tokens.masked_scatter(where, token)
        logprob = torch.zeros(where.shape, dtype=torch.float64).to(where.device).masked_scatter(
            where, logprob
        )  # fmt: skip
        return state, Step(tokens, step.unknown, logprob)


def read_codes(
    state: CodeState, where: Tensor, law: Tensor, rng: RandomSource
) -> tuple[CodeState, Tensor, Tensor]:
    """Read the tokens of R sites off the codes, in each row from left to right.

    Args:
        state: the codes.
        where: bool [B, L], the sites.
        law: float64 [R, V], their laws, row-major.
        rng: random numbers of the step, for refills.

    Returns:
        The codes after it, tokens int64 [R], and log-probabilities float64 [R].
    """
    code, used = state.code.clone(), state.used.clone()
    row = where.nonzero()[:, 0]
    place = (where.cumsum(1) - 1)[where]
    edges = law.cumsum(1)
    edges = edges / edges[:, -1:]
    token, logprob = torch.zeros_like(row), torch.zeros_like(law[:, 0])
    for k in range(int(place.max()) + 1):
        here = place == k
        owner, upper = row[here], edges[here]
        c = code[owner].unsqueeze(1)
        found = torch.searchsorted(upper, c, right=True).clamp(max=law.shape[1] - 1)
        top = upper.gather(1, found)
        low = torch.where(found > 0, upper.gather(1, (found - 1).clamp(min=0)), 0.0)
        share = (top - low)[:, 0]
        token[here], logprob[here] = found[:, 0], share.log()
        code[owner] = ((c - low)[:, 0] / share).clamp(0.0, 1.0 - 2.0**-53)
        used[owner] -= share.log2()
        spent = used > USED_BITS
        fresh = (rng.uniform(Stream.RESAMPLE, used, _SUB + 1 + k) + state.place) % 1.0
        code = torch.where(spent, ((code * KEPT).floor() + fresh) / KEPT, code)
        used = used.masked_fill(spent, 0.0)
    return state._replace(code=code, used=used), token, logprob
