"""BD3-LM: exact law, blocks, nucleus, and the stop rules on constructed texts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import BD3LM, FirstHitting
from dlm_sampling.samplers.bd3lm import BlockStop, token_entropy
from dlm_sampling.testing import EnumerableDenoiser, chi_square, count_states
from dlm_sampling.testing.sudoku import SudokuOracle, is_valid
from dlm_sampling.types import TokenLaw
from tests.samplers.small import run, small_toy

EOS = 9


@pytest.mark.parametrize("block", [None, 1, 2])
def test_without_the_nucleus_it_samples_the_joint_law(block: int | None) -> None:
    """Blocks only choose the order, so the law is the joint one, by chi-square."""
    joint = (
        torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) ** 2
    )
    out = run(
        EnumerableDenoiser(joint),
        BD3LM(),
        rows=4_000,
        law=TokenLaw(),
        block_length=block,
        return_trajectory=False,
    )
    assert chi_square(count_states(out.tokens, 3), joint.flatten()).p > 1e-4
    assert bool((out.nfe == 3).all())


def test_the_default_nucleus_leaves_out_the_crossing_token() -> None:
    """One position with 0.6, 0.35, 0.05: mass 0.95 crosses 0.9, so only the first token is left."""
    joint = torch.tensor([0.6, 0.35, 0.05])
    assert BD3LM().law == TokenLaw(top_p=0.9, crossing="exclude")
    out = run(EnumerableDenoiser(joint), BD3LM(), rows=200, length=1)
    assert bool((out.tokens == 0).all())
    two = run(EnumerableDenoiser(torch.tensor([0.5, 0.35, 0.15])), BD3LM(), rows=4_000, length=1)
    law = torch.tensor([0.5, 0.35, 0.0], dtype=torch.float64) / 0.85
    assert chi_square(count_states(two.tokens, 3), law).p > 1e-4


def test_it_is_first_hitting_in_every_block() -> None:
    toy, law = small_toy(2, 12, 7), TokenLaw()
    for block in (None, 4, 5):
        ours = run(toy, BD3LM(), length=12, rows=3, law=law, block_length=block)
        theirs = run(toy, FirstHitting(1), length=12, rows=3, law=law, block_length=block)
        assert torch.equal(ours.tokens, theirs.tokens)
    whole = run(toy, BD3LM(), length=12, rows=3, law=law)
    assert torch.equal(
        whole.tokens, run(toy, BD3LM(), length=12, rows=3, law=law, block_length=12).tokens
    )


def test_it_solves_sudoku() -> None:
    tokens = torch.zeros(40, 16, dtype=torch.int64)
    out = sample(
        SudokuOracle(),
        BD3LM(),
        tokens,
        torch.ones_like(tokens).bool(),
        seeds=ops.row_seeds(3, 40),
        block_length=4,
    )
    assert bool(is_valid(out.tokens).all())


def text(length: int, *ends: int) -> Tensor:
    """All tokens different, none of them EOS but at `ends`."""
    row = torch.arange(100, 100 + length)
    row[list(ends)] = EOS
    return row


def verdict(stop: BlockStop, row: Tensor, block: int = 4) -> tuple[int, bool]:
    found = stop(row.unsqueeze(0), EOS, block)
    return int(found.length[0]), bool(found.rejected[0])


def test_entropy_is_that_of_relative_frequencies() -> None:
    assert float(token_entropy(torch.full((8,), 3))) == 0.0
    assert float(token_entropy(torch.arange(8))) == pytest.approx(math.log(8))
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert float(token_entropy(torch.tensor([5, 1, 5, 5]))) == pytest.approx(expected)


def test_variable_length_cuts_after_the_second_end_token() -> None:
    stop = BlockStop(variable_length=True, window=8, min_entropy=1.0)
    assert verdict(stop, text(40, 0, 17)) == (18, False)
    assert verdict(stop, text(40, 0, 17, 25)) == (18, False)
    assert verdict(stop, text(40, 0)) == (40, False)
    # An end inside the first window is found with the first block that is past the window.
    assert verdict(stop, text(40, 0, 3)) == (4, False)
    assert verdict(BlockStop(True, ends=1, window=8, min_entropy=1.0), text(40, 5)) == (6, False)
    assert verdict(BlockStop(window=8, min_entropy=1.0), text(40, 0, 17)) == (40, False)


def test_repetition_is_rejected_or_cut() -> None:
    row = text(40)
    row[16:28] = 7
    # At column 24 the last 8 columns are all 7; at 20 half of them are, which is 1.7 nats of 2.1.
    assert verdict(BlockStop(window=8, min_entropy=1.0), row) == (40, True)
    assert verdict(BlockStop(True, window=8, min_entropy=1.0), row) == (16, False)
    assert verdict(BlockStop(window=8, min_entropy=0.0), row) == (40, False)
    # A text that is no longer than the window is never judged.
    assert verdict(BlockStop(window=8, min_entropy=1.0), torch.full((8,), 7)) == (8, False)


def test_rows_are_judged_on_their_own() -> None:
    bad = text(40)
    bad[10:40] = 7
    found = BlockStop(window=8, min_entropy=1.0)(torch.stack([text(40), bad]), EOS, 4)
    assert found.length.tolist() == [40, 40] and found.rejected.tolist() == [False, True]


def test_errors_name_the_field_and_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="tokens_per_step=0: must be at least 1"):
        BD3LM(tokens_per_step=0)
    with pytest.raises(
        ValueError, match=r"min_entropy=4\.0: must be at most log\(window\) = 2\.08"
    ):
        BlockStop(window=8)
    with pytest.raises(ValueError, match="ends=0"):
        BlockStop(ends=0)


def test_a_block_has_at_least_one_column_and_rules_their_ranges() -> None:
    rows = torch.arange(12).view(2, 6)
    for block in (1, 2, 5, 6, 9):
        found = BlockStop(window=2, min_entropy=0.5)(rows, 99, block)
        assert found.length.tolist() == [6, 6] and found.rejected.tolist() == [False, False]
    with pytest.raises(ValueError, match="block_length=0: must be at least 1"):
        BlockStop()(rows, 99, 0)
    none = BlockStop()(rows[:0], 99, 4)
    assert none.length.shape == (0,) and none.rejected.dtype == torch.bool
    for field in ("ends", "window"):
        with pytest.raises(ValueError, match=f"{field}=0: must be at least 1"):
            BlockStop(**{field: 0, "min_entropy": 0.0})
    BlockStop(ends=1, window=1, min_entropy=0.0)
