"""Codes: a group shares the law out, each row alone has the law, and bits are refilled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling import samplers
from dlm_sampling.ops import Rng
from dlm_sampling.smc import sample_arithmetic
from dlm_sampling.smc.arithmetic import CodeState, read_codes
from dlm_sampling.testing import chi_square, count_states
from dlm_sampling.types import TokenLaw
from tests.guidance.toys import EXACT_P, LENGTH, NOISY_P, P, S


def run(groups: int, rows: int, name: str = "llada-random", **options: Any) -> Any:
    empty = torch.zeros(groups, LENGTH, dtype=torch.int64)
    options = {"seeds": range(groups), **options}
    return sample_arithmetic(
        options.pop("denoiser", EXACT_P), samplers.create(name), empty, empty == 0,
        rows=rows, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["llada-random", "sdar-sequential"])
def test_a_group_shares_the_law_out(name: str) -> None:
    """Each text has N P(x) rows, one more or less: its codes are an interval of that length."""
    out = run(1, 1000, name)
    counts = count_states(out.tokens, S)
    assert float((counts - 1000 * P.flatten()).abs().max()) <= 1.0 + 1e-6
    texts = P.flatten()[out.tokens @ torch.tensor([9, 3, 1])].log()
    torch.testing.assert_close(out.logprob.double().sum(1), texts, rtol=0, atol=1e-5)
    assert out.nfe.unique().tolist() == [LENGTH]


@pytest.mark.slow
def test_each_row_alone_has_the_law_and_rows_differ_more_than_independent_ones() -> None:
    """Also in steps of several positions, whose law is another, the same for all rows."""
    tokens = run(800, 3).tokens.view(800, 3, LENGTH)
    for row in range(3):
        assert chi_square(count_states(tokens[:, row], S), P.flatten()).p > 1e-3
    same = (tokens[:, 0] == tokens[:, 1]).all(1).double().mean()
    independent = float(P.flatten().square().sum())
    assert float(same) < 0.2 * independent
    wide = run(800, 3, steps=1).tokens
    product = torch.einsum("a,b,c->abc", P.sum((1, 2)), P.sum((0, 2)), P.sum((0, 1)))
    assert chi_square(count_states(wide, S), product.flatten()).p > 1e-3


def test_the_law_of_the_run_is_shared_out_and_prompts_stay_apart() -> None:
    law = TokenLaw(temperature=0.7)
    out = run(1, 400, "sdar-sequential", law=law, steps=3)
    first = P.sum((1, 2)) ** (1 / 0.7)
    counts = torch.bincount(out.tokens[:, 0], minlength=S)
    assert float((counts - 400 * first / first.sum()).abs().max()) <= 1.0 + 1e-6
    together, alone = run(3, 4, seeds=[5, 6, 7]), run(1, 4, seeds=[6])
    assert torch.equal(together.tokens[4:8], alone.tokens)
    greedy = run(2, 3, law=TokenLaw(temperature=0.0)).tokens.view(2, 3, LENGTH)
    assert bool((greedy == greedy[:, :1]).all())


def test_long_texts_refill_their_codes() -> None:
    """Of 200 coins each comes as often as its law says, and no two rows have the same text."""
    count, sites = 300, 200
    place = torch.arange(count).double() / count
    state = CodeState(None, place, (place + 0.123) % 1.0, torch.zeros_like(place))
    heads = 0.2 + 0.6 * torch.rand(sites, generator=torch.Generator().manual_seed(5)).double()
    law = torch.stack((1.0 - heads, heads), 1).repeat(count, 1)
    where = torch.ones(count, sites, dtype=torch.bool)
    after, token, logprob = read_codes(state, where, law, Rng.from_seeds([3] * count))
    coins = token.view(count, sites)
    assert len(coins.unique(dim=0)) == count
    share = coins.double().mean(0)
    assert abs(float(share[0] - heads[0])) <= 1 / count
    assert float((share - heads).abs().max()) < 0.12 and float((share - heads).std()) < 0.04
    torch.testing.assert_close(logprob.exp(), law.gather(1, token.unsqueeze(1))[:, 0])
    assert float(after.used.max()) <= 40.0 < float(-logprob.view(count, sites).sum(1).max())
    assert bool(((after.code >= 0.0) & (after.code < 1.0)).all())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="rows=0: must be at least 1"):
        run(1, 0)
    for options in ({"name": "llada"}, {"name": "euler", "denoiser": NOISY_P}):
        with pytest.raises(ValueError, match="arithmetic codes: a step must be the tokens"):
            run(1, 2, **options)
