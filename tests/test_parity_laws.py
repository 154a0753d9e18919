"""Exact laws: our transition tables and chain laws against the reference tables, to 1e-9.

Reads `laws/` of the folder in DLM_FIXTURES (default: tests/fixtures).  Every case of every k1 and
k2 file is run; a sampler that none of `tests/parity/laws*.py` adapts is an error.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests.parity import (
    laws,
    laws_chains,
    laws_chains_uniform,
    laws_guidance,
    laws_matrices,
    laws_processes,
)
from tests.parity.folders import fixtures_folder

ONE_STEP = {
    **laws.ONE_STEP,
    **laws_processes.ONE_STEP,
    **laws_matrices.ONE_STEP,
    **laws_guidance.ONE_STEP,
}
CHAINS = {
    "k2_mask": {**laws.CHAINS, **laws_chains.CHAINS, **laws_guidance.CHAINS},
    "k2_uniform": laws_chains_uniform.UNIFORM_CHAINS,
    "k2_token": laws_chains_uniform.TOKEN_CHAINS,
}
FOLDER = fixtures_folder() / "laws"
TOLERANCE = 1e-9


def _cases(pattern: str) -> list[Any]:
    found: list[Any] = []
    for file in sorted(FOLDER.glob(pattern)):
        for case in json.loads(file.read_text())["cases"]:
            found.append(pytest.param(file.stem, case, id=f"{file.stem}-{case['id']}"))
    return found


def _toys() -> dict[str, Any]:
    toys = json.loads((FOLDER / "toys.json").read_text())["toys"]
    return {name: torch.tensor(law, dtype=torch.float64) for name, law in toys.items()}


def _compare(ours: Any, theirs: Any, path: str) -> None:
    if isinstance(ours, dict):
        for key, value in ours.items():
            assert key in theirs, f"{path}.{key} is not in the fixture"
            _compare(value, theirs[key], f"{path}.{key}")
        return
    reference = torch.tensor(theirs, dtype=torch.float64)
    assert ours.shape == reference.shape, path
    difference = float((ours - reference).abs().max())
    assert difference <= TOLERANCE, f"{path}: off by {difference:.2e}"


def test_there_are_cases() -> None:
    assert _cases("k1_*.json")
    assert _cases("k2_*.json")


@pytest.mark.parametrize(("file", "case"), _cases("k1_*.json"))
def test_one_step(file: str, case: dict[str, Any]) -> None:
    ours = ONE_STEP[case["sampler"]](case)
    assert ours
    _compare(ours, case["expected"], case["sampler"])


@pytest.mark.parametrize(("file", "case"), _cases("k2_*.json"))
def test_chain(file: str, case: dict[str, Any]) -> None:
    ours = CHAINS[file][case["sampler"]](case, _toys())
    assert ours
    _compare(ours, case["expected"], case["sampler"])
