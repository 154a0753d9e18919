import itertools

import pytest
import torch

from dlm_sampling.testing import chi_square
from dlm_sampling.testing.sudoku import MASK, SudokuOracle, all_grids, is_valid, parse, render


def brute_force_grids():
    """All grids by recursion over cells, without any code of the module."""
    out = []

    def fill(cells):
        i = len(cells)
        if i == 16:
            out.append(cells)
            return
        r, c = divmod(i, 4)
        peers = {
            cells[j]
            for j in range(i)
            if j // 4 == r or j % 4 == c or (j // 8 == r // 2 and j % 4 // 2 == c // 2)
        }
        for v in set(range(4)) - peers:
            fill([*cells, v])

    fill([])
    return sorted(out)


def test_there_are_288_grids_and_they_are_those_of_a_search():
    assert all_grids().tolist() == brute_force_grids()
    assert len(all_grids()) == 288


def test_is_valid_accepts_exactly_the_grids():
    assert bool(is_valid(all_grids()).all())
    one_changed = all_grids().clone()
    one_changed[:, 7] = (one_changed[:, 7] + 1) % 4
    assert not bool(is_valid(one_changed).any())
    latin_square = parse("1234/2341/3412/4123")  # rows and columns right, boxes wrong
    assert not bool(is_valid(latin_square))
    assert not bool(is_valid(torch.full((16,), MASK)))


def test_the_oracle_counts_the_grids_that_agree():
    oracle, grids = SudokuOracle(), all_grids()
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        grid = grids[int(torch.randint(288, (), generator=rng))]
        hidden = torch.rand(16, generator=rng) < 0.7
        canvas = torch.where(hidden, MASK, grid)
        left = [g for g in grids if all(canvas[i] in (MASK, g[i]) for i in range(16))]
        expected = torch.stack(
            [sum((g == v).double() for g in left) / len(left) for v in range(4)], dim=1
        )
        torch.testing.assert_close(oracle.probs(canvas[None])[0, :, :4], expected)


def test_one_cell_at_a_time_in_random_order_is_valid_and_uniform():
    oracle, rng = SudokuOracle(), torch.Generator().manual_seed(0)
    canvas = torch.full((8000, 16), MASK)
    order = torch.rand(canvas.shape, generator=rng).argsort(dim=1)
    for i in range(16):
        cell = order[:, i : i + 1]
        probs = oracle.probs(canvas)[torch.arange(len(canvas)), cell[:, 0], :4]
        canvas.scatter_(1, cell, torch.multinomial(probs, 1, generator=rng))
    assert bool(is_valid(canvas).all())
    key = 4 ** torch.arange(16)
    _, counts = torch.unique(torch.cat((canvas, all_grids())) @ key, return_counts=True)
    assert len(counts) == 288
    assert chi_square(counts - 1, torch.full((288,), 1 / 288)).p > 1e-4


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("1..4/..3.", {0: 0, 3: 3, 6: 2}),
        ("1..4..3.", {0: 0, 3: 3, 6: 2}),
        ("1 _ 0 4\n. .\n\n", {0: 0, 3: 3}),
        ("1//2", {0: 0, 8: 1}),
        ("", {}),
    ],
)
def test_parse_reads_what_is_there(text, filled):
    grid = parse(text)
    assert {i: int(v) for i, v in enumerate(grid) if v != MASK} == filled


def test_render_and_parse_are_inverse():
    for grid in itertools.chain(all_grids()[::37], [parse("1..4/..3.")]):
        assert parse(render(grid)).tolist() == grid.tolist()
    assert render(parse("12/34")) == "12..\n34..\n....\n...."


@pytest.mark.parametrize("text", ["12345/", "1/2/3/4/1", "5...", "12a4", "1" * 17])
def test_parse_refuses_what_is_no_grid(text):
    with pytest.raises(ValueError, match=r"cells|rows"):
        parse(text)


def test_render_refuses_what_is_no_grid():
    with pytest.raises(ValueError, match="16 ids"):
        render(torch.full((16,), 5))
