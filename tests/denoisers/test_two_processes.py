"""Networks inside data parallelism and sharding, on two processes: the texts of the network alone.

Ranks see their own rows, of different length, in training mode, and the network reads the time.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from dlm_sampling import Denoiser, generate, replay, wrap
from tests.forks import Forks

V, MASK = 40, 39
PROMPTS = [[[1, 2, 3], [4]], [[5], [6, 7, 8, 9]]]
ADVANTAGES = torch.tensor([1.0, -0.5])


class Network(nn.Module):
    """Reads the time and only real columns, and drops half of its states in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(V, 8), nn.Linear(8, V)
        self.dropout = nn.Dropout(0.5)
        generator = torch.Generator().manual_seed(0)
        for weight in self.parameters():
            nn.init.normal_(weight, generator=generator)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, t: Tensor) -> Tensor:
        states = self.table(input_ids)
        real = attention_mask.unsqueeze(-1)
        mean = (states * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return self.head(self.dropout(states + 3 * mean * t.to(states.dtype)[:, None, None]))


def denoiser_of(network: nn.Module) -> Denoiser:
    return wrap(
        network, vocab_size=V, mask_token_id=MASK, time_conditioned=True, honours_padding=True
    )


def drawn(denoiser: Denoiser, rank: int) -> dict[str, Any]:
    """Draw two rows, score them again, and leave the gradient of what was drawn."""
    module = denoiser.module
    assert module is not None
    module.train()
    out = generate(
        denoiser, PROMPTS[rank], seed=rank, sampler="llada-random", steps=3, max_new_tokens=5,
        temperature=1.0, eos="keep", return_rollout=True,
    )  # fmt: skip
    assert module.training and out.rollout is not None
    scores = replay(denoiser, out.rollout)
    (-(scores.total * ADVANTAGES).mean()).backward()
    assert module.training
    sampled = torch.stack([row[row != 0].sum() for row in out.logprobs])
    return {"tokens": out.token_ids, "sampled": sampled, "scores": scores.total.detach()}


def whole(gradient: Tensor) -> Tensor:
    """The gradient in one piece, wherever its shards are."""
    full: Any = gradient
    return full.full_tensor() if hasattr(gradient, "full_tensor") else gradient.clone()


def process(rank: int, kind: str, out: Path) -> None:
    store = torch.distributed.FileStore(str(out / "store"), 2)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    network = Network()
    denoiser = denoiser_of(network)
    if kind == "DistributedDataParallel":
        denoiser = denoiser_of(DistributedDataParallel(network))
    else:
        fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
    found = drawn(denoiser, rank)
    gradients = [whole(p.grad) for p in network.parameters() if p.grad is not None]
    network.to(torch.float64)
    assert denoiser.dtype == torch.float64, "a network moved by others is followed"
    torch.save({**found, "gradients": gradients}, out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DistributedDataParallel", "fully_shard"])
def test_texts_scores_and_gradients_are_those_of_the_network_alone(
    kind: str, tmp_path: Path, forks: Forks
) -> None:
    both = [forks.call(process, rank, kind, tmp_path) for rank in range(2)]
    for fork in both:
        code, _, err = fork.ended()
        assert code == 0, err.decode()[-2000:]
    alone = Network()
    denoiser = denoiser_of(alone)
    for rank in range(2):
        found, wanted = torch.load(tmp_path / f"{rank}.pt"), drawn(denoiser, rank)
        assert found["tokens"] == wanted["tokens"]
        torch.testing.assert_close(found["scores"], wanted["scores"])
        torch.testing.assert_close(found["scores"].float(), found["sampled"].float())
        torch.testing.assert_close(found["sampled"].float(), wanted["sampled"].float())
    mean = [p.grad / 2 for p in alone.parameters() if p.grad is not None]
    for rank in range(2):
        gradients = torch.load(tmp_path / f"{rank}.pt")["gradients"]
        assert len(gradients) == len(mean) == 3
        for one, other in zip(gradients, mean, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
