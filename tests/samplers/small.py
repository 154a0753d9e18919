"""Small worlds for the tests of samplers: a toy, its exact chains, and one call of the loop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.testing import FixtureToy
from dlm_sampling.types import Sampler, TokenLaw

MASK, LENGTH, SYMBOLS = 3, 3, 3

Tokens = tuple[int, ...]
LogProbs = list[list[float]]
Rule = Callable[[Tokens, Any, LogProbs, Tokens, int], list[tuple[float, Tokens, Any]]]
"""(canvas, memory, log p, proposal, step) -> branches (probability, next canvas, next memory)."""


def small_toy(
    seed: int = 0, length: int = LENGTH, vocab_size: int = MASK + 1, scale: float = 1.0
) -> FixtureToy:
    """Random logits that depend on every token; the mask is the last id."""
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(vocab_size, vocab_size, generator=generator, dtype=torch.float64) * scale
    p = torch.randn(length, vocab_size, generator=generator, dtype=torch.float64) * scale
    return FixtureToy(e, p, vocab_size - 1)


def run(
    denoiser: Denoiser,
    sampler: Sampler[Any],
    *,
    length: int = LENGTH,
    rows: int = 1,
    prompt: list[int] | None = None,
    seed: int = 1,
    law: TokenLaw | None = None,
    **options: Any,
) -> SampleOutput:
    """`rows` equal rows of a prompt and masks up to `length`, with the trajectory."""
    known = prompt or []
    tokens = torch.tensor(known + [0] * (length - len(known))).expand(rows, length)
    editable = (torch.arange(length) >= len(known)).expand(rows, length)
    options = {"return_trajectory": True, **options}
    return sample(
        denoiser, sampler, tokens, editable, seeds=ops.row_seeds(seed, rows), law=law, **options
    )


def exact_law(toy: FixtureToy, rule: Rule, steps: int, memory: Any = None) -> Tensor:
    """Law of the final tokens when every step proposes a token at every position from the toy's
    law.

    The rule is a plain reading of the paper in Python; this enumerates all proposals.  [S ** L], C
    order.
    """
    law: dict[tuple[Tokens, Any], float] = {((MASK,) * LENGTH, memory): 1.0}
    for step in range(steps):
        following: dict[tuple[Tokens, Any], float] = {}
        for (tokens, kept), mass in law.items():
            logp: LogProbs = (
                toy.logits(torch.tensor([tokens]))[0, :, :SYMBOLS].log_softmax(-1).tolist()
            )
            for proposal, chance in proposals(logp):
                for share, after, remembered in rule(tokens, kept, logp, proposal, step):
                    key = (after, remembered)
                    following[key] = following.get(key, 0.0) + mass * chance * share
        law = following
    total = torch.zeros(SYMBOLS**LENGTH, dtype=torch.float64)
    for (tokens, _), mass in law.items():
        assert MASK not in tokens
        total[sum(v * SYMBOLS ** (LENGTH - 1 - i) for i, v in enumerate(tokens))] += mass
    return total


def proposals(logp: LogProbs) -> Iterator[tuple[Tokens, float]]:
    """Every joint proposal with its probability."""
    for proposal in itertools.product(range(SYMBOLS), repeat=LENGTH):
        yield proposal, math.exp(sum(logp[i][v] for i, v in enumerate(proposal)))


def lowest(scores: list[float], k: int) -> set[int]:
    """Indices of the k smallest scores, the first of equals."""
    return set(sorted(range(len(scores)), key=lambda i: (scores[i], i))[:k])
