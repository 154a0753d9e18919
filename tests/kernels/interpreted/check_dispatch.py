"""The ops themselves run the kernels when DLM_KERNELS forces them."""

from __future__ import annotations

import dlm_kernels
import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.types import Draw

KERNELS = ["draw", "log_probs", "log_prob_of", "top_k_positions", "threshold_positions"]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that were called; DLM_KERNELS=triton."""
    names: list[str] = []

    def spy(name: str) -> None:
        kernel = getattr(dlm_kernels, name)

        def called(*arguments: object, **options: object) -> object:
            names.append(name)
            return kernel(*arguments, **options)

        monkeypatch.setattr(dlm_kernels, name, called, raising=False)

    for name in KERNELS:
        spy(name)
    monkeypatch.setenv("DLM_KERNELS", "triton")
    return names


def test_the_ops_run_the_kernels(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    score = torch.tensor([[0.5, 2.0, 2.0, -1.0]])
    noise = dict.fromkeys(("keys", "positions", "steps"), torch.tensor([7]))
    k = torch.tensor([1])
    found = (
        ops.draw(score, **noise),
        ops.log_probs(score),
        ops.log_prob_of(score, k),
        ops.top_k_positions(score, score > 0, k),
        ops.threshold_positions(score, score > 0, 0.1),
    )
    assert launched == KERNELS
    monkeypatch.setenv("DLM_KERNELS", "torch")
    assert type(found[0]) is Draw
    assert torch.equal(found[0].token, ops.draw(score, **noise).token)
    torch.testing.assert_close(found[1], ops.log_probs(score))
    torch.testing.assert_close(found[2], ops.log_prob_of(score, k))
    assert torch.equal(found[3], ops.top_k_positions(score, score > 0, k))
    assert torch.equal(found[4], ops.threshold_positions(score, score > 0, 0.1))
    assert launched == KERNELS


@pytest.mark.usefixtures("launched")
def test_what_the_kernels_cannot_do_is_said() -> None:
    score = torch.zeros(1, 4)
    noise = dict.fromkeys(("keys", "positions", "steps"), torch.tensor([7]))
    with pytest.raises(RuntimeError, match=r"'draw' cannot run: the logits are torch.float64"):
        ops.draw(score.double(), **noise)
    with pytest.raises(RuntimeError, match="'top_k_positions' cannot run: the scores are"):
        ops.top_k_positions(score.long(), score == 0, torch.tensor([1]))
