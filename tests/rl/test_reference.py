"""An adapter that is switched off gives the model that it was put on."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dlm_sampling import AutoDenoiser
from dlm_sampling.rl import as_reference


class Adapter(nn.Module):
    """As PEFT wraps a network: a further layer, and a context in which it is left out."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base, self.on = base, True
        self.shift = nn.Parameter(torch.tensor(0.1))

    def forward(self, *args: Any, **given: Any) -> Any:
        if not self.on:
            return self.base(*args, **given)
        weight = self.base.get_input_embeddings().weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1 + self.shift)
        try:
            return self.base(*args, **given)
        finally:
            with torch.no_grad():
                weight.copy_(kept)

    @contextmanager
    def disable_adapter(self) -> Generator[None]:
        self.on = False
        try:
            yield
        finally:
            self.on = True


class Wrapper(nn.Module):
    """A wrapper of one's own."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any, **given: Any) -> Any:
        return self.net(*args, **given)


def test_the_policy_without_its_adapter_is_the_reference(tiny_llada: Path) -> None:
    policy = AutoDenoiser.from_pretrained(tiny_llada)
    tokens = torch.arange(5)[None]
    before = policy.logits(tokens)
    with pytest.raises(TypeError, match="must hold a PEFT model"), as_reference(policy):
        pass
    policy.module = Adapter(policy.module)
    with torch.no_grad():
        adapted = policy.logits(tokens)
        assert (adapted - before).abs().max() > 1e-4
        with as_reference(policy) as reference:
            assert torch.equal(reference.logits(tokens), before)
        assert torch.equal(policy.logits(tokens), adapted)
        policy.module = Wrapper(policy.module)
        with as_reference(policy) as reference:
            assert torch.equal(reference.logits(tokens), before)
