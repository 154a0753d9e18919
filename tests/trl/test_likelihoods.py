"""The likelihoods that a trainer may take are those of `replay` and of the estimators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_sampling import AutoDenoiser, Denoiser, Rollout, generate, replay
from dlm_sampling.rl import coupled_logprob, mean_field_logprob
from dlm_sampling.trl import CoupledLikelihood, MeanFieldLikelihood, RunLikelihood, TokenLikelihood

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy(tiny_llada: Path) -> Denoiser:
    return AutoDenoiser.from_pretrained(tiny_llada)


def drawn(policy: Denoiser, sampler: str = "llada-random", **options: Any) -> Rollout:
    found = generate(
        policy, ["abc", "hello"], sampler=sampler, max_new_tokens=6, seed=0, temperature=0.9,
        return_rollout=True, **{"steps": 3, **options},
    ).rollout  # fmt: skip
    assert found is not None
    return found


@pytest.mark.parametrize("likelihood", [RunLikelihood(), RunLikelihood(shrink=2, law="model")])
def test_of_the_run(policy: Denoiser, likelihood: RunLikelihood) -> None:
    rollout = drawn(policy)
    found = likelihood(policy, rollout, batch_size=1, exact_entropy=True)
    wanted = replay(policy, rollout, shrink=likelihood.shrink, law=likelihood.law, entropy=True)
    assert wanted.entropy is not None
    torch.testing.assert_close(found, (wanted.logprob, wanted.entropy))
    assert found.entropy.requires_grad


def test_what_was_recorded_is_what_the_run_gives(policy: Denoiser) -> None:
    rollout = drawn(policy)
    kept = RunLikelihood().recorded(rollout)
    assert kept is not None
    torch.testing.assert_close(kept, replay(policy, rollout, grad=False).logprob)
    assert RunLikelihood(shrink=2).recorded(rollout) is None
    assert RunLikelihood(law="model").recorded(rollout) is None
    assert RunLikelihood().recorded(drawn(policy, "remdm-cap", steps=8)) is None
    assert RunLikelihood().recorded(drawn(policy, cache="prefix", block_length=3)) is None


def test_a_token_that_was_replaced_counts_at_its_position(policy: Denoiser) -> None:
    options: dict[str, Any] = {"steps": 12, "sampler_options": {"eta": 0.6}}
    rollout = drawn(policy, "remdm-cap", **options)
    found = RunLikelihood()(policy, rollout, batch_size=None, exact_entropy=False).logprob
    again = replay(policy, rollout)
    torch.testing.assert_close(found.sum(1), again.total)
    assert (again.logprob.sum(1) - again.total).abs().max() > 0.1


@pytest.mark.parametrize(
    ("likelihood", "passes"), [(MeanFieldLikelihood(0.3), 1), (CoupledLikelihood(), 3)]
)
def test_estimates_have_the_masks_of_the_rows(
    policy: Denoiser, likelihood: TokenLikelihood, passes: int
) -> None:
    rollout = drawn(policy)
    found = likelihood(policy, rollout, batch_size=None, exact_entropy=False)
    rows: dict[str, Any] = {
        "editable": rollout.editable,
        "seed": rollout.seeds,
        "attention_mask": rollout.attention_mask,
    }
    if passes == 1:
        wanted = mean_field_logprob(policy, rollout.tokens, prompt_masking=0.3, **rows)
    else:
        wanted = coupled_logprob(policy, rollout.tokens, **rows)
    assert torch.equal(found.logprob, wanted)
    assert torch.equal(found.entropy, -wanted.detach())
    other = likelihood(policy, rollout.select(torch.tensor([1])), batch_size=1, exact_entropy=False)
    torch.testing.assert_close(other.logprob, found.logprob[1:])
    assert likelihood.recorded(rollout) is None
    with pytest.raises(ValueError, match="no exact entropy, which entropy_coef"):
        likelihood(policy, rollout, batch_size=None, exact_entropy=True)


def test_steps_of_noise_have_no_exact_entropy() -> None:
    policy = AutoDenoiser.from_pretrained("tiny-books-uniform")
    rollout = generate(
        policy, "Once", max_new_tokens=3, steps=2, seed=0, return_rollout=True
    ).rollout
    assert rollout is not None
    found = RunLikelihood()(policy, rollout, batch_size=None, exact_entropy=False)
    torch.testing.assert_close(found.logprob.sum(1), replay(policy, rollout).total)
    assert torch.equal(found.entropy, -found.logprob.detach())
    with pytest.raises(ValueError, match="runs of Ancestral, whose steps are taken again, give no"):
        RunLikelihood()(policy, rollout, batch_size=None, exact_entropy=True)
