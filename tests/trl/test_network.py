"""A network of any kind looks like a model of transformers to a trainer, and stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dlm_sampling import AutoDenoiser, wrap
from dlm_sampling.trl.network import NetworkShell, calling, network_for_trainer

pytestmark = pytest.mark.slow
IDS = torch.arange(6)[None]


def test_a_model_of_transformers_is_taken_as_it_is(tiny_llada: Path) -> None:
    policy = AutoDenoiser.from_pretrained(tiny_llada)
    assert network_for_trainer(policy) is policy.module


def test_another_network_gets_a_shell_and_keeps_its_logits(tmp_path: Path) -> None:
    policy = AutoDenoiser.from_pretrained("tiny-books-uniform")
    time = torch.tensor([0.4], dtype=torch.float64)
    before = policy.logits(IDS, t=time)
    shell = network_for_trainer(policy)
    assert isinstance(shell, NetworkShell)
    assert policy.module is shell
    assert torch.equal(policy.logits(IDS, t=time), before)
    assert not shell.is_gradient_checkpointing
    shell.gradient_checkpointing_enable({"use_reentrant": False})
    assert shell.is_gradient_checkpointing
    torch.testing.assert_close(policy.logits(IDS, t=time), before)
    shell.gradient_checkpointing_disable()
    assert not shell.is_gradient_checkpointing
    policy.save_pretrained(tmp_path)
    assert torch.equal(AutoDenoiser.from_pretrained(tmp_path).logits(IDS, t=time), before)


def test_a_wrapper_is_called_for_a_while(tiny_llada: Path) -> None:
    policy = AutoDenoiser.from_pretrained(tiny_llada)
    network, calls = policy.module, list[int]()
    assert network is not None
    wrapper = torch.nn.Sequential(network)
    wrapper.forward = lambda *args, **given: calls.append(1) or network(*args, **given)  # pyright: ignore
    with calling(policy, wrapper):
        policy.logits(IDS)
    assert calls == [1]
    assert policy.module is network


def test_a_function_has_nothing_to_train() -> None:
    policy = wrap(lambda input_ids: torch.zeros(*input_ids.shape, 3), vocab_size=3, mask_token_id=2)
    with pytest.raises(TypeError, match="has no network whose weights could train"):
        network_for_trainer(policy)
