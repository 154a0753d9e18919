"""One contract for all samplers without a mask: ids that are never written, and where grids end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling import samplers
from dlm_sampling.denoisers import Denoiser, wrap
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.types import PredictionKind, TokenLaw
from tests.test_contract import CASES, PROCESSES, VOCAB, CountingToy

NEVER = (1, 3, 7, 8)
MASKLESS = [(name, kind) for name, kind in CASES if kind != "absorbing"]
ENDS = [(name, kind) for name, kind in CASES if "t_end" in samplers.available()[name].parameters]


def model(kind: str, predicts: PredictionKind = "posterior") -> Denoiser:
    process = PROCESSES[kind]
    facts: dict[str, Any] = {"mask_token_id": process.mask_token_id, "process": process}
    return wrap(CountingToy(), vocab_size=VOCAB, kind=predicts, honours_padding=True, **facts)


def run(
    name: str, kind: str, predicts: PredictionKind = "posterior", rows: int = 12, **fields: Any
) -> SampleOutput:
    tokens = torch.zeros(rows, 6, dtype=torch.int64)
    # Logits at random are no ratios of any law: what they leave may all be suppressed.
    never = () if predicts == "log_score" else NEVER
    return sample(
        model(kind, predicts), samplers.create(name, **fields), tokens, tokens == 0,
        seeds=range(rows), steps=4, law=TokenLaw(suppressed=never),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), MASKLESS)
def test_a_suppressed_id_is_never_left(name: str, kind: str) -> None:
    """Neither where the last draw has a part of noise, nor at positions of the first noise."""
    ends: tuple[dict[str, float], ...] = ({},)
    if (name, kind) in ENDS:
        ends = ({"t_end": 0.05 if name == "psi-loop" else 0.3}, {})
    for fields in ends:
        out = run(name, kind, **fields)
        assert not bool(torch.isin(out.tokens, torch.tensor(NEVER)).any())
        assert bool(out.logprob.isfinite().all())


@pytest.mark.parametrize(("name", "kind"), ENDS)
def test_a_grid_that_ends_at_0_runs_or_is_refused_where_it_is_set(name: str, kind: str) -> None:
    kinds: tuple[PredictionKind, ...] = ("posterior",)
    if kind == "uniform":
        kinds = ("posterior", "leave_one_out", "log_score")
    for predicts in kinds:
        try:
            out = run(name, kind, predicts, rows=3, t_end=0.0)
        except ValueError as error:
            assert str(error).startswith("t_end=0.0: must be")
            return
        assert bool(out.logprob.isfinite().all())
        suppressed = torch.isin(out.tokens, torch.tensor(NEVER)).any()
        assert predicts == "log_score" or not bool(suppressed)


def test_a_held_level_lies_before_the_end_of_the_grid() -> None:
    with pytest.raises(ValueError, match=r"t_end=0\.3: must be at most 0\.1"):
        samplers.create("psi-loop", t_end=0.3)
