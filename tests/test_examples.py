"""Every example runs, on checkpoints of a few kilobytes."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.forks import Forks, run_program

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(p.name for p in (ROOT / "examples").glob("*.py"))


Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an example as a script, in this process: importing torch would take longer than it."""

    def script(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.syspath_prepend(str(ROOT / "examples"))
        with torch.random.fork_rng(), pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        printed = capsys.readouterr()
        assert not ended.value.code, printed.err
        return printed.out

    return script


def test_all_are_tested() -> None:
    assert EXAMPLES == [
        "batch_ray.py",
        "custom_denoiser.py",
        "generate_llada.py",
        "infill.py",
        "rl_sudoku.py",
        "train_judge.py",
        "train_loopholing.py",
        "train_sudoku.py",
        "train_tiny.py",
        "train_uniform.py",
        "transformers_generate.py",
    ]


def test_generate_llada(run: Run, tiny_llada: Path) -> None:
    options = (
        "--model",
        str(tiny_llada),
        "--max-new-tokens",
        "8",
        "--steps",
        "4",
        "--block-length",
        "4",
    )
    first = run("generate_llada.py", "Once", *options)
    assert "4 forward passes" in first
    assert first == run("generate_llada.py", "Once", *options)


def test_batch_ray(run: Run, tiny_llada: Path, tmp_path: Path) -> None:
    """The shards without Ray, which is no part of the tests: as actors run them, one by one."""
    (tmp_path / "prompts.txt").write_text("a\nbb\nccc\n", encoding="utf-8")
    words = (str(tmp_path / "prompts.txt"), str(tmp_path / "out"), "--model", str(tiny_llada))
    more = ("--shard-rows", "2", "--max-new-tokens", "4", "--local")
    assert run("batch_ray.py", *words, *more) == "JobReport(rows=3, errors=0, done=True)\n"
    assert len(list((tmp_path / "out" / "data").iterdir())) == 2


def test_infill(run: Run, tiny_llada: Path) -> None:
    printed = run("infill.py", "ab ___ cd", "--model", str(tiny_llada), "--samples", "3")
    lines = [line for line in printed.splitlines() if line.strip()]
    assert len(lines) >= 3


def test_transformers_generate(run: Run, tmp_path: Path) -> None:
    printed = run("transformers_generate.py", "1 2 3 4 3 4 1 2", "--export", str(tmp_path))
    grid = "".join(printed.splitlines()[0].split())
    assert grid[:8] == "12343412"
    assert all(set(grid[i : i + 4]) == set("1234") for i in range(0, 16, 4))
    assert "'klass'" in (tmp_path / "custom_generate" / "generate.py").read_text()


def test_custom_denoiser_in_a_process_of_its_own(forks: Forks) -> None:
    example = str(ROOT / "examples" / "custom_denoiser.py")
    code, out, err = forks.call(run_program, example, "--rows", "5").ended(250)
    assert code == 0, err.decode()
    assert "5 of 5 with 9 forward passes" in out.decode()


def test_rl_sudoku(run: Run, tmp_path: Path) -> None:
    options = ("--updates", "2", "--puzzles-per-update", "2", "--group", "2", "--seeds", "3")
    told = run("rl_sudoku.py", *options, "--out", str(tmp_path / "curve"))
    assert re.search(r"seed 3: 0\.\d+ -> 0\.\d+ valid", told)
    content = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))
    assert len(content["runs"][0]["curve"]) == 2
    assert content["settings"]["beta"] == 0.002
    assert "<svg" in (tmp_path / "curve.svg").read_text(encoding="utf-8")
    # The finished seed is not run again; other settings are another result.
    again = run("rl_sudoku.py", *options[:-1], "3,4", "--out", str(tmp_path / "curve"))
    assert "seed 3, update" not in again
    both = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))["runs"]
    assert both[0] == content["runs"][0] and both[1]["seed"] == 4
    example = runpy.run_path(str(ROOT / "examples" / "rl_sudoku.py"))
    with pytest.raises(SystemExit, match=r"curve\.json has other settings"):
        example["finished"](example["Settings"](clues=3), tmp_path / "curve.json")
    for wrong, message in (({"group": 1}, "--group 1: must be"), ({"model": "tiny-books"}, "chat")):
        assert message in example["unfit"](example["Settings"](**wrong))
    assert example["unfit"](example["Settings"]()) == ""


def test_the_committed_reward_rises_beyond_noise() -> None:
    """Over three seeds the valid share of held-out puzzles rises by many standard errors."""
    content = json.loads((ROOT / "eval/results/rl_sudoku.json").read_text(encoding="utf-8"))
    assert content["settings"]["beta"] > 0.0 and len(content["runs"]) == 3
    for one in content["runs"]:
        error = (2 * 0.25 / 256) ** 0.5  # of a difference of two shares of 256 grids, at most
        assert one["after"] - one["before"] > 6 * error


BOOK = "The old king went into the forest, and the fox said: come home.\n\n" * 60


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import train_judge
        import train_tiny
    finally:
        sys.path.pop(0)
    folder = tmp_path_factory.mktemp("books")
    stems = (*train_tiny.TRAIN_BOOKS, *train_tiny.HELD_OUT_BOOKS, *train_judge.JUDGE_BOOKS)
    for stem in stems:
        (folder / f"{stem}.txt").write_text(BOOK, encoding="utf-8")
    return folder


def test_train_tiny_learns_resumes_and_loads(run: Run, books: Path, tmp_path: Path) -> None:
    from dlm_sampling import AutoDenoiser, generate

    small = [
        "--vocab-size",
        "300",
        "--hidden-size",
        "32",
        "--layers",
        "1",
        "--heads",
        "2",
        "--length",
        "32",
    ]
    common = ["--books", str(books), "--out", str(tmp_path / "run"), "--batch-size", "8", *small]
    run("train_tiny.py", *common, "--minutes", "0.02")

    def record() -> list[dict[str, float]]:
        return json.loads((tmp_path / "run" / "checkpoint" / "training.json").read_text())["log"]

    first = record()
    run("train_tiny.py", *common, "--minutes", "0.04")
    resumed = record()
    assert resumed[: len(first)] == first  # nothing lost, nothing twice
    assert resumed[-1]["step"] > first[-1]["step"]
    denoiser = AutoDenoiser.from_pretrained(tmp_path / "run" / "checkpoint")
    out = generate(denoiser, "The old king", max_new_tokens=8, seed=0)
    assert out.texts is not None
    assert len(out.token_ids[0]) <= 8


def test_train_judge_learns_and_is_a_judge(run: Run, books: Path, tmp_path: Path) -> None:
    from dlm_eval.judges.causal import CausalJudge

    sizes = ["--vocab-size", "300", "--hidden-size", "16", "--layers", "1", "--heads", "1"]
    few = ["--minutes", "0.05", "--length", "32", "--lr", "0.02", *sizes]
    words = ("train_judge.py", "--books", str(books), "--out", str(tmp_path), *few)
    run(*words)
    record = (tmp_path / "checkpoint" / "training.json").read_text(encoding="utf-8")
    assert json.loads(record)["steps"] > 0
    run(*words)  # it is done, and nothing is trained again
    assert (tmp_path / "checkpoint" / "training.json").read_text(encoding="utf-8") == record
    judge = CausalJudge.from_pretrained(tmp_path / "checkpoint")
    assert judge.score([BOOK[:66]]).perplexity() < len(judge.tokenizer)


def test_train_uniform_trains_and_converts(run: Run, books: Path, tmp_path: Path) -> None:
    out, model = str(tmp_path / "run"), tmp_path / "model"
    sizes = ["--hidden-size", "16", "--layers", "1", "--heads", "1", "--length", "16"]
    few = ["--steps", "3", "--batch-size", "4", "--eval-rows", "2"]
    run("train_uniform.py", "train", "--books", str(books), "--out", out, *few, *sizes)
    run("train_uniform.py", "convert", "--out", out, "--to", str(model))
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.json"} <= {
        path.name for path in model.iterdir()
    }
