"""Run a network without dropout whatever mode a trainer left it in, and give the mode back.

Gradient checkpointing keeps working: layers that have it on are told that they train, since
transformers checkpoints in training mode only, while everything inside them is told that it does
not.  The same holds when a layer is run again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint as torch_checkpoint

HOOK = "_gradient_checkpointing_func"
"""Attribute in which transformers keeps the function that checkpoints a layer."""


class CheckpointedLayer(nn.Module):
    """Keep no activations of the layer for the backward pass, once checkpointing is switched on.

    The attributes are those of transformers' layers, so that one rule serves both.
    """

    gradient_checkpointing: bool = False

    def __call__(self, *args: Any, **given: Any) -> Any:
        """Run the layer; with checkpointing and gradients, again in the backward pass."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            call = super().__call__

            def run(*inputs: Any) -> Any:
                with switched_off(self.modules()):
                    return call(*inputs, **given)

            return run_twice(run, *args)
        return super().__call__(*args, **given)


class CheckpointedNetwork(nn.Module):
    """Switch gradient checkpointing of its layers on and off, by the names of transformers."""

    def gradient_checkpointing_enable(self) -> None:
        """Keep the inputs of layers only, and run each layer again in the backward pass."""
        self._switch(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations for the backward pass."""
        self._switch(False)

    def _switch(self, on: bool) -> None:
        for layer in self.modules():
            if isinstance(layer, CheckpointedLayer):
                layer.gradient_checkpointing = on


def run_twice(call: Callable[..., Any], *args: Any) -> Any:
    """Call a function now and again in the backward pass, keeping nothing but its arguments."""
    module: Any = torch_checkpoint
    return module.checkpoint(call, *args, use_reentrant=False, preserve_rng_state=False)


@contextmanager
def evaluating(module: nn.Module | None) -> Generator[None]:
    """Run the block with a module in evaluation mode, and give every part its mode back."""
    parts = [] if module is None else list(module.modules())
    marked = [part for part in parts if is_checkpointed(part)] if torch.is_grad_enabled() else []
    kept = [(part, part.training, vars(part).get(HOOK)) for part in marked]
    with switched_off(parts):
        for part in marked:
            part.training = True
            part.__dict__[HOOK] = quiet_checkpoint(part)
        try:
            yield
        finally:
            for part, mode, hook in kept:
                part.training = mode
                if hook is None:
                    del part.__dict__[HOOK]
                else:
                    part.__dict__[HOOK] = hook


@contextmanager
def switched_off(parts: Iterable[nn.Module]) -> Generator[None]:
    """Run the block with `training` False in all parts, and give it back."""
    training = [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def is_checkpointed(part: nn.Module) -> bool:
    """Return whether gradient checkpointing of transformers is on in a part of a network."""
    return bool(vars(part).get("gradient_checkpointing")) and not isinstance(
        part, CheckpointedLayer
    )


def quiet_checkpoint(layer: nn.Module) -> Callable[..., Any]:
    """Return a function that checkpoints a call inside a layer, without dropout in either run."""

    def run(call: Callable[..., Any], *args: Any) -> Any:
        def again(*inputs: Any) -> Any:
            with switched_off(layer.modules()):
                return call(*inputs)

        return run_twice(again, *args)

    return run
