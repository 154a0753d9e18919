"""A rollout that was saved is read again, with its settings; strange files are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as files

from dlm_sampling import Rollout, replay, samplers
from dlm_sampling.denoisers import wrap
from dlm_sampling.engine.request import BlockRequest, Request
from dlm_sampling.likelihood.rollout_files import _read, _written
from dlm_sampling.processes.planned import UniformTokens
from dlm_sampling.schedules import Cosine
from dlm_sampling.types import TokenLaw
from tests.likelihood.test_rollout import remasked, same
from tests.samplers.small import run, small_toy


def test_what_is_saved_is_read_and_replayed(tmp_path: Path) -> None:
    rollout = replace(remasked(), model="digest")
    rollout.save(tmp_path / "run.safetensors")
    found = Rollout.load(tmp_path / "run.safetensors")
    same(found, rollout)
    toy = small_toy(length=6, vocab_size=9)
    assert torch.equal(replay(toy, found).logprob, replay(toy, rollout).logprob)


def test_fields_of_samplers_come_back(tmp_path: Path) -> None:
    toy = small_toy(length=6, vocab_size=9)
    net = wrap(lambda input_ids: toy.logits(input_ids), vocab_size=9, mask_token_id=None)
    sampler = samplers.Psi(kappa=samplers.psi.Phases(), schedule=Cosine())
    law = TokenLaw(0.7, top_k=3, suppressed=(2, 1))
    rollout = Rollout.from_output(run(net, sampler, length=6, rows=2, steps=3, law=law))
    rollout.save(tmp_path / "run.safetensors")
    found = Rollout.load(tmp_path / "run.safetensors")
    assert found.request == rollout.request
    assert (replay(net, found).total - rollout.total).abs().max() <= 1e-5


def test_files_that_are_no_rollout_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    files.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is no rollout of format 3"):
        Rollout.load(path)
    for named, message in (
        ("os:system", "no class of this library"),
        ("dlm_sampling.samplers.llada:Nothing", "this version does not have"),
        ("dlm_sampling.samplers.llada:LLaDA", "other fields of LLaDA"),
    ):
        rollout = remasked()
        rollout.save(path)
        tensors = files.load_file(path)
        facts: dict[str, Any] = {
            "format": 3,
            "seeds": [],
            "masked": True,
            "model": "",
            "request": {"class": named, "fields": {"speed": 1}},
        }
        files.save_file(tensors, path, {"rollout": json.dumps(facts)})
        with pytest.raises(ValueError, match=message):
            Rollout.load(path)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"run\.txt is no rollout: no safetensors file"):
        Rollout.load(path)


def test_a_parameter_that_is_a_network_cannot_be_saved(tmp_path: Path) -> None:
    rollout = remasked()
    planner: Any = torch.nn.Linear(1, 1)
    request = replace(rollout.request, sampler=samplers.P2(planner=planner))
    with pytest.raises(TypeError, match=r"request\.sampler\.planner is a Linear"):
        replace(rollout, request=request).save(tmp_path / "run.safetensors")


def test_a_class_is_read_from_the_fields_that_it_needs() -> None:
    """Fields with a value, or with one that is made, may be missing; others may not."""
    noise = "dlm_sampling.processes.planned:UniformTokens"
    assert _read({"class": noise, "fields": {"mask": 3}}) == UniformTokens(3)
    blocks = {"class": "dlm_sampling.engine.request:BlockRequest", "fields": {}}
    assert _read(blocks) == BlockRequest()
    own = _written(Request(samplers.LLaDA()), "request")
    del own["fields"]["blocks"], own["fields"]["law"]
    assert _read(own) == Request(samplers.LLaDA())
    for wrong in ({"class": noise, "fields": {}}, {"class": noise, "fields": {"mask": 3, "x": 1}}):
        with pytest.raises(ValueError, match="other fields of UniformTokens"):
            _read(wrong)
    assert _read([1, [2.5, None], "a"]) == (1, (2.5, None), "a")
    assert _written((1, (2.5, None), True), "x") == [1, [2.5, None], True]
