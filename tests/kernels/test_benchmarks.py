"""The programs that check and measure the kernels on a GPU, as far as they go without one."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.types import TokenLaw
from tests.forks import Forks, run_program

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "kernels" / "benchmarks"
PARTS = {"correctness", "library", "recorded", "cached", "floor", "positions", "head", "loop"}


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_page", FOLDER / "write_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux only")
def test_near_ties_are_told_by_the_race_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token drawn wins against every other; a token that is not nearly tied is a failure."""
    monkeypatch.syspath_prepend(FOLDER)
    correctness = importlib.import_module("correctness")
    logits, law = correctness.normal(6, 1100, torch.float32), TokenLaw(0.8, top_k=200)
    found = ops.draw(logits, **correctness.noise(6, torch.device("cpu")), law=law)
    for row in range(6):
        for other in {0, 31, 700, 1099} - {int(found.token[row])}:
            gap = correctness.race_gap(logits[row], law, row, found.token[row], other)
            assert gap > correctness.NEAR
    wrong = [(found.token + 1) % 1100, *found[1:]]
    assert correctness.compared(logits, law, found, list(found))["passed"]
    told = correctness.compared(logits, law, found, wrong)
    assert told["not_near_ties"] == told["different_tokens"] == 6 and not told["passed"]


def test_the_roofline_of_caches_is_that_of_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds of a pass and times faster than none of LLaDA-8B's sizes, worked out by hand."""
    monkeypatch.syspath_prepend(FOLDER)
    cached = importlib.import_module("cached")
    llada = cached.SIZES[0]
    assert llada.parameters == 32 * 4096 * (4 * 4096 + 3 * 12_288)
    for rows, full, dual in ((1, 15.0, 3.2), (16, 241.0, 8.0)):
        for query, wanted in ((1024, full), (32, dual)):
            assert 1e3 * cached.pass_seconds(llada, rows, query) == pytest.approx(wanted, rel=0.015)
    faster = {
        "prefix": ((3.1, 3.4), (2.5, 2.8), (2.1, 2.2)),
        "dual": ((4.2, 15.7), (3.2, 6.5), (2.4, 3.6)),
        "vicinity": ((4.2, 10.7), (3.2, 5.5), (2.4, 3.4)),
        "block": ((4.7, 28.0), (4.6, 24.0), (4.5, 21.0)),
    }
    for name, table in faster.items():
        for steps, by_rows in zip((32, 8, 4), table, strict=True):
            for rows, wanted in zip((1, 16), by_rows, strict=True):
                none, own = (cached.run_seconds(llada, rows, x, steps) for x in ("none", name))
                assert none / own == pytest.approx(wanted, rel=0.03), (name, steps, rows)
    refreshed = {"dkv": (2.6, 2.9), "dllm": (3.7, 4.45)}  # at one token a pass
    for name, by_rows in refreshed.items():
        for rows, wanted in zip((1, 16), by_rows, strict=True):
            none, own = (cached.run_seconds(llada, rows, x, 32) for x in ("none", name))
            assert none / own == pytest.approx(wanted, rel=0.03), (name, rows)
    # A quarter of the answer behind the first layer: 128 columns, and the values of 384 others.
    assert 1e3 * cached.pass_seconds(llada, 16, 512, None, 128) == pytest.approx(39.8, rel=0.015)
    assert cached.run_seconds(llada, 1, "adaptive", 8) is None


def checks_only(part: str, case: dict[str, object]) -> bool:
    """A case without a time."""
    return part in ("correctness", "library") or case["name"] == "the same tokens"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux only")
def test_dry_run(tmp_path: Path, pages: ModuleType, interpreter: Forks) -> None:
    """Every line of every part but the clocks; a dry run leaves nothing in the page."""
    words = (str(FOLDER), "all", "--dry-run", "--out", str(tmp_path))
    code, out, err = interpreter.call(run_program, *words).ended(280)
    assert code == 0, out.decode() + err.decode()[-3000:]
    files = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert set(files) == {f"{part}.dry.json" for part in PARTS}
    for found in files.values():
        assert found["dry_run"] and found["passed"] and found["complete"]
        assert found["torch"] and found["triton"] and "interpreter" in found["device"]
        assert all("eager_us" in c or checks_only(found["part"], c) for c in found["cases"])
    checks = files["correctness.dry.json"]["cases"]
    assert len(checks) >= 14 and all(case["passed"] is True for case in checks)
    assert "no GPU has run these kernels" in pages.page(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux only")
def test_without_a_gpu_the_error_says_what_to_do(tmp_path: Path, interpreter: Forks) -> None:
    process = interpreter.call(run_program, str(FOLDER), "floor", "--out", str(tmp_path))
    code, _, err = process.ended()
    assert code == 2
    assert err.startswith(b"No CUDA device") and b"--dry-run" in err
    assert not list(tmp_path.iterdir())


def test_the_page_is_what_the_result_files_say(pages: ModuleType) -> None:
    written = (ROOT / "kernels" / "RESULTS.md").read_text()
    assert written == pages.page(FOLDER / "results"), "run python kernels/benchmarks/write_page.py"


def test_the_page_reads_every_number_from_a_file(tmp_path: Path, pages: ModuleType) -> None:
    facts = {"device": "a GPU", "driver": "1.2", "torch": "3", "triton": "4", "cuda": "5"}
    facts |= {"date": "2026-01-01", "commit": "abc", "complete": False}
    facts |= {"dry_run": False, "small": False}
    cases = [
        {"name": "one read", "rows": 32, "graph_us": 12.3456},
        {"name": "K1 + K2", "rows": 32, "graph_us": 14.0, "within_bar": True, "passed": False},
    ]
    found = {"part": "floor", "passed": False, **facts, "cases": cases}
    (tmp_path / "floor.json").write_text(json.dumps(found))
    page = pages.page(tmp_path)
    assert "a GPU, driver 1.2, torch 3, triton 4, CUDA 5, 2026-01-01, commit abc" in page
    assert "| one read | 32 | 12.35 |" in page and "0 of 1 checks passed." in page
    assert "1 of 1 cases with a bar" in page and "time ran out" in page
    assert "no GPU has run" not in page
    (tmp_path / "floor.small.json").write_text(json.dumps(found | {"small": True}))
    assert pages.page(tmp_path) == page


def test_the_kernels_count_as_confirmed_only_with_a_result_file() -> None:
    import dlm_kernels

    path = FOLDER / "results" / "correctness.json"
    proof = path.exists() and json.loads(path.read_text())["passed"]
    assert bool(proof) >= dlm_kernels.CONFIRMED_ON_A_GPU


def test_the_fused_head_is_on_only_where_a_result_file_says_it_is_faster() -> None:
    from dlm_kernels.common.support import FASTER_BELOW

    path = FOLDER / "results" / "head.json"
    cases = json.loads(path.read_text())["cases"] if path.exists() else []
    for width, most in FASTER_BELOW.items():
        known = [c for c in cases if c["width"] == width and c["rows"] <= most]
        ratios = [c["times_blocks"] for c in known if c["name"] == "fused head"]
        assert ratios and max(ratios) < 1.0, f"width {width}: not measured faster up to {most} rows"
        assert any(c["rows"] == most for c in known), f"width {width}: {most} rows not measured"
