"""Decide how many positions a text gets: a number, or as many as the model itself expects (DAEDAL).

    c(n) = (1 / W) sum of p_i(end) over the last W positions i whose most probable token ends a text
    n = begin, begin + grow, ...  until c(n) >= confidence, or n = most

with n masks behind the prompt.  A model that is sure of an end well before the last column has room
enough.  This is the first phase of Li et al. 2025, DAEDAL, arXiv:2508.00819, and its released code.

The second phase is not here: it puts masks in place of the least confident one in the middle of a
run.  That moves all columns right of it, and a column is what everything else is named by: random
numbers (a position's noise would become that of another), the blocks of a row and their steps, the
positions of stored keys, the automaton of a constraint, and the records of a run, of which every
step has the same columns (`StepEvent`, `Rollout`), so that no replay could tell an inserted mask
from a token that was masked again.  A loop that owns insertions is another engine than this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import Canvases
from dlm_sampling.errors import check_fields
from dlm_sampling.ops import Rng
from dlm_sampling.prediction.model import full_law
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.text.completion import GenerateOutput
from dlm_sampling.text.rows import PromptRow, build_rows
from dlm_sampling.types import TokenLaw
from dlm_sampling.types.values import bools

DEFAULT_NEW_TOKENS = 128


@dataclass(frozen=True)
class AutoLength:
    """Give each text as many positions as the model expects, as `max_new_tokens`.

    Fields:
        most: positions at most; the context of the model bounds them too.
        begin: positions to begin with.
        grow: positions to add as long as the model is not sure of an end.
        confidence: mean probability of an end at the last positions at which the text is long
            enough.
        window: number of these positions, W.

    NFE: 1 + (positions added) / grow for each prompt, in `out.nfe`.
    """

    most: int = 2048
    begin: int = 64
    grow: int = 8
    confidence: float = 0.5
    window: int = 32

    def __post_init__(self) -> None:
        """Refuse fields of other types, and numbers out of range."""
        check_fields(self)
        for name in ("most", "begin", "grow", "window"):
            value = vars(self)[name]
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1.")
        if self.begin > self.most:
            raise ValueError(f"begin={self.begin}: must be at most most={self.most}.")
        if not 0.0 < self.confidence <= 1.0:
            raise ValueError(f"confidence={self.confidence}: must be in (0, 1]; try 0.5.")


@dataclass(frozen=True)
class Grown:
    """Hold the lengths of some prompts, and what it took to find them.

    Fields:
        lengths: positions to append to each.
        passes: forward passes over each.
        columns: columns that these passes showed.
    """

    lengths: list[int]
    passes: list[int]
    columns: list[int]


@dataclass(frozen=True)
class Spent:
    """Hold what the rows of a call took to find their lengths, one entry per row.

    Fields:
        nfe: forward passes.
        work: columns that they showed, in whole canvases of the run.
        shared: of these what another row of the prompt showed.
    """

    nfe: list[int]
    work: list[float]
    shared: list[float]

    def added(self, output: GenerateOutput) -> GenerateOutput:
        """Return the output with these passes counted."""
        return replace(
            output,
            nfe=output.nfe + output.nfe.new_tensor(self.nfe),
            work=output.work + output.work.new_tensor(self.work),
            shared=output.shared + output.shared.new_tensor(self.shared),
        )


@torch.no_grad()
def grown(
    auto: AutoLength,
    denoiser: Denoiser,
    prompts: Sequence[PromptRow],
    stops: Sequence[int],
    batch_size: int | None = None,
) -> Grown:
    """Return the length of each text; prompts of one call run together, `batch_size` at a time.

    Args:
        auto: the rule.
        denoiser: a model of masks.
        prompts: as `new_tokens` has accepted them.
        stops: ids that end a text.
        batch_size: prompts that run together, or None for all.
    """
    count = len(prompts)
    most = [_most(auto, row, denoiser) for row in prompts]
    found = Grown([min(auto.begin, m) for m in most], [0] * count, [0] * count)
    left = [i for i in range(count) if most[i]]
    while left:
        growing: list[int] = []
        for first in range(0, len(left), batch_size or count):
            part = left[first : first + (batch_size or count)]
            rows = build_rows(
                [prompts[i] for i in part], [found.lengths[i] for i in part], denoiser,
                [0] * len(part), "keep",
            )  # fmt: skip
            canvases = rows.canvases.to(denoiser.device)
            short = _end_confidence(denoiser, canvases, stops, auto.window) < auto.confidence
            for i, more in zip(part, bools(short), strict=True):
                found.passes[i] += 1
                found.columns[i] += len(prompts[i].ids) + found.lengths[i]
                if more and found.lengths[i] < most[i]:
                    found.lengths[i] = min(found.lengths[i] + auto.grow, most[i])
                    growing.append(i)
        left = growing
    return found


def _end_confidence(
    denoiser: Denoiser, canvases: Canvases, stops: Sequence[int], window: int
) -> Tensor:
    """Return c of each row whose positions are all masks, [B]."""
    editable, mask = canvases.editable, denoiser.mask_token_id
    assert mask is not None
    tokens = canvases.tokens.masked_fill(editable, mask)
    predict = Predictor.alone(denoiser, full_law(TokenLaw(), denoiser), canvases.attention)
    t = torch.ones(len(tokens), dtype=torch.float64, device=tokens.device)
    rng = Rng.from_seeds(canvases.seeds, device=tokens.device)
    draw = predict(tokens, t).draw(editable, rng, greedy=torch.ones_like(t, dtype=torch.bool))
    ends = torch.isin(draw.token, torch.tensor(list(stops), device=tokens.device)) & editable
    late = ends & (ends.flip(1).cumsum(1).flip(1) <= window)
    return torch.where(late, draw.log_confidence.exp(), 0.0).sum(1) / window


def new_tokens(
    asked: int | AutoLength | None,
    index: int,
    row: PromptRow,
    denoiser: Denoiser,
    stops: Sequence[int],
) -> int:
    """Return the positions to append to a row, rounded up to whole canvases if need be.

    With `AutoLength` they are those to begin with.

    Raises:
        ValueError: there are fewer than 0, or nothing tells how long the text should be.
    """
    context, canvas = denoiser.max_length, denoiser.canvas_length or 1
    if isinstance(asked, AutoLength):
        _check_auto(index, row, denoiser, stops)
        return min(asked.begin, _most(asked, row, denoiser))
    if asked is not None and asked < 0:
        raise ValueError(f"max_new_tokens={asked}: must be at least 0.")
    if asked is None and row.draft is not None:
        asked = max(0, len(row.draft) - sum(row.fill))
    elif asked is None and row.infill:
        return 0
    if asked is None:
        asked = DEFAULT_NEW_TOKENS
        prompt = len(row.open().ids)
        asked = asked if context is None else max(1, min(asked, context - prompt))
    return -(-asked // canvas) * canvas


def _most(auto: AutoLength, row: PromptRow, denoiser: Denoiser) -> int:
    """Return the most positions of a text, at least 1; a prompt without room is refused later."""
    context = denoiser.max_length
    return auto.most if context is None else max(1, min(auto.most, context - len(row.open().ids)))


def _check_auto(index: int, row: PromptRow, denoiser: Denoiser, stops: Sequence[int]) -> None:
    """Refuse rows and models for which no length can be found.

    Raises:
        ValueError: it names which, and what to do.
    """
    instead = "give max_new_tokens as a number"
    if denoiser.mask_token_id is None or denoiser.canvas_length is not None:
        raise ValueError(
            f"max_new_tokens: this network ({denoiser.family}) has no masks to ask for an end of "
            f"the text, or writes whole canvases only; {instead}."
        )
    if denoiser.step_conditioned:
        raise ValueError(
            f"max_new_tokens: this network ({denoiser.family}) is told the length of a step, and "
            f"no step is taken to find the length; {instead}."
        )
    if not stops:
        raise ValueError(
            "max_new_tokens: AutoLength looks for an end of the text, and no id ends one; give "
            f"eos_token_id, or {instead}."
        )
    if row.infill or row.draft is not None:
        raise ValueError(
            f"max_new_tokens: prompt {index} is filled in place or has a draft, which has its "
            f"length already; {instead}, or leave it out."
        )
