"""kill -9 at any time, on one process or two: the samples are those of an undisturbed run."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path

import pytest

from tests.forks import NOTHING, ROOT, Fork, Forks

pytestmark = pytest.mark.slow


def work(out: Path) -> int:
    """Bytes of all that a run keeps before its results."""
    rooms = (out / "journal", out / "samples", out / "answers")
    return sum(p.stat().st_size for r in rooms for p in r.rglob("*") if p.is_file())


COMPARE = ["eval", "compare", "sudoku4x4", "--samplers", "ancestral,llada", "--nfe", "4",
           "--task", "sudoku", "-n", "8", "--batch-size", "2", "--quiet", "--out"]  # fmt: skip
TEXT = ["eval", "text", "sudoku4x4", "-n", "130", "--max-new-tokens", "15", "--batch-size", "8",
        "--reference", "none", "--sampler", "ancestral", "--steps", "2", "--out"]  # fmt: skip
DATA = str(ROOT / "constraints.txt")
BOUND = ["eval", "bound", "tiny-books", "--data", DATA, "--length", "16",
         "--masks", "1", "--batch-size", "8", "--out"]  # fmt: skip
TASKS = ["eval", "tasks", "tiny-books", "--tasks", "sudoku4x4,countdown", "--limit", "6",
         "--set=sampler=ancestral", "--set=steps=2", "--set=max_new_tokens=8", "--batch-size", "2",
         "--out"]  # fmt: skip
NEEDS_HARNESS = (
    pytest.mark.external,
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None,
        reason="needs: pip install 'dlm-sampling[lm-eval]'",
    ),
)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(COMPARE, id="compare"),
        pytest.param(TEXT, id="text"),
        pytest.param(BOUND, id="bound"),
        pytest.param(TASKS, id="tasks", marks=NEEDS_HARNESS),
    ],
)
def test_a_killed_run_goes_on(forks: Forks, tmp_path: Path, words: list[str]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def start(out: Path, rank: int, world: int) -> Fork:
        return forks.command(*words, str(out), env={"DLM_SHARD": f"{rank}/{world}"}, stdout=NOTHING)

    def is_well(process: Fork) -> None:
        code, _, err = process.ended(120)
        assert code == 0, err.decode()

    is_well(start(whole, 0, 1))
    ends: list[int] = []
    for world in (1, 2):
        before = work(broken)
        running = [start(broken, rank, world) for rank in range(world)]
        running[0].until(lambda size=before: work(broken) != size)
        ends += [process.kill() for process in running]
    assert -signal.SIGKILL in ends
    assert not (broken / "results.json").exists()
    # Two processes finish the work, whichever is last; then the first judges.
    for process in [start(broken, rank, 2) for rank in (1, 0)]:
        is_well(process)
    is_well(start(broken, 0, 2))
    assert (broken / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    metrics = [
        [m for m in json.loads((out / "results.json").read_text(encoding="utf-8"))["metrics"]
         if m["name"] != "seconds per sample"]
        for out in (whole, broken)
    ]  # fmt: skip
    assert metrics[0] == metrics[1]
