"""`max_nfe`: how many tokens a step writes, from which law, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import generate, replay, sample, samplers, wrap
from dlm_sampling.guidance import ClassifierFree, NegativePrompt
from dlm_sampling.types import TokenLaw

MASK = 3
LOGITS = 0.4 * torch.randn(6, MASK, generator=torch.Generator().manual_seed(3))


def network(ids: Tensor) -> Tensor:
    """A law of each position that depends on how many masks there are."""
    left = (ids == MASK).sum(1).view(-1, 1, 1)
    rows = torch.nn.functional.pad(LOGITS[: ids.shape[1]], (0, 1), value=-20.0)
    return rows.roll(1, 0) * (1 + left / 4)


DENOISER = wrap(network, vocab_size=4, mask_token_id=MASK)


def run(name: str, budget: int | None, **options: Any) -> Any:
    editable = torch.ones(3, 6, dtype=torch.bool)
    editable[2, 0] = False
    tokens = torch.zeros(3, 6, dtype=torch.int64)
    law = TokenLaw(temperature=1.0)
    options = {"law": law, "seeds": [1, 2, 3], **options}
    sampler = samplers.create(name)
    return sample(DENOISER, sampler, tokens, editable, max_nfe=budget, **options)


def written(out: Any, row: int) -> list[int]:
    return [int(event.written[i].sum()) for event, i in out.trajectory.steps(row)]


def test_an_adaptive_sampler_writes_its_tokens_or_the_share_of_a_pass() -> None:
    """Sequential decoding writes one token a step: 6 tokens in R passes are ceil(M / R) a step."""
    for budget, expected in ((1, [6]), (4, [2, 2, 1, 1]), (5, [2, 1, 1, 1, 1]), (9, [1] * 6)):
        out = run("fast-dllm", budget, law=TokenLaw(), return_trajectory=True)
        assert written(out, 0) == expected
        assert out.nfe.tolist()[0] == len(expected)
        assert int(out.forced[0]) == 6 - len(expected)
    blocks = run("fast-dllm", 3, law=TokenLaw(), return_trajectory=True, block_length=3)
    assert written(blocks, 0) == [3, 2, 1]  # a pass is kept for the second block


def test_a_written_block_that_asks_for_one_pass_more_ends_where_none_is_left() -> None:
    """With `every_step` LLaDA2's block is over after a step that saw no mask."""
    for budget in (1, 2, 5):
        out = run("llada2", budget, every_step=True, seeds=[1, 1, 1])
        assert int(out.nfe.max()) == budget and not bool((out.tokens == MASK).any())
    blocks = run("llada2", 3, every_step=True, block_length=3)
    assert int(blocks.nfe.max()) == 3


@pytest.mark.slow
def test_forced_tokens_are_those_of_least_entropy_with_the_log_probability_of_the_law() -> None:
    out = run("eb-sampler", 2, return_trajectory=True)
    event, i = out.trajectory.steps(0)[0]
    log_p = network(event.before)[i][:, :MASK].double().log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1)
    most = entropy[event.written[i]].max()
    assert bool((entropy[~event.written[i]] >= most).all())
    drawn = log_p.gather(1, event.tokens[i].clamp(max=2).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(event.logprob[i].double()[event.written[i]],
                               drawn[event.written[i]], atol=1e-5, rtol=0)  # fmt: skip


@pytest.mark.slow
def test_a_replay_finds_the_same_log_probabilities() -> None:
    out = generate(
        DENOISER, [[0], [1]], sampler="eb-sampler", temperature=1.0, max_new_tokens=4, max_nfe=2,
        seed=1, return_rollout=True, eos="keep",
    )  # fmt: skip
    assert out.rollout is not None
    assert out.forced is not None
    assert int(out.forced.sum()) > 0
    torch.testing.assert_close(
        replay(DENOISER, out.rollout).logprob, out.logprobs, atol=1e-5, rtol=0
    )


@pytest.mark.slow
def test_a_schedule_is_planned_with_the_steps_that_fit() -> None:
    out = run("llada", 4, steps=6, block_length=3)
    assert torch.equal(out.tokens, run("llada", None, steps=4, block_length=3).tokens)
    guided = run("llada", 8, steps=6, block_length=3, guidance_scale=0.5)
    assert guided.nfe.tolist() == [8, 8, 8]
    assert torch.equal(run("llada", 50).tokens, run("llada", None).tokens)


@pytest.mark.parametrize(
    ("budget", "options", "words"),
    [
        (0, {}, "must be at least 1"),
        (
            2,
            {"block_length": 2},
            r"least 3 passes in row 0, 1 in each block \(blocks: 3\).* \(block_length=\)",
        ),
        (1, {"guidance_scale": 0.5}, r"2 in each block \(blocks: 1\); use max_nfe=2\.$"),
        (2, {"cuda_graph": True}, "goes without cuda_graph=True"),
        (2, {"guidance": ClassifierFree(1.0, NegativePrompt((1,)))}, "goes without guidance="),
        (2, {"times": [1.0, 0.6, 0.3, 0.0], "name": "ancestral"}, "times has 3 steps"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(
    budget: int, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(options.pop("name", "llada"), budget, **options)
