"""Measure control on toys and on the embedded models; write the result file, picture and page.

python -m dlm_eval.control.run
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from dlm_eval.control import clues, products, steering
from dlm_eval.control.page import render
from dlm_eval.control.picture import draw
from dlm_eval.program import check_result, command_of, start
from dlm_sampling import AutoDenoiser
from dlm_sampling.embedded import embedded_path

GAMMA = 2.0
WORLDS = 3
COUNTS = (4, 16, 64, 256)
DRAWS = 8192
SUDOKU_SCALE, LETTERS_SCALE = 2.0, 0.3
LENGTH = 16
CLUES: dict[str, Any] = {"puzzles": 12, "clues": 8, "right": 0.8, "particles": 128}
CLUE_COUNTS = [1, 4, 16]
SUDOKU = [
    (method, steps, count)
    for steps in (2, 4, 8, 16)
    for method, count in (
        ("best of n", 1), ("best of n", 4), ("particles", 4), ("candidates", 4),
    )
]  # fmt: skip
LETTERS = [
    ("best of n", 8, 1), ("best of n", 16, 1), ("best of n", 8, 8), ("particles", 8, 8),
    ("candidates", 8, 4),
]  # fmt: skip


def measure(rows: int, texts: int, command: str) -> dict[str, Any]:
    """Return the whole result.

    Args:
        rows: sudoku grids of each setting.
        texts: texts of each setting.
        command: repeats it.
    """
    model = AutoDenoiser.from_pretrained(embedded_path("sudoku4x4"))
    grids = steering.sudoku(model, SUDOKU_SCALE)
    books = steering.long_texts(
        AutoDenoiser.from_pretrained(embedded_path("tiny-books")), LENGTH, LETTERS_SCALE
    )
    worlds = [products.measure(seed, GAMMA, COUNTS, DRAWS) for seed in range(WORLDS)]
    return {
        "command": command,
        "products": {"gamma": GAMMA, "draws": DRAWS, "worlds": worlds},
        "sudoku": {
            "rows": rows, "scale": SUDOKU_SCALE,
            "records": [steering.measure(grids, m, rows, s, c) for m, s, c in SUDOKU],
        },
        "clues": {**CLUES, "records": clues.measure(model, **CLUES, counts=CLUE_COUNTS)},
        "letters": {
            "rows": texts, "scale": LETTERS_SCALE, "tokens": LENGTH,
            "records": [steering.measure(books, m, texts, s, c) for m, s, c in LETTERS],
        },
    }  # fmt: skip


def write(result: dict[str, Any], out: Path, figure: Path, page: Path) -> None:
    """Write the three files, each in one piece."""
    near = {
        name: Path(os.path.relpath(file, page.parent)).as_posix()
        for name, file in (("file", out), ("figure", figure))
    }
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    parts = ((out, text.encode()), (figure, draw(result)), (page, render(result, near).encode()))
    for path, data in parts:
        draft = path.with_name(path.name + ".tmp")
        draft.write_bytes(data)
        os.replace(draft, path)


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")] = Path(
        "eval/results/control.json"
    ),
    figure: Annotated[Path, typer.Option(help="Picture (PNG).")] = Path("eval/results/control.png"),
    page: Annotated[Path, typer.Option(help="Page with picture and tables.")] = Path(
        "eval/CONTROL.md"
    ),
    rows: Annotated[int, typer.Option(min=2, help="Sudoku grids per setting.")] = 48,
    texts: Annotated[int, typer.Option(min=2, help="Texts per setting.")] = 8,
) -> None:
    """Measure control; write the result file, the picture and the page."""
    check_result(out, figure, page)
    write(measure(rows, texts, command_of("dlm_eval.control.run")), out, figure, page)
    typer.echo(f"Wrote {out}, {figure} and {page}")


if __name__ == "__main__":
    start(main)
