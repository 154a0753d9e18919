"""Particle Gibbs: few particles and many sweeps have the target's law, which one run has not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling import ops, sample, samplers
from dlm_sampling.smc import RewardTarget, TiltedTarget, sample_gibbs, sample_particles
from dlm_sampling.smc.products import ProductDenoiser
from dlm_sampling.testing import chi_square, count_states
from dlm_sampling.types import TokenLaw
from tests.guidance.test_best_of import REWARD, reward
from tests.guidance.toys import EXACT_P, EXACT_Q, LENGTH, P, Q, S

SAMPLER = samplers.create("llada-random")


def run(target: Any, groups: int, denoiser: Any = EXACT_P, **options: Any) -> Any:
    empty = torch.zeros(groups, LENGTH, dtype=torch.int64)
    options = {"seeds": range(groups), "particles": 2, "sweeps": 0, **options}
    return sample_gibbs(denoiser, SAMPLER, empty, empty == 0, target, **options)


PRODUCT = P.flatten() ** 2 / Q.flatten()
STEERED = P.flatten() * (0.6 * REWARD).exp()
GUIDED = ProductDenoiser([EXACT_P, EXACT_Q], [2.0, -1.0])
CASES: dict[str, Any] = {
    "no resampling": (TiltedTarget(), GUIDED, PRODUCT, {"threshold": 0.0, "sweeps": 8}),
    "always": (TiltedTarget(), GUIDED, PRODUCT, {"threshold": 1.0, "particles": 4, "sweeps": 8}),
    "reward": (RewardTarget(reward, 0.6), EXACT_P, STEERED, {"particles": 3, "sweeps": 6}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_chain_has_the_law_of_the_target(case: str) -> None:
    """Few particles and some sweeps reach the law; one run of so few has another."""
    target, denoiser, table, options = CASES[case]
    out = run(target, 400, denoiser, **options)
    assert chi_square(count_states(out.tokens, S), table / table.sum()).p > 1e-3
    assert chi_square(count_states(out.sweeps[0], S), table / table.sum()).p < 1e-2
    assert torch.equal(out.sweeps[-1], out.tokens)
    runs = (options["sweeps"] + 1) * options.get("particles", 2)
    assert out.nfe.unique().tolist() == [runs * LENGTH]


def test_the_retained_path_is_taken_again() -> None:
    """One particle stays as it is, and a path with a far greater reward is not left."""
    empty = torch.zeros(8, LENGTH, dtype=torch.int64)
    plain = sample(
        EXACT_P, SAMPLER, empty, empty == 0, law=TokenLaw(),
        seeds=[ops.row_seeds(row, 1)[0] for row in range(8)],
    )  # fmt: skip
    alone = run(RewardTarget(reward, 1.0), 8, particles=1, sweeps=2)
    assert bool((alone.sweeps == plain.tokens).all())

    def loved(rows: torch.Tensor) -> torch.Tensor:
        return 50.0 * (rows.sum(1) == 4)

    kept = run(RewardTarget(loved, 1.0), 8, sweeps=8, threshold=0.0).sweeps.sum(2) == 4
    assert bool((kept[1:] >= kept[:-1]).all()) and int(kept[0].sum()) < int(kept[-1].sum())


def test_rows_do_not_depend_on_their_batch_and_no_sweep_is_a_run_of_particles() -> None:
    target = RewardTarget(reward, 2.0)
    together = run(target, 3, sweeps=3, particles=3, seeds=[5, 6, 7])
    for row in range(3):
        alone = run(target, 1, sweeps=3, particles=3, seeds=[5 + row])
        assert torch.equal(alone.sweeps[:, 0], together.sweeps[:, row])
    empty = torch.zeros(20, LENGTH, dtype=torch.int64)
    smc = sample_particles(
        EXACT_P, SAMPLER, empty, empty == 0, target, particles=4, seeds=range(20), threshold=0.0
    )
    none = run(target, 20, particles=4, threshold=0.0)
    assert torch.equal(none.tokens, smc.draw())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="sweeps=-1: must be at least 0"):
        run(TiltedTarget(), 1, sweeps=-1)
    with pytest.raises(ValueError, match="particles=0: must be at least 1"):
        run(TiltedTarget(), 1, particles=0)
