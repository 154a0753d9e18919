"""Plans of masks: sizes, shares, complements and weights, each counted on the masks themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.likelihood.mask_plans import SCHEMES, MaskPlan, Places, one_to

# Four positions, two, none.
EDITABLE = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()
COUNT = [4, 2, 0]


def plan(scheme: str, n: int = 6) -> MaskPlan:
    rng = ops.Rng.from_seeds([1, 2, 3], device=torch.device("cpu"))
    return SCHEMES[scheme].plan(Places(EDITABLE, rng), n)


def sizes(found: MaskPlan) -> Tensor:
    return found.masks.sum(2)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_positions_to_score_are_masked(scheme: str) -> None:
    found = plan(scheme)
    assert not (found.masks & ~EDITABLE).any()
    assert found.weights.shape == found.masks.shape[:2]
    assert found.weights.dtype == torch.float64


@pytest.mark.parametrize("scheme", ["count", "stratified"])
def test_a_subset_of_l_positions_weighs_c_over_l(scheme: str) -> None:
    found = plan(scheme, 8)
    for row in (0, 1):
        drawn = sizes(found)[:, row]
        assert int(drawn.min()) >= 1
        assert found.weights[:, row].tolist() == [COUNT[row] / int(each) for each in drawn]


def test_stratified_sizes_are_each_taken_equally_often() -> None:
    found = sizes(plan("stratified", 8))
    assert found[:, 0].bincount().tolist() == [0, 2, 2, 2, 2]
    assert found[:, 1].bincount().tolist() == [0, 4, 4]


def test_a_share_weighs_one_over_its_level_and_pairs_are_complements() -> None:
    found = plan("coupled", 6)
    first, second = found.masks[::2], found.masks[1::2]
    assert torch.equal(first ^ second, EDITABLE.expand(3, -1, -1))
    assert not (first & second).any()
    torch.testing.assert_close(
        1 / found.weights[::2] + 1 / found.weights[1::2], torch.ones(3, 3).double()
    )
    alone = plan("bernoulli", 3)
    assert torch.equal(alone.masks, first) and torch.equal(alone.weights, found.weights[::2])
    with pytest.raises(ValueError, match=r"n=3: .* must be even"):
        plan("coupled", 3)


def test_the_level_is_the_share_that_is_masked() -> None:
    """10000 positions: the share masked is t = 1 / weight up to four standard deviations."""
    every = torch.ones(3, 10_000, dtype=torch.bool)
    rng = ops.Rng.from_seeds([4, 5, 6], device=torch.device("cpu"))
    found = SCHEMES["bernoulli"].plan(Places(every, rng), 2)
    share, t = found.masks.double().mean(2), 1 / found.weights
    assert ((share - t).abs() < 4 * (t * (1 - t) / 10_000).sqrt()).all()


def test_every_subset_once_with_weights_of_one_over_l_times_c_over_l() -> None:
    found = plan("enumerate")
    assert len(found.masks) == 2**4 - 1
    for row in (0, 1):
        used = found.masks[:, row][found.weights[:, row] > 0]
        assert len({tuple(mask.tolist()) for mask in used}) == len(used) == 2 ** COUNT[row] - 1
        for mask, weight in zip(found.masks[:, row], found.weights[:, row], strict=True):
            size = int(mask.sum())
            exact = 15 / (size * math.comb(COUNT[row], size)) if size else 0.0
            assert float(weight) == pytest.approx(exact)
    assert not found.weights[:, 2].any() and not found.masks[:, 2].any()


def test_one_position_at_a_time_and_all_at_once() -> None:
    one = plan("leave_one_out")
    assert [mask.nonzero()[:, 0].tolist() for mask in one.masks[:, 0]] == [[0], [1], [3], [4]]
    assert [mask.nonzero()[:, 0].tolist() for mask in one.masks[:, 1]] == [[2], [3], [], []]
    assert one.weights.T.tolist() == [[4.0] * 4, [4.0, 4.0, 0.0, 0.0], [0.0] * 4]
    every = plan("mean_field")
    assert torch.equal(every.masks[0], EDITABLE) and every.weights.tolist() == [[1.0] * 3]


def test_a_uniform_number_becomes_a_whole_one() -> None:
    u = torch.tensor([0.0, 0.24, 0.26, 0.999, 1.0, 0.7], dtype=torch.float64)
    assert one_to(torch.tensor([4, 4, 4, 4, 4, 0]), u).tolist() == [1, 1, 2, 4, 4, 1]
    for total, least in ((0, 1), (1, 1), (2, 1)):
        every = one_to(torch.tensor(total), torch.tensor([0.0, 0.49, 0.5, 1.0]).double()).tolist()
        assert every == [least, least, max(total, 1), max(total, 1)]


def test_too_many_subsets_are_refused_with_their_number() -> None:
    rng = ops.Rng.from_seeds([1], device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"a row has 13 positions, .* 2 \*\* 13 - 1"):
        SCHEMES["enumerate"].plan(Places(torch.ones(1, 13).bool(), rng), 1)
