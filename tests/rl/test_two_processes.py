"""Two processes: gradients are averaged over them, and random numbers belong to rows."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from dlm_sampling import AutoDenoiser, Denoiser, elbo, generate, replay
from dlm_sampling.rl import mean_field_logprob
from tests.forks import Forks

PROMPTS = ["a", "some words", "abc", "x y"]
SEEDS = [11, 12, 13, 14]
ADVANTAGES = torch.tensor([1.0, -0.5, 0.25, -0.75])
STEPS = (3, 2)  # of the two halves: processes may need different numbers of passes


def half(policy: Denoiser, rank: int, steps: tuple[int, int] = STEPS) -> dict[str, Any]:
    """Draw two rows, and compute the loss of what was drawn; leaves its gradient."""
    rows = slice(2 * rank, 2 * rank + 2)
    out = generate(
        policy, PROMPTS[rows], seed=SEEDS[rows], sampler="llada-random", steps=steps[rank],
        max_new_tokens=6, temperature=1.0, eos="keep", return_rollout=True,
    )  # fmt: skip
    rollout = out.rollout
    assert rollout is not None
    scored = replay(policy, rollout)
    (-(scored.total * ADVANTAGES[rows]).mean()).backward()
    texts = {"editable": rollout.editable, "attention_mask": rollout.attention_mask}
    seeds = list(rollout.seeds)
    with torch.no_grad():
        bound = elbo(policy, rollout.tokens, n=3, seed=seeds, **texts)
        field = mean_field_logprob(policy, rollout.tokens, seed=seeds, **texts)
    return {
        "tokens": out.token_ids,
        "masks": [bound.masks.masks[:, i, -6:] for i in range(2)],
        "bound": bound.value,
        "field": field.sum(1),
        "ratio": (scored.logprob.detach() - rollout.logprob).exp(),
    }


def gradients(policy: Denoiser) -> list[Tensor]:
    assert policy.module is not None
    return [p.grad for p in policy.module.parameters() if p.grad is not None]


def in_group(rank: int, folder: Path, out: Path) -> Denoiser:
    store = torch.distributed.FileStore(str(out / "store"), 2)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    return AutoDenoiser.from_pretrained(folder)


def process(rank: int, folder: Path, out: Path) -> None:
    policy = in_group(rank, folder, out)
    assert policy.module is not None
    policy.module = DistributedDataParallel(policy.module, broadcast_buffers=False)
    found = half(policy, rank)
    torch.save({**found, "gradients": gradients(policy)}, out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def sharded(rank: int, folder: Path, out: Path) -> None:
    """Both kinds of sharding; a pass gathers weights, so that ranks make equally many."""
    whole: Any = in_group(rank, folder, out)
    mesh = init_device_mesh("cpu", (2,))
    for layer in whole.module.modules():
        if isinstance(layer, LlamaDecoderLayer):
            fully_shard(layer, mesh=mesh)
    fully_shard(whole.module, mesh=mesh)
    found = {"fully_shard": half(whole, rank, (3, 3))}
    whole.module.reshard()  # a pass without gradients, as that of a bound, leaves it gathered
    shards: list[Any] = list(gradients(whole))
    found["fully_shard"]["gradients"] = [shard.full_tensor() for shard in shards]
    whole = AutoDenoiser.from_pretrained(folder)
    whole.module = FullyShardedDataParallel(
        whole.module, device_id=torch.device("cpu"), use_orig_params=True
    )
    found["FullyShardedDataParallel"] = half(whole, rank, (3, 3))
    with FullyShardedDataParallel.summon_full_params(whole.module, with_grads=True):
        grads = [grad.clone() for grad in gradients(whole)]
    found["FullyShardedDataParallel"]["gradients"] = grads
    torch.save(found, out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_sharded_weights_sample_and_train_as_whole_ones(
    tiny_llada: Path, tmp_path: Path, forks: Forks
) -> None:
    both = [forks.call(sharded, rank, tiny_llada, tmp_path) for rank in range(2)]
    for fork in both:
        code, _, err = fork.ended()
        assert code == 0, err.decode()[-2000:]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    alone = AutoDenoiser.from_pretrained(tiny_llada)
    wanted = [half(alone, rank, (3, 3)) for rank in range(2)]
    means = [grad / 2 for grad in gradients(alone)]
    for kind in ("fully_shard", "FullyShardedDataParallel"):
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine[kind]["tokens"] == theirs["tokens"]
            torch.testing.assert_close(mine[kind]["bound"], theirs["bound"])
            assert (mine[kind]["ratio"] - 1.0).abs().max() <= 1e-5
        for one, two, mean in zip(*(f[kind]["gradients"] for f in found), means, strict=True):
            assert torch.equal(one, two)
            torch.testing.assert_close(one, mean, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_two_processes_are_one(tiny_llada: Path, tmp_path: Path, forks: Forks) -> None:
    both = [forks.call(process, rank, tiny_llada, tmp_path) for rank in range(2)]
    for fork in both:
        code, _, err = fork.ended()
        assert code == 0, err.decode()[-2000:]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    alone = AutoDenoiser.from_pretrained(tiny_llada)
    wanted = [half(alone, rank) for rank in range(2)]
    for one, two, mean in zip(
        found[0]["gradients"], found[1]["gradients"], gradients(alone), strict=True
    ):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, mean / 2, rtol=1e-5, atol=1e-7)
    assert max(float(one.abs().max()) for one in found[0]["gradients"]) > 1e-3
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine["tokens"] == theirs["tokens"]
        torch.testing.assert_close(mine["bound"], theirs["bound"])
        torch.testing.assert_close(mine["field"], theirs["field"])

    # A row in another batch, beside other rows: its tokens and masks are its own.
    out = generate(
        alone, PROMPTS[::-1], seed=SEEDS[::-1], sampler="llada-random", steps=3, max_new_tokens=6,
        temperature=1.0, eos="keep", return_rollout=True,
    )  # fmt: skip
    assert out.rollout is not None
    assert out.token_ids[::-1][:2] == found[0]["tokens"]
    bound = elbo(
        alone, out.rollout.tokens, editable=out.rollout.editable, n=3, seed=SEEDS[::-1],
        attention_mask=out.rollout.attention_mask,
    )  # fmt: skip
    for rank in range(2):
        for i in range(2):
            row = bound.masks.masks[:, 3 - (2 * rank + i), -6:]
            assert torch.equal(row, found[rank]["masks"][i])
