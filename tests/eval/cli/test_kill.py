"""kill -9 at any time, on one process or two: the samples are those of an undisturbed run.

One process imports everything once; each command is a fork of it, so that a start costs
milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.process import ROOT

pytestmark = pytest.mark.slow
FORKS = """
import json, os, sys, threading
import torch
from tqdm import tqdm
tqdm.set_lock(threading.RLock())  # tests/conftest.py says why
torch.set_num_threads(1)
import jinja2, matplotlib.figure
import dlm_eval.cli.app, dlm_eval.comparison.part, dlm_eval.likelihood.run, dlm_eval.text.run
from dlm_eval.judges.causal import CausalJudge
from dlm_sampling import AutoDenoiser
from dlm_sampling.cli import app as cli

CausalJudge.from_pretrained("own")  # transformers imports what it needs at the first use
AutoDenoiser.from_pretrained("sudoku4x4"), AutoDenoiser.from_pretrained("tiny-books")
silent = os.open(os.devnull, os.O_RDWR)
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        for stream in range(3):
            os.dup2(silent, stream)
        os.environ["DLM_SHARD"] = asked["shard"]
        try:
            cli.main(asked["words"])
        except SystemExit as ended:
            os._exit(ended.code or 0)
        os._exit(99)
    print(child, flush=True)
"""


class Forks:
    """Start commands, and wait for them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _ask(self, question: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, words: list[str], rank: int, world: int) -> int:
        return self._ask({"words": words, "shard": f"{rank}/{world}"})

    def wait(self, process: int) -> int:
        return self._ask({"wait": process})


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("", "kernels", "eval"))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS], env=environment, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    yield Forks(process)
    process.communicate(timeout=60)


def work(out: Path) -> int:
    """Bytes of all that a run keeps before its results."""
    rooms = (out / "journal", out / "samples")
    return sum(p.stat().st_size for r in rooms for p in r.rglob("*") if p.is_file())


COMPARE = ["eval", "compare", "sudoku4x4", "--samplers", "ancestral,llada", "--nfe", "8",
           "--task", "sudoku", "-n", "12", "--batch-size", "2", "--quiet", "--out"]  # fmt: skip
TEXT = ["eval", "text", "sudoku4x4", "-n", "130", "--max-new-tokens", "15", "--batch-size", "8",
        "--reference", "none", "--sampler", "ancestral", "--out"]  # fmt: skip
DATA = str(ROOT / "constraints.txt")
BOUND = ["eval", "bound", "tiny-books", "--data", DATA, "--length", "16",
         "--masks", "1", "--batch-size", "8", "--out"]  # fmt: skip


@pytest.mark.parametrize("words", [COMPARE, TEXT, BOUND], ids=["compare", "text", "bound"])
def test_a_killed_run_goes_on(forks: Forks, tmp_path: Path, words: list[str]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert forks.wait(forks.start([*words, str(whole)], 0, 1)) == 0
    ends: list[int] = []
    for world in (1, 2):
        before = work(broken)
        running = [forks.start([*words, str(broken)], rank, world) for rank in range(world)]
        patience = time.monotonic() + 60
        while work(broken) == before and time.monotonic() < patience:
            time.sleep(0.002)
        for process in running:
            os.kill(process, signal.SIGKILL)
        ends += [forks.wait(process) for process in running]
    assert -signal.SIGKILL in ends
    assert not (broken / "results.json").exists()
    # Two processes finish the work, whichever is last; then the first judges.
    last = [forks.start([*words, str(broken)], rank, 2) for rank in (1, 0)]
    assert [forks.wait(process) for process in last] == [0, 0]
    assert forks.wait(forks.start([*words, str(broken)], 0, 2)) == 0
    assert (broken / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    metrics = [
        [m for m in json.loads((out / "results.json").read_text(encoding="utf-8"))["metrics"]
         if m["name"] != "seconds per sample"]
        for out in (whole, broken)
    ]  # fmt: skip
    assert metrics[0] == metrics[1]
