"""The presets "samplers" and "uniform": whom they try, at which budgets, what the page counts."""

from __future__ import annotations

import pytest
import torch
from dlm_eval.comparison.presets import maps
from dlm_eval.comparison.presets.map_page import render_samplers
from dlm_eval.comparison.presets.maps import (
    BASELINES,
    running_on,
    samplers_parts,
    uniform_parts,
)
from dlm_eval.comparison.presets.summary import Figure, PartFigures, Summary
from dlm_eval.comparison.sweeps import SWEEPS, own_law

from dlm_sampling import generate, sample, samplers, wrap
from dlm_sampling.processes import Uniform
from dlm_sampling.testing.sudoku import CELLS, MASK, SudokuOracle


def test_every_sampler_runs_under_the_plain_law_and_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(maps, "book_frequencies", lambda: None)  # counting takes seconds
    by_part = {part.name: part for part in (*samplers_parts(None), *uniform_parts(None))}
    names = {name: {setting.sampler for setting in part.settings} for name, part in by_part.items()}
    assert names["grids-plain"] == set(running_on("absorbing"))
    assert names["texts-uniform"] == set(running_on("uniform"))
    for sampler in running_on("absorbing"):
        assert sampler in names[f"texts-{own_law(sampler)}"]
    left = set(samplers.available()) - set().union(*names.values())
    assert left == {"d2f", "d3llm", "fast-dllm-v2"}  # whose blocks these canvases do not have
    for part in by_part.values():
        labels = [setting.label for setting in part.settings]
        assert len(labels) == len(set(labels))
        assert len({(s.law.temperature, s.law.top_p) for s in part.settings}) == 1
    budgets = {s.steps for s in by_part["texts-plain"].settings if s.sampler == "llada"}
    assert budgets > {s.steps for s in by_part["texts-plain"].settings if s.sampler == "maskgit"}


@pytest.mark.parametrize("name", running_on("absorbing"))
def test_the_planned_steps_are_swept_where_and_only_where_they_are_read(name: str) -> None:
    """Else rows of a table would repeat each other, or a sampler would lack a budget."""
    sweep = SWEEPS.get(name)
    options = {} if sweep is None else {sweep.option: sweep.values["sudoku"][-1]}
    few, many = (
        generate(
            SudokuOracle(), [[MASK] * CELLS] * 6, infill=True, steps=steps, temperature=1.0,
            sampler=samplers.create(name, **options), seed=list(range(6)), progress=False,
        ).nfe.double().mean()
        for steps in (2, 16)
    )  # fmt: skip
    if sweep is None or sweep.bound:
        assert few < many
    elif sweep.steps is None:
        assert few == many


def passes(name: str, scale: float) -> int:
    """Passes of a sampler for 12 tokens by a network of fixed logits, unsure or sure."""
    noise = "absorbing" if "absorbing" in samplers.find(name).runs_on else "uniform"
    logits = scale * torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
    if noise == "absorbing":
        logits[:, 6] = -1e4
    process = Uniform() if noise == "uniform" else None
    denoiser = wrap(lambda ids: logits.expand(len(ids), -1, -1), vocab_size=7, process=process,
                    mask_token_id=None if noise == "uniform" else 6)  # fmt: skip
    canvas = torch.full((1, 12), 0 if noise == "uniform" else 6)
    editable = torch.ones(1, 12, dtype=torch.bool)
    return int(sample(denoiser, samplers.create(name), canvas, editable, seeds=[0], steps=12).nfe)


@pytest.mark.slow
@pytest.mark.parametrize("name", samplers.available())
def test_a_sampler_that_sets_its_own_pace_is_swept(name: str) -> None:
    """It says so, or it takes half the passes of a sure network at the same planned steps."""
    if name == "planned-gillespie":  # a pass for each event, which no parameter makes fewer
        return
    if name not in SWEEPS:
        assert not samplers.create(name).nfe.startswith("adaptive")
        assert passes(name, 40.0) > passes(name, 0.1) // 2


def test_the_page_counts_the_outcomes_of_each_part() -> None:
    def figure(sampler: str, nfe: float, quality: float) -> Figure:
        return Figure(label=f"{sampler}, {nfe:g}", sampler=sampler, steps=None, nfe=nfe,
                      quality=quality, error=0.01, different=3)  # fmt: skip

    figures = (
        figure("llada", 4, 0.5), figure("llada", 16, 0.9), figure("klass", 4, 0.6),
        figure("klass", 8, 0.7), figure("ccd", 16, 0.4), figure("ccd", 4, 0.7),
    )  # fmt: skip
    part = PartFigures(name="grids-greedy", model="m", samples=9, judged=False, protocol_hash="0",
                       references=None, figures=figures)  # fmt: skip
    page = render_samplers(Summary(command="c", versions={}, parts=(part,)))
    assert BASELINES["greedy"] == ("llada",)
    assert "| grids-greedy | `llada` | 2 | 0 | 1 | 1 | `klass` (1), `ccd` (1) |" in page
    assert "| klass, 4 | 4.0 | 60.0 ± 1.0 | 3 | +10.0 ± 1.4 points (better) | 0.000 |" in page
    assert "| llada, 4 | 4.0 | 50.0 ± 1.0 | 3 |  | 0.000 |" in page
