"""Build a module with its parameters on the meta device and its buffers computed for real."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def empty_parameters() -> Generator[None]:
    """Move each parameter to the meta device as soon as a module registers it, within the block.

    Unlike under `torch.device("meta")`, buffers and plain tensors are real, so that what a
    constructor computes is kept; and initialisers, which find an empty parameter, draw no numbers.
    """
    register = nn.Module.register_parameter
    emptied: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}

    def register_empty(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            bare = nn.Parameter(torch.empty_like(param, device="meta"), param.requires_grad)
            param = emptied.setdefault(id(param), (param, bare))[1]
        register(self, name, param)

    nn.Module.register_parameter = register_empty
    try:
        yield
    finally:
        nn.Module.register_parameter = register
