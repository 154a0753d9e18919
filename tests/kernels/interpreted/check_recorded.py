"""A recorded step with the kernels: what their launchers do on the host is fit for a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers
from dlm_sampling.denoisers import wrap
from dlm_sampling.engine import sample as loop
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.types import DenoiserOutput, TokenLaw
from tests.capture import steps_only_on_the_device

Network = Callable[[Tensor], Tensor | DenoiserOutput]

TABLE = torch.randn(3, 9, generator=torch.Generator().manual_seed(3))


HEAD = torch.nn.Linear(9, 9)


def logits(ids: Tensor) -> Tensor:
    return TABLE[: ids.shape[1]] + 0.1 * ids.sum(1)[:, None, None] / TABLE


def hidden(ids: Tensor) -> DenoiserOutput:
    return DenoiserOutput(logits(ids), HEAD)


def run(network: Network, name: str, law: TokenLaw, cuda_graph: bool) -> SampleOutput:
    model = wrap(network, vocab_size=9, mask_token_id=8)
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    editable = torch.tensor([[False, True, True], [True, True, False]])
    return sample(
        model, samplers.create(name), tokens, editable, seeds=[3, 4], steps=2, law=law,
        cuda_graph=cuda_graph,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "name", "law"),
    [
        (logits, "llada", TokenLaw(0.0)),
        (hidden, "remdm-cap", TokenLaw(0.8, top_p=0.9)),
        (hidden, "eb-sampler", TokenLaw()),
        (logits, "p2-random", TokenLaw(top_k=3)),
    ],
)
def test_the_launchers_ask_nothing(
    network: Network, name: str, law: TokenLaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLM_KERNELS", "triton")
    monkeypatch.setattr(loop, "record", steps_only_on_the_device)
    monkeypatch.setattr(loop, "check_device", lambda *_: None)

    ours, theirs = run(network, name, law, True), run(network, name, law, False)
    assert torch.equal(ours.tokens, theirs.tokens)
    torch.testing.assert_close(ours.logprob, theirs.logprob)
