"""The table of estimators: its figures by hand, and a run that goes on where it was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dlm_eval.likelihood import estimators
from dlm_eval.likelihood.estimators import Estimator, Texts

from tests.samplers.small import small_toy


def test_moments_are_those_of_the_draws() -> None:
    """A value that is a known function of one weight and the seed."""
    weight = torch.nn.Parameter(torch.tensor(2.0))
    toy = small_toy()
    toy.module = torch.nn.ParameterList([weight])
    every = torch.ones(2, 4, dtype=torch.bool)
    texts = Texts(toy, torch.zeros(2, 4).long(), every, every)
    drawn: list[int] = []

    def values(_: Texts, seed: int, n: int) -> torch.Tensor:
        drawn.append(seed)
        assert n == 2
        return weight * torch.tensor([1.0 + seed % 5, 1.0])

    found = estimators.measured(texts, Estimator(values, 2, False), 4, 6)
    assert len(set(drawn)) == 12  # two draws of two passes for each of six seeds
    slopes = torch.tensor(drawn).view(6, 2).remainder(5).double().mean(1)
    assert found["values"] == [[2.0 * (1.0 + s), 2.0] for s in slopes.tolist()]
    gradients = (1.0 + slopes - 1.0) / 4 / 2
    assert found["noise"] == pytest.approx(float(gradients.std()))
    signal = float(gradients.mean().square() - gradients.var() / 6)
    assert found["signal"] == pytest.approx(max(signal, 0.0) ** 0.5)


def test_a_row_of_the_table() -> None:
    name = "elbo, count"
    record = {"name": name, "values": [[-2.0, -8.0], [-4.0, -8.0]], "noise": 3.0, "signal": 2.0}
    bound, lengths = torch.tensor([-4.0, -4.0]).double(), torch.tensor([2.0, 4.0]).double()
    row = estimators._row(record, bound, lengths)
    assert row == {
        "estimator": name, "bound": True, "mean_gap": pytest.approx(-0.25),
        "mean_gap_error": pytest.approx(0.25), "deviation": pytest.approx(0.5),
        "gradient_noise": 1.5,
    }  # fmt: skip


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, made = tmp_path / "table.json", list[Any]()

    def counted(texts: Texts, estimator: Estimator, passes: int, seeds: int) -> dict[str, Any]:
        made.append(estimator)
        if len(made) == 4:
            raise KeyboardInterrupt
        return {"values": [[-1.0] * 2] * seeds, "noise": 1.0, "signal": 1.0}

    monkeypatch.setattr(estimators, "measured", counted)
    options: dict[str, Any] = {
        "out": out, "texts": 2, "passes": 6, "seeds": 4, "characters": 24, "reference": 1
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        estimators.main(**options)
    estimators.main(**options)
    assert len(made) == len(estimators.ESTIMATORS) + 1
    rows = json.loads(out.read_text())["rows"]
    assert [row["estimator"] for row in rows] == [*estimators.ESTIMATORS]
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]
