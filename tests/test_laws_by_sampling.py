"""The loop draws what the tables say: chi-square of `sample()` against the exact chain laws.

Each case runs many rows of an enumerable toy with exact conditionals and compares the counts of
final
states with the law of that very sampler at that many steps, not with the data law.  Seeds are
fixed;
a biased sampler fails (shown by a negative control).
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import Ancestral, DreamOrigin, FirstHitting, LLaDA, ReMDM
from dlm_sampling.samplers.remdm import Cap, Confidence, Loop, Rescale
from dlm_sampling.schedules import HalfCosine, LogLinear
from dlm_sampling.testing import EnumerableDenoiser, chi_square, count_states
from dlm_sampling.types import Pass, Sampler, TokenLaw
from tests.parity.folders import fixtures_folder

ROWS = 30_000
P_LIMIT = 1e-4
LAWS = fixtures_folder() / "laws"


row_seeds = cache(ops.row_seeds)


def toy(name: str) -> EnumerableDenoiser:
    joint = json.loads((LAWS / "toys.json").read_text())["toys"][name]
    return EnumerableDenoiser(torch.tensor(joint, dtype=torch.float64))


def expected(
    sampler: str, toy_name: str, steps: int | None, key: str = "law_final", **params: Any
) -> Tensor:
    """The stored law of the first matching case."""
    for case in json.loads((LAWS / "k2_mask.json").read_text())["cases"]:
        same = all(case["params"].get(k) == v for k, v in params.items())
        if case["sampler"] == sampler and case["toy"] == toy_name and same:
            found = case["expected"] if steps is None else case["expected"]["by_steps"][str(steps)]
            return torch.tensor(found[key], dtype=torch.float64)
    raise LookupError(sampler)


def counts(
    denoiser: EnumerableDenoiser,
    sampler: Sampler[Any],
    steps: int,
    rows: int = ROWS,
    law: TokenLaw | None = None,
) -> Tensor:
    length = denoiser.max_length
    assert length is not None
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    seeds = row_seeds(20261121, rows)
    out = sample(
        denoiser,
        sampler,
        tokens,
        torch.ones_like(tokens).bool(),
        seeds=seeds,
        steps=steps,
        law=law or TokenLaw(),
    )
    return count_states(out.tokens, denoiser.vocab_size - 1)


CASES = [
    ("ancestral", Ancestral(LogLinear(0.0), 0.0), 4, {"schedule": "linear", "t_end": 0.0}, None),
    ("ancestral", Ancestral(HalfCosine(), 0.0), 4, {"schedule": "cosine"}, None),
    (
        "ancestral",
        Ancestral(LogLinear(0.0), 0.0),
        2,
        {"top_p": 0.6},
        TokenLaw(top_p=0.6, crossing="exclude"),
    ),
    (
        "ancestral",
        FirstHitting(grid=True, t_end=0.0),
        4,
        {"schedule": "linear", "t_end": 0.0},
        None,
    ),
    ("origin_last_all", DreamOrigin(), 4, {}, None),
    ("first_hitting", FirstHitting(tokens_per_step=1), 3, {}, None),
    ("first_hitting_parallel", FirstHitting(), 2, {"group_sizes": [2, 1]}, None),
    ("random_order_quota", LLaDA("random"), 2, {"group_sizes": [2, 1]}, None),
    ("random_order_quota", LLaDA("random"), 4, {"group_sizes": [1, 1, 1, 0]}, None),
]


@pytest.mark.parametrize("toy_name", ["mask_mild", "mask_strong"])
@pytest.mark.parametrize(("name", "sampler", "steps", "params", "law"), CASES)
def test_final_law(
    name: str,
    sampler: Sampler[Any],
    steps: int,
    params: dict[str, Any],
    law: TokenLaw | None,
    toy_name: str,
) -> None:
    grouped = name in ("first_hitting", "first_hitting_parallel", "random_order_quota")
    reference = expected(name, toy_name, None if grouped else steps, **params)
    result = chi_square(counts(toy(toy_name), sampler, steps, law=law), reference)
    assert result.p > P_LIMIT, result


REMASKING = [
    ("remdm_cap", ReMDM(Cap(0.1)), "mask_strong"),
    ("remdm_rescale", ReMDM(Rescale(0.2)), "mask_strong"),
    ("remdm_loop", ReMDM(Loop(0.15, 0.6, 0.2, 0.7)), "mask_strong"),
    ("remdm_conf", ReMDM(Confidence()), "mask_pair"),
]


@pytest.mark.parametrize(("name", "sampler", "toy_name"), REMASKING)
def test_remasking_law(name: str, sampler: ReMDM, toy_name: str) -> None:
    """The last step takes the argmax of what is masked: the reference is the greedy law."""
    reference = expected(name, toy_name, 8, "law_final_greedy")
    result = chi_square(counts(toy(toy_name), sampler, 8), reference)
    assert result.p > P_LIMIT, result


def test_a_biased_sampler_fails() -> None:
    """Negative control: twelve percent of a wrong temperature is found."""
    reference = expected("first_hitting", "mask_strong", None)
    cold = counts(
        toy("mask_strong"), FirstHitting(tokens_per_step=1), 3, law=TokenLaw(temperature=0.88)
    )
    assert chi_square(cold, reference).p < P_LIMIT


def test_forward_passes_of_the_position_first_ancestral_sampler() -> None:
    """A step runs the model iff it reveals something: E[NFE] = sum of 1 - P(nothing)."""
    denoiser, steps, rows = toy("mask_mild"), 8, 8_000
    tokens = torch.zeros(rows, 3, dtype=torch.int64)
    out = sample(
        denoiser,
        Ancestral(LogLinear(0.0), 0.0),
        tokens,
        torch.ones_like(tokens).bool(),
        seeds=ops.row_seeds(1, rows),
        steps=steps,
    )
    # Every position is revealed in a uniformly chosen step of the linear grid.
    exact = steps * (1 - (1 - 1 / steps) ** 3)
    error = float(out.nfe.double().std()) / rows**0.5
    assert abs(float(out.nfe.double().mean()) - exact) < 4 * error


def test_first_hitting_times_are_order_statistics() -> None:
    """P(T_k <= t) of the stored closed form, linear schedule, n = 5."""
    case = next(
        c
        for c in json.loads((LAWS / "k3.json").read_text())["cases"]
        if c["id"] == "first_hitting_times"
    )
    rows, n = 10_000, case["params"]["n"]
    seen: list[Tensor] = []

    class Recorder(EnumerableDenoiser):
        def forward(self, inputs: Pass) -> Any:
            assert inputs.t is not None
            seen.append(inputs.t.clone())
            return super().forward(inputs)

    denoiser = Recorder(torch.full([2] * n, 2.0**-n, dtype=torch.float64))
    tokens = torch.zeros(rows, n, dtype=torch.int64)
    sample(
        denoiser,
        FirstHitting(tokens_per_step=1),
        tokens,
        torch.ones_like(tokens).bool(),
        seeds=ops.row_seeds(2, rows),
    )
    for k, cdf in case["expected"]["linear_cdf_kth_event"].items():
        times = seen[int(k) - 1]
        for t, p in zip(case["params"]["t"], cdf, strict=True):
            share = float((times <= t).double().mean())
            assert abs(share - p) < 4.5 * (p * (1 - p) / rows) ** 0.5 + 2 / rows
