import json
import runpy
from pathlib import Path

import torch

from dlm_sampling import AutoDenoiser

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_sudoku.py"


def test_a_short_run_learns_saves_and_reports(tmp_path):
    example = runpy.run_path(str(EXAMPLE))
    before = torch.random.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        example["main"](
            out=tmp_path / "model",
            steps=12,
            batch_size=32,
            hidden_size=16,
            layers=1,
            heads=2,
            samples=20,
            results=tmp_path / "table.json",
        )
    assert torch.equal(before, torch.random.get_rng_state())
    report = json.loads((tmp_path / "table.json").read_text())
    assert report["kl_per_masked_cell"] < 0.9  # 12 steps are enough to leave the start
    for clues in ("0 clues", "5 clues"):
        for order in ("random order", "confidence order"):
            assert report["valid"]["oracle"][f"{clues}, {order}"]["16 steps"] == 1.0
    denoiser = AutoDenoiser.from_pretrained(tmp_path / "model")
    assert denoiser.tokenizer is not None
    assert denoiser.tokenizer("12/.4")["input_ids"] == [0, 1, 4, 3]
