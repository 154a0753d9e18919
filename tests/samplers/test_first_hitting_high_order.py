"""The experimental first-hitting variants: reductions, and chi-square against their exact laws."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling.engine.sample import sample
from dlm_sampling.ops import row_seeds
from dlm_sampling.samplers import (
    FirstHitting,
    FirstHittingCorrection,
    FirstHittingExtrapolation,
)
from dlm_sampling.testing import EnumerableDenoiser, FixtureToy, chi_square, count_states
from dlm_sampling.types import TokenLaw
from tests.samplers.small import run, small_toy
from tests.test_laws_by_sampling import expected, toy

P_LIMIT = 1e-4
ROWS = 30_000
SYMBOLS, LENGTH = 3, 4


@pytest.mark.parametrize(("per_step", "steps"), [(1, None), (None, 9), (None, 30)])
@pytest.mark.parametrize("sampler", [FirstHittingExtrapolation, FirstHittingCorrection])
def test_one_token_per_forward_is_first_hitting(
    sampler: Any, per_step: int | None, steps: int | None
) -> None:
    options: dict[str, Any] = {
        "length": 9,
        "rows": 20,
        "steps": steps,
        "law": TokenLaw(),
        "block_length": None,
    }
    ours = run(small_toy(1, 9, 7), sampler(per_step), **options)
    reference = run(small_toy(1, 9, 7), FirstHitting(per_step), **options)
    assert torch.equal(ours.tokens, reference.tokens)
    assert torch.equal(ours.nfe, reference.nfe)


@pytest.mark.parametrize(
    ("per_step", "steps", "block"), [(3, None, None), (None, 4, None), (2, None, 5)]
)
def test_weight_zero_is_first_hitting(
    per_step: int | None, steps: int | None, block: int | None
) -> None:
    options: dict[str, Any] = {
        "length": 9,
        "rows": 20,
        "steps": steps,
        "law": TokenLaw(),
        "block_length": block,
    }
    ours = run(small_toy(1, 9, 7), FirstHittingExtrapolation(per_step, max_weight=0.0), **options)
    reference = run(small_toy(1, 9, 7), FirstHitting(per_step), **options)
    assert torch.equal(ours.tokens, reference.tokens)
    extrapolated = run(small_toy(1, 9, 7), FirstHittingExtrapolation(per_step), **options)
    assert torch.equal(extrapolated.nfe, reference.nfe)
    assert not torch.equal(extrapolated.tokens, reference.tokens)


def probs(toy: Any, tokens: tuple[int, ...]) -> Tensor:
    return toy.logits(torch.tensor([tokens]))[0, :, :SYMBOLS].softmax(-1)


def index(tokens: tuple[int, ...]) -> int:
    return sum(v * SYMBOLS ** (len(tokens) - 1 - i) for i, v in enumerate(tokens))


def extrapolated_law(toy: FixtureToy, max_weight: float) -> Tensor:
    """Four positions, groups of two: only the fourth hit is extrapolated.

    Its weight w is the ratio of one spacing of uniform times to the sum of two others,
    P(w > x) = (1 + x) ** -2, independent of the order; the mean over w is a midpoint sum.
    """
    u = (torch.arange(4000).double() + 0.5) / 4000
    w = (u**-0.5 - 1).clamp(max=max_weight).unsqueeze(1)
    law = torch.zeros(SYMBOLS**LENGTH).double()
    empty = (SYMBOLS,) * LENGTH
    before = probs(toy, empty)
    for order in itertools.permutations(range(LENGTH)):
        for a, b in itertools.product(range(SYMBOLS), repeat=2):
            x = list(empty)
            x[order[0]], x[order[1]] = a, b
            now = probs(toy, tuple(x))
            raw = (now[order[3]] + w * (now[order[3]] - before[order[3]])).clamp_min(0)
            last = (raw / raw.sum(1, keepdim=True)).mean(0)
            chance = before[order[0], a] * before[order[1], b] / 24
            for c, d in itertools.product(range(SYMBOLS), repeat=2):
                x[order[2]], x[order[3]] = c, d
                law[index(tuple(x))] += chance * now[order[2], c] * last[d]
    return law


def counted(
    toy: Any, sampler: Any, length: int, symbols: int = SYMBOLS, rows: int = ROWS
) -> tuple[Tensor, Any]:
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    out = sample(
        toy,
        sampler,
        tokens,
        torch.ones_like(tokens).bool(),
        seeds=row_seeds(31, rows),
        law=TokenLaw(),
    )
    return count_states(out.tokens, symbols), out


@pytest.mark.parametrize("max_weight", [1.0, 0.3])
def test_extrapolation_has_its_exact_law(max_weight: float) -> None:
    toy = small_toy(6, LENGTH, SYMBOLS + 1)
    found, out = counted(toy, FirstHittingExtrapolation(2, max_weight), LENGTH)
    assert bool((out.nfe == 2).all())
    result = chi_square(found, extrapolated_law(toy, max_weight))
    assert result.p > P_LIMIT, result


def test_without_extrapolation_the_law_differs() -> None:
    """Negative control."""
    toy = small_toy(6, LENGTH, SYMBOLS + 1)
    found, _ = counted(toy, FirstHitting(2), LENGTH)
    assert chi_square(found, extrapolated_law(toy, 0.0)).p > P_LIMIT
    assert chi_square(found, extrapolated_law(toy, 1.0)).p < P_LIMIT


def test_correction_with_an_exact_posterior_keeps_the_law() -> None:
    """The posterior at a written position is the token, so the second draw keeps the law."""
    reference = expected("first_hitting_parallel", "mask_strong", None, group_sizes=[2, 1])
    world: EnumerableDenoiser = toy("mask_strong")
    found, out = counted(world, FirstHittingCorrection(2), 3, world.vocab_size - 1)
    assert bool((out.nfe == 3).all())
    result = chi_square(found, reference)
    assert result.p > P_LIMIT, result


def corrected_law(toy: FixtureToy) -> Tensor:
    """Two positions in one group; one of them, either with probability 1/2, is drawn again."""
    law = torch.zeros(SYMBOLS**2).double()
    first = probs(toy, (SYMBOLS, SYMBOLS))
    for i, (a, b) in itertools.product(range(2), itertools.product(range(SYMBOLS), repeat=2)):
        again = (first[i] + probs(toy, (a, b))[i]) / 2
        for c in range(SYMBOLS):
            x = (c, b) if i == 0 else (a, c)
            law[index(x)] += first[0, a] * first[1, b] * again[c] / 2
    return law


def test_correction_has_its_exact_law() -> None:
    toy = small_toy(8, 2, SYMBOLS + 1, scale=1.5)
    found, out = counted(toy, FirstHittingCorrection(2), 2)
    assert bool((out.nfe == 2).all())
    result = chi_square(found, corrected_law(toy))
    assert result.p > P_LIMIT, result
    plain, _ = counted(toy, FirstHitting(2), 2)
    assert chi_square(plain, corrected_law(toy)).p < P_LIMIT


def test_correction_runs_in_blocks_and_over_ragged_rows() -> None:
    toy = small_toy(3, 10, 7)
    tokens = torch.zeros(3, 10, dtype=torch.int64)
    editable = torch.arange(10) < torch.tensor([[10], [7], [1]])
    for sampler in (
        FirstHittingCorrection(3),
        FirstHittingCorrection(),
        FirstHittingExtrapolation(3),
    ):
        options: dict[str, Any] = {"law": TokenLaw(), "block_length": 4, "steps": 5}
        out = sample(toy, sampler, tokens, editable, seeds=[1, 2, 3], **options)
        assert not bool((out.tokens == 6)[editable].any())
        for b in range(3):
            alone = sample(
                toy, sampler, tokens[b : b + 1], editable[b : b + 1], seeds=[b + 1], **options
            )
            assert torch.equal(alone.tokens[0], out.tokens[b])
            assert int(alone.nfe[0]) == int(out.nfe[b])


def test_greedy_decoding_is_possible() -> None:
    law = TokenLaw(temperature=0.0)
    for sampler in (FirstHittingCorrection(3), FirstHittingExtrapolation(3)):
        out = run(small_toy(1, 9, 7), sampler, length=9, rows=2, law=law)
        assert not bool((out.tokens == 6).any())


def test_fields_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="max_weight=-1"):
        FirstHittingExtrapolation(max_weight=-1.0)
    with pytest.raises(ValueError, match="tokens_per_step=0"):
        FirstHittingCorrection(0)
