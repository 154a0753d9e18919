from __future__ import annotations

import json
import os

import pytest
import torch
from rich.console import Console

from dlm_sampling.checkup.bench import (
    BASELINE,
    GREEDY,
    METHODS,
    peak_megabytes,
    report_peak,
    run_bench,
)
from dlm_sampling.checkup.bench_laws import DTYPES, FUSED
from tests.forks import Forks
from tests.ops.laws import chi_square_p


@pytest.mark.parametrize("name", METHODS)
def test_every_method_samples_the_same_law(name: str) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0]).expand(20_000, 4)
    generator = torch.Generator().manual_seed(3)
    token, p = METHODS[name](logits, 1.0, generator)
    law = logits[0].double().softmax(-1)
    assert chi_square_p(torch.bincount(token, minlength=4), law) > 1e-3
    assert torch.allclose(p.double(), law[token], atol=1e-6)
    if name in GREEDY:
        assert (METHODS[name](logits, 0.0, generator)[0] == 2).all()


def test_report() -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    report = run_bench(rows=48, vocab=126464, repeats=2, memory=False)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads
    rows = {row.method: row for row in report.methods}
    assert list(rows) == list(METHODS)
    assert rows[BASELINE].ratio == rows[BASELINE].cpu_ratio == 1.0
    mine = rows["dlm_sampling"]
    # Loose bounds, for a busy machine; the measured figures are under eval/results.
    assert mine.cpu_ratio > 8.0
    assert mine.peak_megabytes is None
    assert json.loads(report.to_json())["methods"][0]["method"] == "dlm_sampling"
    console = Console(width=120)
    with console.capture() as shown:
        console.print(report.table())
    assert "temperature 1" in shown.get() and "CPU ms" in shown.get()


def test_peak_memory(forks: Forks) -> None:
    rows, vocab = 32, 126464
    mine = peak_megabytes("dlm_sampling", rows, vocab, "float32", 1.0, 1)
    assert mine is not None and 0.0 < mine < 12.0
    # A fork has a peak of its own too, and need not import torch.
    code, theirs, _ = forks.call(report_peak, BASELINE, rows, vocab, "float32", 1.0, 1).ended()
    assert code == 0 and int(theirs) > 3 * rows * vocab * 8


def test_the_compiled_pass_is_measured_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[str | None] = []

    def asked() -> bool:
        chosen.append(os.environ.get("DLM_FUSED_CPU"))
        return False  # nothing is compiled here

    monkeypatch.setattr("dlm_sampling.ops.fused_cpu.asked", asked)
    monkeypatch.setenv("DLM_FUSED_CPU", "on")
    report = run_bench(2, 50, temperature=0.0, repeats=1, memory=False, compiled=True)
    assert [row.method for row in report.methods] == ["dlm_sampling", FUSED, BASELINE]
    assert chosen[:2] == ["off", "on"] and os.environ["DLM_FUSED_CPU"] == "on"
    fused = [(row.law, row.dtype) for row in report.laws if row.by == FUSED]
    assert fused == [(f"temperature {t}", dtype) for dtype in DTYPES for t in (1, 0)]


def test_greedy_report_and_refusals() -> None:
    report = run_bench(2, 50, dtype="bfloat16", temperature=0.0, repeats=1, memory=False)
    assert tuple(row.method for row in report.methods) == GREEDY
    with pytest.raises(ValueError, match="float64"):
        run_bench(dtype="float64")
    with pytest.raises(ValueError, match="rows=0"):
        run_bench(rows=0)
    with pytest.raises(ValueError, match="temperature=-1"):
        run_bench(temperature=-1.0)
