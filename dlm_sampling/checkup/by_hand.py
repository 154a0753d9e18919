"""Sample by loops written in plain torch: the least that a sampler of their kind would cost.

They know no seeds, ragged rows, blocks or statistics, and return tokens and the steps they took.
Each does in float32, over all positions, what its algorithm asks of a step:

    LLaDA        the argmax and its probability; the quota's most confident positions
    KLASS        the same, and the divergence of every law from that of the step before
    ancestral    one draw at every position, from the reverse law on masks
    uniform      one draw at every position, from the reverse law under uniform noise

A draw needs noise, so that the last two cost several times the first: a sampler that draws at every
position is measured against them, one that takes the argmax against the first two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from dlm_sampling.samplers import klass as samplers
from dlm_sampling.types import Sampler

HandLoop = Callable[[Tensor, int], tuple[Tensor, int]]
"""Takes logits [B, L, V] and planned steps; returns tokens [B, L] and the steps taken."""


@torch.no_grad()
def llada_by_hand(logits: Tensor, steps: int) -> tuple[Tensor, int]:
    """Write the most confident argmax tokens of every row: LLaDA's `generate` at temperature 0.

    Nie et al. 2025, arXiv:2502.09992.  The released loop picks the positions of each row in turn.
    """
    count, length, vocab = logits.shape
    mask = vocab - 1
    x = torch.full((count, length), mask)
    for quota in _quotas(length, steps):
        masked = x == mask
        token = logits.argmax(-1)
        p = logits.softmax(-1).gather(-1, token[..., None])[..., 0]
        token = torch.where(masked, token, x)
        confidence = torch.where(masked, p, -torch.inf)
        written = torch.zeros_like(masked)
        for row in range(count):
            written[row, confidence[row].topk(quota).indices] = True
        x[written] = token[written]
    return x, steps


@torch.no_grad()
def klass_by_hand(logits: Tensor, steps: int) -> tuple[Tensor, int]:
    """Write the stable and confident argmax tokens, at least the quota: KLASS at temperature 0.

    Kim et al. 2025, arXiv:2511.05664, with a confidence of 0.9, a divergence of 0.01 and two
    comparisons.
    """
    count, length, vocab = logits.shape
    mask = vocab - 1
    x = torch.full((count, length), mask)
    previous, before = torch.zeros_like(logits), torch.zeros(count, length)
    for step, quota in enumerate(_quotas(length, steps)):
        masked = x == mask
        if not masked.any():
            return x, step
        law = logits.softmax(-1)
        p, token = law.max(-1)
        change = (law * ((law + 1e-12).log() - (previous + 1e-12).log())).sum(-1)
        stable = (change < 0.01) & (before < 0.01) & (step > 0)
        ready = masked & stable & (p > 0.9)
        confidence = torch.where(masked & ~ready, p, -torch.inf)
        for row in range(count):
            missing = min(quota, int(masked[row].sum())) - int(ready[row].sum())
            if missing > 0:
                ready[row, confidence[row].topk(missing).indices] = True
        x[ready] = token[ready]
        previous, before = law, change
    return x, steps


@torch.no_grad()
def ancestral_by_hand(logits: Tensor, steps: int) -> tuple[Tensor, int]:
    """Draw from the reverse law on masks: MDLM's ancestral sampling with exponential noise.

    Sahoo et al. 2024, arXiv:2406.07524.
    """
    count, length, vocab = logits.shape
    mask, generator = vocab - 1, Generator().manual_seed(0)
    x = torch.full((count, length), mask)
    for step in range(steps):
        t, s = 1.0 - step / steps, 1.0 - (step + 1) / steps
        law = logits.softmax(-1) * (t - s)
        law[..., mask] = s
        noise = torch.empty_like(law).exponential_(generator=generator)
        x = torch.where(x == mask, (law / noise).argmax(-1), x)
    return x, steps


@torch.no_grad()
def uniform_by_hand(logits: Tensor, steps: int) -> tuple[Tensor, int]:
    """Draw from the reverse law under uniform noise, at every position, with exponential noise.

    Schiff et al. 2024, arXiv:2412.10193.  q(y) = (a 1[y = x] + (1 - a) / V) (s p(y) + (1 - s) / V)
    up to a constant, with s the level of the step's end and a s that of its beginning.
    """
    count, length, vocab = logits.shape
    generator = Generator().manual_seed(0)
    x = torch.randint(vocab, (count, length), generator=generator)
    for step in range(steps):
        begin, end = step / steps, (step + 1) / steps
        kept, noise = begin / end, (1.0 - begin / end) / vocab
        law = logits.softmax(-1).mul_(end).add_((1.0 - end) / vocab)
        here = x[..., None]
        law = (law * noise).scatter_(-1, here, law.gather(-1, here) * (kept + noise))
        x = (law / torch.empty_like(law).exponential_(generator=generator)).argmax(-1)
    return x, steps


LLADA, KLASS, ANCESTRAL, UNIFORM = (
    f"{name} by hand" for name in ("LLaDA", "KLASS", "ancestral", "uniform")
)
LOOPS: Mapping[str, HandLoop] = {
    LLADA: llada_by_hand,
    KLASS: klass_by_hand,
    ANCESTRAL: ancestral_by_hand,
    UNIFORM: uniform_by_hand,
}


def loop_like(sampler: Sampler[Any], noise: str) -> str:
    """Return the name of the loop that does by hand what a step of the sampler has to do.

    Args:
        sampler: with the law that it draws from by itself.
        noise: "uniform", or "absorbing".
    """
    if isinstance(sampler, samplers.KLASS):
        return KLASS
    if noise == "uniform":
        return UNIFORM
    return LLADA if sampler.law.temperature == 0.0 else ANCESTRAL


def _quotas(length: int, steps: int) -> list[int]:
    """Return the positions that each step writes."""
    return [length // steps + (step < length % steps) for step in range(steps)]
