from __future__ import annotations

import json
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from dlm_sampling import AutoDenoiser
from dlm_sampling.denoisers import LoopholingDenoiser, MaskedLMDenoiser
from dlm_sampling.testing.sudoku import MASK

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = {"hidden_size": 16, "layers": 1, "heads": 2}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = runpy.run_path(str(EXAMPLES / "train_loopholing.py"))
    example["STEPS"].update({"random": (16,), "confidence": (4,), "ancestral": (4,)})
    few = partial(example["divergence"], rows=256)
    monkeypatch.setitem(example["measure"].__globals__, "divergence", few)
    return example


def test_the_second_pass_reads_the_state_of_the_first_without_its_gradient(
    example: dict[str, Any],
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = example["build_model"](**SIZES)
    denoiser = LoopholingDenoiser(MaskedLMDenoiser(network, mask_token_id=MASK), scale=0.5)
    canvas = torch.randint(0, MASK + 1, (40, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        once = denoiser(canvas)
        twice = denoiser(canvas, carry=once.carry).values
    assert (twice - once.values).abs().amax((1, 2)).min() > 1e-3
    for p in (0.0, 0.5, 1.0):
        logits = example["TwoPasses"](denoiser, p, seed=3)(canvas).logits
        second = torch.isclose(logits, twice, atol=1e-5).flatten(1).all(1)
        first = torch.isclose(logits, once.values, atol=1e-5).flatten(1).all(1)
        assert bool((first ^ second).all())
        assert abs(float(second.double().mean()) - p) < 0.25
        assert bool(second.all()) == (p == 1.0)
    grads: list[torch.Tensor] = []
    for h in (once.carry, None):
        denoiser.norm.weight.grad = None
        logits = example["TwoPasses"](denoiser, float(h is not None), seed=3)(canvas).logits
        logits.square().mean().backward()
        by_hand = denoiser(canvas, carry=denoiser.initial_carry(canvas) if h is None else h)
        expected = torch.autograd.grad(by_hand.values.square().mean(), denoiser.norm.weight)[0]
        grads.append(expected)
        torch.testing.assert_close(denoiser.norm.weight.grad, expected)
    assert grads[0].abs().max() > 1e-5
    assert not grads[1].any()


def test_a_trained_model_is_saved_and_loads(example: dict[str, Any], tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        example["train_one"](
            out=tmp_path, p=0.5, steps=12, batch_size=32, seed=0, samples=10, **SIZES
        )
    denoiser = AutoDenoiser.from_pretrained(tmp_path)
    assert isinstance(denoiser, LoopholingDenoiser)
    assert denoiser.norm.weight.abs().max() > 1e-3
    assert denoiser.tokenizer is not None
    assert denoiser.tokenizer("12/.4")["input_ids"] == [0, 1, MASK, 3]


def test_the_comparison_goes_on_where_it_stopped(example: dict[str, Any], tmp_path: Path) -> None:
    small: dict[str, Any] = {"steps": 2, "batch_size": 16, "samples": 4, **SIZES}
    results = tmp_path / "results.json"
    del example["ARMS"]["base"], example["ARMS"]["loopholing, p = 0.9"]  # two kinds remain
    with torch.random.fork_rng(devices=[]):
        example["compare"](results=results, seeds=1, **small)
        first = json.loads(results.read_text())
        assert [record["arm"] for record in first["records"]] == list(example["ARMS"])
        assert first["summary"] == {}  # no error bar from one training
        example["compare"](results=results, seeds=2, **small)
    report = json.loads(results.read_text())
    assert report["records"][:2] == first["records"]
    assert [record["seed"] for record in report["records"][2:]] == [1] * 2
    assert [record["optimizer_steps"] for record in report["records"]] == [3, 2] * 2
    assert set(example["ARMS"]) < set(report["summary"])
    assert report["oracle"]["0 clues, random, 16 steps"]["valid"] == 1.0
    assert example["over_seeds"]([0.5, 0.7]) == [0.6, 0.1]
    with pytest.raises(typer.BadParameter, match="other settings"):
        example["compare"](results=results, seeds=2, **{**small, "steps": 3})
