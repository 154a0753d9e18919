"""The table of updates: every method computes the same gradient where it should."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from dlm_eval.likelihood import updates
from dlm_eval.likelihood.updates import METHODS, SAME, Sizes, Task, drawn

RESULTS = Path(__file__).parents[3] / "eval" / "results" / "updates.json"


@pytest.mark.slow
def test_methods_of_one_quantity_have_one_gradient() -> None:
    denoiser, draw = drawn(Sizes(40, 16, 1, 3, 6, 2, 3))
    task = Task(denoiser, draw(), Sizes(40, 16, 1, 3, 6, 2, 3))
    network = denoiser.module
    assert network is not None
    for names in SAME:
        slopes: list[list[torch.Tensor]] = []
        for name in names:
            network.zero_grad()
            METHODS[name](task)
            slopes.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
        for other in slopes[1:]:
            for one, two in zip(slopes[0], other, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_the_largest_moment() -> None:
    least = updates.peak(updates.trivial)
    grown = updates.peak(lambda: torch.ones(50_000_000)) - least
    assert 190 < grown < 260  # 200 MB


def test_the_result_file_is_of_this_script() -> None:
    table = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in table["runs"]}
    assert list(rows) == ["rollout", *METHODS]
    seconds, memory = ({k: row[n] for k, row in rows.items()} for n in ("seconds", "peak_mb"))
    sizes = Sizes(**table["sizes"])
    assert updates.rows_of(seconds, memory, sizes) == table["runs"]
    assert rows["replay"]["tokens_per_second"] == sizes.rows * sizes.new / seconds["replay"]
    assert rows["mean_field_logprob"]["memory_of_d1"] < 0.7
    assert rows["replay"]["seconds_of_tracerl"] < 0.7
    assert rows["replay, a window at a time"]["memory_of_tracerl"] < 0.5
