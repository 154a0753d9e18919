"""The tail that float32 Gumbel noise misses (arXiv 2409.02908): the race and the cooled law.

With Gumbel noise cut off at M, that is arrivals E >= epsilon = exp(-M), and probabilities sorted
upwards, P(token n wins) = p_n * sum over i <= n of beta_i, with S_i the mass of i and all above and
beta_i = [exp((K - i - S_i / p_i) epsilon) - exp((K - i - S_i / p_{i-1}) epsilon)] / S_i, i from 0.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.ops.categorical import race
from dlm_sampling.ops.philox import Stream, lane_exponentials
from dlm_sampling.ops.scratch import Scratch
from dlm_sampling.ops.sources import Block
from dlm_sampling.ops.temperature import MODEL_LAW
from dlm_sampling.ops.tiles import read_tiles
from dlm_sampling.ops.vocabulary import allowed_ids
from dlm_sampling.types import TokenLaw
from tests.ops.laws import chi_square_p, poisson_plausible

EPSILON = 2.0**-24  # the smallest arrival of 24-bit noise


def truncated_law(p: Tensor, epsilon: float) -> Tensor:
    """The law of a race whose arrivals cannot fall below epsilon, float64."""
    order = p.argsort()
    q = p[order]
    above = q.flip(0).cumsum(0).flip(0)
    left = len(q) - torch.arange(len(q), dtype=torch.float64)
    first = ((left - above / q) * epsilon).exp()
    second = torch.zeros_like(first)
    second[1:] = ((left - above / q.roll(1)) * epsilon).exp()[1:]
    win = q * ((first - second) / above).cumsum(0)
    return torch.empty_like(p).index_put_((order,), win)


def test_formula_of_the_truncated_race() -> None:
    """The negative controls below rest on the formula, so it is checked by simulation first."""
    g = torch.Generator().manual_seed(5)
    p = torch.tensor([0.6, 0.25, 0.1, 0.04, 0.01], dtype=torch.float64)
    epsilon, count = math.exp(-3.0), 200_000
    noise = epsilon - torch.rand(count, 5, generator=g, dtype=torch.float64).log()
    winners = torch.bincount((p / noise).argmax(-1), minlength=5)
    law = truncated_law(p, epsilon)
    assert float(law.sum()) == pytest.approx(1.0)
    assert chi_square_p(winners, law) > 1e-3
    assert chi_square_p(winners, p) < 1e-12


def test_race_finds_a_far_tail() -> None:
    """One head and 262144 tail tokens 20.5 nats below it: 33 tail tokens in 100000 draws."""
    tail, gap, count = 262_144, 20.5, 100_000
    logits = torch.full((1, tail + 1), -gap)
    logits[0, 5000] = 0.0
    allowed, scratch = allowed_ids(tail + 1, (), logits.device), Scratch(logits.device)
    found = read_tiles(Block.of(logits, None), allowed, MODEL_LAW, MODEL_LAW, scratch)
    hits = 0
    for start in range(0, count, 2000):
        zero, positions = torch.zeros(2000, dtype=torch.int64), torch.arange(start, start + 2000)
        clocks = lane_exponentials(
            zero + 9, positions, zero, stream=Stream.TOKEN, lanes=64 + allowed.tiles
        )
        many = found._replace(drawn=found.drawn._replace(tiles=found.drawn.tiles.expand(2000, -1)))
        token, _ = race(Block.of(logits, zero), allowed, many, 1.0, clocks)
        hits += int((token != 5000).sum())
    rate = tail * math.exp(-gap) / (1.0 + tail * math.exp(-gap))
    assert poisson_plausible(hits, count * rate)
    # Negative control: float32 noise cannot lift any tail token above the head.
    best = -math.log(-math.log(1.0 - EPSILON))
    worst = -math.log(-math.log(EPSILON))
    assert best - gap < worst
    assert not poisson_plausible(0, count * rate)


def test_small_tail_through_the_whole_draw() -> None:
    """A tail of 4096 tokens, 12 nats down, drawn through the public function."""
    count = 30_000
    logits = torch.full((1, 4097), -12.0)
    logits[0, 0] = 0.0
    zero = torch.zeros(count, dtype=torch.int64)
    token = ops.draw(logits, keys=zero, positions=torch.arange(count), steps=zero, rows=zero).token
    mass = 4096 * math.exp(-12.0)
    hits = token[token > 0]
    assert poisson_plausible(hits.numel(), count * mass / (1.0 + mass))
    assert chi_square_p(torch.bincount((hits - 1) // 256), torch.full((16,), 1 / 16)) > 1e-3


def zipf(vocab: int) -> Tensor:
    p = 1.0 / torch.arange(1, vocab + 1, dtype=torch.float64)
    return p / p.sum()


def test_step_size_does_not_cool_the_law() -> None:
    """Ancestral step of size 1/1024 at t = 0.5: commit first, then draw, against one joint race."""
    vocab, t, steps, count = 50_257, 0.5, 1024, 600_000
    p, delta = zipf(vocab), 1.0 / steps
    rng = ops.Rng.from_seeds([31])
    commit = rng.uniform(ops.Stream.COMMIT, torch.empty(1, count)) < delta / t
    keys, positions, where = rng.at(*commit.nonzero(as_tuple=True))
    logits = p.log().float()[None]
    rows = torch.zeros_like(keys)
    token = ops.draw(logits, keys=keys, positions=positions, steps=where, rows=rows).token
    surprise, rate = -p.log(), delta / t
    entropy = float((p * surprise).sum())
    spread = float((p * (surprise - entropy) ** 2).sum()) ** 0.5

    def agrees(committed: int, tokens: Tensor) -> bool:
        off = abs(float(surprise[tokens].mean()) - entropy) / (spread / math.sqrt(len(tokens)))
        slow = abs(committed - count * rate) / math.sqrt(count * rate * (1.0 - rate))
        return off < 3.0 and slow < 3.0

    assert entropy == pytest.approx(7.566, abs=1e-3)
    assert agrees(int(commit.sum()), token)

    # Negative control: the joint race of all tokens and the mask with float32 noise.
    joint = torch.cat((p * delta / t, torch.tensor([1.0 - delta / t], dtype=torch.float64)))
    law = truncated_law(joint, EPSILON)
    cold = law[:-1] / law[:-1].sum()
    assert float(law[:-1].sum()) / rate == pytest.approx(0.70, abs=0.01)
    assert float(-(cold * cold.clamp(min=1e-300).log()).sum()) == pytest.approx(5.72, abs=0.01)
    committed = round(count * float(law[:-1].sum()))
    g = torch.Generator().manual_seed(0)
    cold_tokens = torch.multinomial(cold, committed, replacement=True, generator=g)
    assert not agrees(committed, token)
    assert not agrees(int(commit.sum()), cold_tokens)


FIXTURES = Path(os.environ.get("DLM_FIXTURES", Path(__file__).parent.parent / "fixtures"))
NUCLEUS = [
    case
    for case in json.loads((FIXTURES / "laws" / "k1_mask.json").read_text())["cases"]
    if case["sampler"].startswith("mask.nucleus")
]


@pytest.mark.parametrize("case", NUCLEUS, ids=lambda case: case["id"])
def test_nucleus_tables_of_the_released_code(case: dict[str, dict[str, list[float]]]) -> None:
    params: dict[str, object] = case["params"]  # type: ignore[assignment]
    law = TokenLaw(top_p=params["top_p"], crossing=params["crossing"])  # type: ignore[arg-type]
    log_p0 = torch.tensor(case["inputs"]["log_p0"], dtype=torch.float64)
    want = torch.tensor(case["expected"]["p0_truncated"], dtype=torch.float64)
    assert torch.allclose(ops.filtered_log_law(log_p0, law).exp(), want, rtol=0.0, atol=1e-9)
