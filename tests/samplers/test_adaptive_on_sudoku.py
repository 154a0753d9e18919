"""One cell at a time the exact oracle leads every unmask-only rule to a valid grid."""

from __future__ import annotations

import pytest

from dlm_sampling.samplers import (
    CCD,
    KLASS,
    DInferHierarchy,
    EBSampler,
    FastDLLM,
    FastDLLMDream,
    FastDLLMFactor,
    LLaDA,
)
from dlm_sampling.testing.sudoku import SudokuOracle, is_valid
from dlm_sampling.types import TokenLaw
from tests.samplers.adaptive import run

ONE_BY_ONE = [
    FastDLLM(1.1),
    FastDLLMFactor(0.0),
    FastDLLMDream(1.1),
    EBSampler(0.0),
    EBSampler(0.0, "margin"),
    DInferHierarchy(1.1, 1.1),
    KLASS(1.0),
    CCD(warm_up=99),
    LLaDA("margin"),
    LLaDA("entropy"),
]


@pytest.mark.parametrize("sampler", ONE_BY_ONE, ids=str)
def test_all_grids_are_valid(sampler):
    out = run(SudokuOracle(), sampler, 16, rows=150, law=TokenLaw())
    assert bool(is_valid(out.tokens).all())


@pytest.mark.parametrize("sampler", [FastDLLM(0.99), KLASS(0.99, 1e6, 1), EBSampler(1e-9)], ids=str)
def test_cells_that_are_certain_cost_nothing(sampler):
    """What has probability 1 may be written together: still valid, and fewer forwards."""
    out = run(SudokuOracle(), sampler, 16, rows=150, law=TokenLaw())
    assert bool(is_valid(out.tokens).all())
    assert float(out.nfe.double().mean()) < 13


def test_cells_that_are_not_certain_do_cost():
    """Negative control: a loose threshold writes clashing cells."""
    out = run(SudokuOracle(), FastDLLM(0.3), 16, rows=150, law=TokenLaw())
    assert not bool(is_valid(out.tokens).all())
