"""Sample by loops written in plain torch: the least that a sampler of their kind would cost.

They know no seeds, ragged rows, blocks or statistics, and return tokens and the steps they took.
Each does in float32, over all positions, what its algorithm asks of a step:

    LLaDA        the argmax and its probability; the quota's most confident positions
    margin       the two most probable tokens; the quota's positions of the largest margins
    entropy      the argmax and the entropy of every law; the quota's least uncertain positions
    CCD          the same, and whether rank and argmax are those of the step before
    mean         the argmax and the entropy of the mean of the laws of two steps
    credit       the laws with and without the credit of [B, L, V] tokens predicted before
    KLASS        LLaDA's, and the divergence of every law from that of the step before
    ancestral    one draw at every position, from the reverse law on masks
    uniform      one draw at every position, from the reverse law under uniform noise

A draw needs noise, so that the last two cost several times the first: a sampler that draws at every
position is measured against them, one that takes the argmax against the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from dlm_sampling.samplers.ccd import CCD
from dlm_sampling.samplers.ccd_average import CCDAverage
from dlm_sampling.samplers.d3llm import D3LLM
from dlm_sampling.samplers.dinfer_credit import DInferCredit
from dlm_sampling.samplers.dream import Dream
from dlm_sampling.samplers.eb_sampler import EBSampler
from dlm_sampling.samplers.klass import KLASS
from dlm_sampling.samplers.llada import LLaDA
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
        _write_best(x, confidence, token, quota)
    return x, steps


@torch.no_grad()
def margin_by_hand(logits: Tensor, steps: int) -> tuple[Tensor, int]:
    """Write the argmax where the runner-up is farthest: LLaDA's quota in Dream's "topk_margin".

    Ye et al. 2025, arXiv:2508.15487.
    """
    count, length, vocab = logits.shape
    mask = vocab - 1
    x = torch.full((count, length), mask)
    for quota in _quotas(length, steps):
        masked = x == mask
        law = logits.softmax(-1)
        p, token = law.max(-1, keepdim=True)
        margin = (p - law.scatter_(-1, token, 0.0).amax(-1, keepdim=True))[..., 0]
        margin, token = torch.where(masked, margin, -torch.inf), token[..., 0]
        _write_best(x, margin, token, quota)
    return x, steps


@torch.no_grad()
def entropy_by_hand(logits: Tensor, steps: int) -> tuple[Tensor, int]:
    """Write the argmax where the entropy is least: LLaDA's quota in Dream's order "entropy".

    Ye et al. 2025, arXiv:2508.15487.
    """
    count, length, vocab = logits.shape
    mask = vocab - 1
    x = torch.full((count, length), mask)
    for quota in _quotas(length, steps):
        masked = x == mask
        token, certainty = logits.argmax(-1), _certainty(logits)
        certainty = torch.where(masked, certainty, -torch.inf)
        _write_best(x, certainty, token, quota)
    return x, steps


@torch.no_grad()
def ccd_by_hand(logits: Tensor, steps: int) -> tuple[Tensor, int]:
    """Write where rank and argmax last for two steps, else the least uncertain: CCD.

    Chen et al. 2025, arXiv:2512.02044, with the settings of the authors' script: order "entropy", a
    warm-up of 5 steps and a window that grows to five times the share of a step.
    """
    count, length, vocab = logits.shape
    mask, share = vocab - 1, max(length // steps, 1)
    x = torch.full((count, length), mask)
    before, waiting = torch.zeros_like(x), torch.zeros(count, length, dtype=torch.bool)
    window = [0] * count
    for step in range(steps):
        masked = x == mask
        if not masked.any():
            return x, step
        token, certainty = logits.argmax(-1), _certainty(logits)
        order = torch.where(masked, certainty, -torch.inf).argsort(-1, descending=True)
        for row in range(count):
            left = int(masked[row].sum())
            start = 1 if 10 * left <= length else window[row]
            window[row] = 1 if step < 4 else min(start + 1, 5 * share)
            ranked = order[row, :left]
            chosen, top = ranked[:share], ranked[: window[row]]
            if step == steps - 1:
                chosen = ranked
            elif step >= 5 and waiting[row, chosen].any():
                agree = top[waiting[row, top] & (token[row, top] == before[row, top])]
                chosen = agree if len(agree) >= share else chosen
            x[row, chosen] = token[row, chosen]
            waiting[row] = False
            waiting[row, ranked[x[row, ranked] == mask][: window[row]]] = True
        before = token
    return x, steps


@torch.no_grad()
def mean_by_hand(logits: Tensor, steps: int) -> tuple[Tensor, int]:
    """Write LLaDA's quota by the mean of the laws of two steps, the least uncertain first.

    After the text of Chen et al. 2025, arXiv:2512.02044.
    """
    count, length, vocab = logits.shape
    mask = vocab - 1
    x = torch.full((count, length), mask)
    before = logits.softmax(-1)
    for quota in _quotas(length, steps):
        masked = x == mask
        law = logits.softmax(-1)
        mean = (law + before).mul_(0.5)
        token, certainty = mean.argmax(-1), (mean * (mean + 1e-12).log()).sum(-1)
        certainty = torch.where(masked, certainty, -torch.inf)
        _write_best(x, certainty, token, quota)
        before = law
    return x, steps


@torch.no_grad()
def credit_by_hand(logits: Tensor, steps: int) -> tuple[Tensor, int]:
    """Write by a threshold on laws that favour tokens predicted before: CreditDecoding.

    Wang et al. 2025, arXiv:2510.06133, with dInfer's settings and its rule of near-ties: what is
    likely enough, or within 1e-5 of the most confident.
    """
    count, length, vocab = logits.shape
    mask, step = vocab - 1, 0
    x = torch.full((count, length), mask)
    masked = torch.ones_like(x, dtype=torch.bool)  # an argmax may be the mask
    credit = torch.zeros_like(logits)
    while masked.any():
        p, best = logits.softmax(-1).max(-1, keepdim=True)
        credit.mul_(0.8).scatter_add_(-1, best, p.pow_(0.2))
        p, token = (logits + 0.7 * credit.log1p()).softmax(-1).max(-1)
        p = torch.where(masked, p, -torch.inf)
        ready = masked & (p >= (p.amax(1, keepdim=True) - 1e-5).clamp(max=0.9))
        x[ready] = token[ready]
        masked &= ~ready
        step += 1
    return x, step


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


LLADA, MARGIN, ENTROPY, CCD_LOOP, MEAN, CREDIT, KLASS_LOOP, ANCESTRAL, UNIFORM = (
    f"{name} by hand"
    for name in (
        "LLaDA", "margin", "entropy", "CCD", "mean", "credit", "KLASS", "ancestral", "uniform",
    )
)  # fmt: skip
LOOPS: Mapping[str, HandLoop] = {
    LLADA: llada_by_hand,
    MARGIN: margin_by_hand,
    ENTROPY: entropy_by_hand,
    CCD_LOOP: ccd_by_hand,
    MEAN: mean_by_hand,
    CREDIT: credit_by_hand,
    KLASS_LOOP: klass_by_hand,
    ANCESTRAL: ancestral_by_hand,
    UNIFORM: uniform_by_hand,
}

_ORDERS: Mapping[str, str] = {"margin": MARGIN, "entropy": ENTROPY}
_OWN: Mapping[type[Sampler[Any]], str] = {
    KLASS: KLASS_LOOP,
    CCD: CCD_LOOP,
    CCDAverage: MEAN,
    DInferCredit: CREDIT,
    EBSampler: ENTROPY,
    D3LLM: ENTROPY,
}


def loop_like(sampler: Sampler[Any], noise: str) -> str:
    """Return the name of the loop that does by hand what a step of the sampler has to do.

    Args:
        sampler: with the law that it draws from by itself.
        noise: "uniform", or "absorbing".
    """
    for kind, name in _OWN.items():
        if isinstance(sampler, kind):
            return name
    if noise == "uniform":
        return UNIFORM
    if sampler.law.temperature != 0.0:
        return ANCESTRAL
    return _ORDERS.get(sampler.order, LLADA) if isinstance(sampler, LLaDA | Dream) else LLADA


def _certainty(logits: Tensor) -> Tensor:
    """Return minus the entropy of every law, [B, L]."""
    log_law = logits.log_softmax(-1)
    return (log_law.exp() * log_law).sum(-1)


def _write_best(x: Tensor, score: Tensor, token: Tensor, quota: int) -> None:
    """Write the tokens of the largest scores of every row, all [B, L], row by row as released."""
    written = torch.zeros_like(x, dtype=torch.bool)
    for row in range(len(x)):
        written[row, score[row].topk(quota).indices] = True
    x[written] = token[written]


def _quotas(length: int, steps: int) -> list[int]:
    """Return the positions that each step writes."""
    return [length // steps + (step < length % steps) for step in range(steps)]
