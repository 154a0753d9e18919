"""The committed measurement of control: its page and picture are of its file, and it says so."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from dlm_eval.control import clues, products, steering
from dlm_eval.control.page import render
from dlm_eval.control.picture import fingerprint
from PIL import Image

from dlm_sampling.testing import all_states, sudoku
from tests.guidance.toys import P, Q, chain_law

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "eval/results/control.json"
RESULT: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
LINKS = {"file": "results/control.json", "figure": "results/control.png"}


def test_the_page_and_the_picture_are_those_of_the_file() -> None:
    page = (ROOT / "eval/CONTROL.md").read_text(encoding="utf-8")
    assert page == render(RESULT, LINKS)
    with Image.open(ROOT / "eval/results/control.png") as picture:
        assert picture.info["Description"] == fingerprint(RESULT)
    assert RESULT["command"].startswith("python -m dlm_eval.control.run")


def test_particles_reach_the_product_law_and_guidance_does_not() -> None:
    for kept in RESULT["products"]["worlds"]:
        p, q = products.world(kept["seed"])
        table = p**2 / q
        assert math.isclose(kept["Z"], float(table.sum()), rel_tol=1e-9)
        law = products.guided_law(p, q, 2.0)
        gap = float((law - table / table.sum()).abs().sum()) / 2
        assert math.isclose(kept["guidance"], gap, rel_tol=1e-9)
        distances = [record["tv"] for record in kept["particles"]]
        assert kept["guidance"] > distances[0] > distances[2]
        assert distances[-1] < 0.35 * kept["guidance"]
        for record in kept["particles"]:
            assert abs(record["Z"] - kept["Z"]) < 4.0 * record["Z_error"]


def test_the_exact_law_of_guidance_is_that_of_the_chain() -> None:
    def conditionals(canvases: torch.Tensor) -> torch.Tensor:
        laws = torch.zeros(len(canvases), 3, 3, dtype=torch.float64)
        for n, canvas in enumerate(canvases.tolist()):
            for i in range(3):
                hidden = tuple(j for j in range(3) if canvas[j] == 3 and j != i)
                at = tuple(0 if canvas[j] == 3 else canvas[j] for j in range(3) if j != i)
                table = products._conditional(P, Q, 2.0, i, hidden).movedim(i, 2)
                laws[n, i] = table[tuple(a if table.shape[k] > 1 else 0 for k, a in enumerate(at))]
        return laws

    found = products.guided_law(P, Q, 2.0).flatten()
    torch.testing.assert_close(found, chain_law(conditionals), rtol=0, atol=1e-12)


def test_steering_by_reward_makes_more_valid_grids_and_longer_texts() -> None:
    grids = {(r["method"], r["steps"]): r for r in RESULT["sudoku"]["records"]}
    for steps in (4, 8):
        plain = grids["plain", steps]["valid"]
        for method in ("best of n", "particles", "candidates"):
            assert grids[method, steps]["valid"] > plain
    texts = {(r["method"], r["steps"]): r for r in RESULT["letters"]["records"]}
    for method in ("best of n", "particles", "candidates"):
        assert texts[method, 8]["letters"] > texts["plain", 8]["letters"]


def test_particles_come_near_the_posterior_of_noisy_clues() -> None:
    believed, alone, *particles = RESULT["clues"]["records"]
    assert [r["count"] for r in particles] == [4, 16] and alone["count"] == 1
    assert believed["valid"] < 0.2 < 0.8 < alone["valid"]
    distances = [r["distance"] for r in (alone, *particles)]
    assert distances == sorted(distances, reverse=True) and distances[-1] < believed["distance"]
    grid = sudoku.all_grids()[5]
    seen = clues.Puzzle(torch.tensor([0, 3]), torch.tensor([int(grid[0]), (int(grid[3]) + 1) % 4]))
    rows = torch.stack((grid, torch.full((16,), sudoku.MASK)))
    wanted = torch.tensor([0.8 * 0.2 / 3, 0.25**2]).double().log()
    torch.testing.assert_close(clues.log_likelihood(seen, 0.8)(rows), wanted)


def test_broken_units_are_counted() -> None:
    grid = sudoku.all_grids()[17:18].clone()
    assert steering.broken_units(grid).tolist() == [0.0]
    grid[0, 0], grid[0, 1] = int(grid[0, 1]), int(grid[0, 0])  # two columns, no row, no box
    assert steering.broken_units(grid).tolist() == [2.0]
    many = all_states(4, 4).repeat(1, 4)
    assert torch.equal(steering.broken_units(many) == 0.0, sudoku.is_valid(many))
