"""Training through TRL: the ratios, the gradient and the rewards are those of the texts drawn.

TRL and PEFT are no part of [test]; pip install '.[rl]' for these.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
trl: Any = pytest.importorskip("trl", reason="needs: pip install 'dlm-sampling[rl]'")

from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402

from dlm_sampling import AutoDenoiser, Denoiser, Rollout, replay  # noqa: E402
from dlm_sampling.errors import SamplingWarning  # noqa: E402
from dlm_sampling.trl import (  # noqa: E402
    MeanFieldLikelihood,
    RunLikelihood,
    TokenScores,
    grpo_trainer,
)
from dlm_sampling.trl.drawn_rows import DrawnBatch  # noqa: E402

pytestmark = [pytest.mark.external, pytest.mark.slow]

PROMPTS = ["abc", "Hello", "a", "bb cc"]
GENERATION = {"sampler": "llada-random", "steps": 4}
Trained = tuple[Any, list[dict[str, Any]], Denoiser]


def reward(completions: list[str], **_: Any) -> list[float]:
    return [float(len(text) + sum(c in "aeiou" for c in text)) for text in completions]


@pytest.fixture
def train(tmp_path: Path, tiny_llada: Path) -> Callable[..., Trained]:
    """Train for two generations of two iterations each; every call of the loss is noted."""

    def run(
        model: str | None = None,
        *,
        rewarded: Any = reward,
        dtype: torch.dtype = torch.float32,
        prompts: list[str] = PROMPTS,
        prepare: Callable[[Denoiser], None] | None = None,
        options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Trained:
        policy = AutoDenoiser.from_pretrained(tiny_llada if model is None else model)
        policy.to(dtype=dtype)
        if prepare is not None:
            prepare(policy)
        seen: list[dict[str, Any]] = []

        class Noting(grpo_trainer()):
            def _get_per_token_logps_and_entropies(self, *args: Any, **given: Any) -> Any:
                found = super()._get_per_token_logps_and_entropies(*args, **given)
                if seen and "logps" not in seen[-1]:
                    seen[-1]["logps"] = found[0].detach()
                return found

            def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
                seen.append({**inputs, "model": model})
                return super()._compute_loss(model, inputs)

        args = trl.GRPOConfig(
            str(tmp_path), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, seed=3,
            save_strategy="no", logging_steps=1, num_generations=4, max_completion_length=8,
            per_device_train_batch_size=4, gradient_accumulation_steps=2,
            **{"num_iterations": 2, "max_steps": 4, "learning_rate": 1e-2, **settings},
        )  # fmt: skip
        options = {"generation": GENERATION, **(options or {})}
        data = Dataset.from_dict({"prompt": prompts})
        trainer = Noting(policy, rewarded, args, train_dataset=data, **options)
        trainer.train()
        return trainer, seen, policy

    return run


def gaps(seen: list[dict[str, Any]]) -> list[float]:
    """Largest log-ratio of each call of the loss."""
    return [
        float(((call["logps"] - call["old_per_token_logps"]) * call["tool_mask"]).abs().max())
        for call in seen
    ]


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-11)], ids=["32", "64"]
)
def test_first_ratios_are_1_after_shuffling(
    train: Callable[..., Trained], dtype: torch.dtype, error: float
) -> None:
    trainer, seen, _ = train(dtype=dtype)
    assert len(seen) == 8  # 4 updates of 2 micro-batches
    found = gaps(seen)
    for first in (0, 1, 4, 5):
        assert found[first] <= error
    for second in (2, 3, 6, 7):
        assert found[second] > 0.01  # the weights have moved
    logs = [h for h in trainer.state.log_history if "clip_ratio/region_mean" in h]
    assert [float(h["clip_ratio/region_mean"]) for h in logs[::2]] == [0.0, 0.0]
    assert all(float(h["entropy"]) > 1.0 for h in logs)
    # the batches were shuffled: rows of the rollout are not in their order
    numbers = [row.row for call in seen[:2] for row in call["drawn_rows"]]
    assert sorted(numbers) == list(range(8))
    assert numbers != sorted(numbers)


def test_rows_that_are_left_in_their_order_are_found_out(
    train: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: the loss reads the rollout without following TRL's shuffling."""
    whole = DrawnBatch.of

    def unshuffled(rows: Any) -> DrawnBatch:
        return whole(sorted(rows, key=lambda row: row.row))

    monkeypatch.setattr(DrawnBatch, "of", unshuffled)
    _, seen, _ = train(max_steps=1)
    assert max(gaps(seen)) > 0.01


def test_the_gradient_is_that_of_the_run(train: Callable[..., Trained]) -> None:
    """At ratio 1 it is the sum of advantages times slopes of `replay`, over the tokens counted."""
    kept: list[list[Tensor]] = []

    def prepare(policy: Denoiser) -> None:
        kept.append([p.detach().clone() for p in policy.module.parameters()])  # pyright: ignore

    _, seen, policy = train(
        prepare=prepare, max_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=0.0,
        lr_scheduler_type="constant",
    )  # fmt: skip
    assert policy.module is not None
    weights = list(policy.module.parameters())
    moved = [before - after.detach() for before, after in zip(kept[0], weights, strict=True)]
    with torch.no_grad():
        for weight, before in zip(weights, kept[0], strict=True):
            weight.copy_(before)
    total = torch.zeros(())
    count = sum(float(call["tool_mask"].sum()) for call in seen)
    for call in seen:
        batch = DrawnBatch.of(call["drawn_rows"])
        logprob = replay(policy, batch.rollout).logprob[:, -8:]
        total = total - (logprob * call["advantages"][:, None] * call["tool_mask"]).sum() / count
    wanted = torch.autograd.grad(total, weights, allow_unused=True)
    for found, one in zip(moved, wanted, strict=True):
        assert one is not None
        torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-6)
    assert max(float(one.abs().max()) for one in moved) > 1e-3


def test_rewards_see_texts_up_to_their_ends(train: Callable[..., Trained]) -> None:
    told: list[tuple[str, list[int], list[int]]] = []

    def rewarded(
        completions: list[str],
        completion_ids: list[list[int]],
        step_index: list[list[int]],
        **_: Any,
    ) -> list[float]:
        told.extend(zip(completions, completion_ids, step_index, strict=True))
        return reward(completions)

    _, seen, _ = train(
        rewarded=rewarded, max_steps=1, options={"generation": {**GENERATION, "eos": "cut"}},
    )  # fmt: skip
    ended = [ids for _, ids, _ in told if 0 in ids]
    assert ended
    assert all(ids.index(0) == len(ids) - 1 for ids in ended)
    for text, ids, steps in told:
        assert len(text) == len(ids) - (0 in ids)
        assert len(steps) == len(ids)
    counted = torch.cat([call["tool_mask"] for call in seen])
    assert bool((counted == 1).all())  # all of the canvas was drawn at random, and all counts
    assert counted.shape == (8, 8)


def test_the_loss_can_end_with_the_text(train: Callable[..., Trained]) -> None:
    options = {"generation": {**GENERATION, "eos": "cut"}, "loss_behind_eos": False}
    _, seen, _ = train(max_steps=1, options=options)
    for call in seen:
        for row, mask, ids in zip(
            call["drawn_rows"], call["completion_mask"], call["completion_ids"], strict=True
        ):
            text = row.rollout.tokens[row.row, row.begin :].tolist()
            length = text.index(0) + 1 if 0 in text else 8
            assert ids[:length].tolist() == text[:length]
            assert int(mask.sum()) == length
    assert max(gaps(seen)) <= 1e-5


def test_adapters_checkpointing_and_a_reference(train: Callable[..., Trained]) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=True)
    trainer, seen, policy = train(
        beta=0.1, gradient_checkpointing=True, options={"peft_config": lora}, learning_rate=0.1
    )  # fmt: skip
    assert trainer.ref_model is None
    logs = [h for h in trainer.state.log_history if "kl" in h]
    assert float(logs[0]["kl"]) == pytest.approx(0.0, abs=1e-9)
    assert float(logs[-1]["kl"]) > 1e-6
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    # The reference is the policy without its adapters.
    batch = DrawnBatch.of(seen[-1]["drawn_rows"])
    with torch.no_grad(), policy.module.disable_adapter():  # pyright: ignore
        wanted = batch.behind(replay(policy, batch.rollout).logprob, 8)
    torch.testing.assert_close(seen[-1]["ref_per_token_logps"], wanted, rtol=0, atol=1e-5)
    assert max(gaps(seen[:2])) <= 1e-5


def test_a_reference_without_adapters_is_the_start(
    train: Callable[..., Trained], tiny_llada: Path
) -> None:
    _, seen, policy = train(beta=0.1)
    start = AutoDenoiser.from_pretrained(tiny_llada)
    batch = DrawnBatch.of(seen[-1]["drawn_rows"])
    with torch.no_grad():
        wanted = batch.behind(replay(start, batch.rollout).logprob, 8)
        now = batch.behind(replay(policy, batch.rollout).logprob, 8)
    torch.testing.assert_close(seen[-1]["ref_per_token_logps"], wanted, rtol=0, atol=1e-5)
    assert (wanted - now).abs().max() > 1e-2


def test_networks_of_another_kind_and_noise_without_masks(train: Callable[..., Trained]) -> None:
    _, seen, _ = train("tiny-books-uniform", options={"generation": {"steps": 3}}, max_steps=2)
    found = gaps(seen)
    assert max(found[:2]) <= 1e-4
    assert max(found[2:]) > 1e-3


def test_a_law_with_filters_gives_a_loss_that_is_a_number(train: Callable[..., Trained]) -> None:
    """In the second iteration tokens have left the law: their terms go, and the others train."""
    with pytest.warns(SamplingWarning, match="are -inf, and leave the loss"):
        trainer, seen, policy = train(top_p=0.5, beta=0.1, max_steps=2, learning_rate=0.1)
    assert all(bool(call["logps"].isfinite().all()) for call in seen)
    assert policy.module is not None
    assert all(bool(p.isfinite().all()) for p in policy.module.parameters())
    logs = [h for h in trainer.state.log_history if "kl" in h]
    assert 0.0 < float(logs[1]["kl"]) < torch.inf
    assert float(logs[1]["loss"]) != 0.0  # TRL logs a loss that is no number as 0
    assert float(logs[1]["grad_norm"]) > 0.0


def test_a_network_that_transformers_does_not_generate_with(train: Callable[..., Trained]) -> None:
    """The Sudoku model is a BERT; its tokenizer has neither a padding token nor an end-of-text."""

    def count(completions: list[str], **_: Any) -> list[float]:
        return [float(text[:6].count("1")) for text in completions]

    generation = {"sampler": "llada-random", "steps": 4, "infill": True, "eos": "keep"}
    _, seen, policy = train(
        "sudoku4x4", rewarded=count, options={"generation": generation}, max_steps=1,
        prompts=["." * 16, "1" + "." * 15, "." * 15 + "2", "3" + "." * 15],
    )  # fmt: skip
    assert max(gaps(seen)) <= 1e-5
    assert any(bool((call["advantages"] != 0).any()) for call in seen)
    assert policy.tokenizer.pad_token is None  # pyright: ignore


def test_the_likelihood_can_be_another(train: Callable[..., Trained]) -> None:
    _, seen, _ = train(max_steps=1, options={"likelihood": MeanFieldLikelihood()})
    assert max(gaps(seen)) <= 1e-5
    drawn: Rollout = DrawnBatch.of(seen[0]["drawn_rows"]).rollout
    assert (seen[0]["logps"] - drawn.logprob[:, -8:]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="MeanFieldLikelihood give no exact entropy"):
        train(max_steps=1, entropy_coef=0.1, options={"likelihood": MeanFieldLikelihood()})


def test_the_entropy_bonus_has_a_gradient(train: Callable[..., Trained]) -> None:
    def nothing(completions: list[str], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    trainer, _, _ = train(
        rewarded=nothing, entropy_coef=-1.0, options={"likelihood": RunLikelihood()}
    )
    logs = [float(h["entropy"]) for h in trainer.state.log_history if "entropy" in h]
    assert logs[-1] < logs[0] - 0.01


def test_a_batch_without_anything_drawn_is_named(train: Callable[..., Trained]) -> None:
    def certain(policy: Denoiser, rollout: Rollout, **_: Any) -> TokenScores:
        return TokenScores(torch.zeros(rollout.tokens.shape), torch.zeros(rollout.tokens.shape))

    certain.recorded = lambda rollout: None  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no token of the batch was drawn at random"):
        train(max_steps=1, options={"likelihood": certain})


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    """The same texts and weights: seeds belong to rows, and gradients are averaged."""

    def run(*launcher: str) -> list[list[str]]:
        command = [sys.executable, *launcher, "-m", "tests.trl.two_processes", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        found = [line for line in done.stdout.splitlines() if line.startswith("rank ")]
        assert found, done.stderr[-2000:]
        return sorted(line.split(":") for line in found)

    (alone,) = run()
    both = run("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    assert [words[0] for words in both] == ["rank 0", "rank 1"]
    assert both[0][1] == both[1][1]  # equal weights on both ranks
    assert float(both[0][1]) == pytest.approx(float(alone[1]), abs=1e-5)
    assert both[0][2] + both[1][2] == alone[2]  # the texts of the first generation
