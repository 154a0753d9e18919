"""Use a policy with a LoRA adapter as its own reference: the same network with the adapter off."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import named


@runtime_checkable
class Adapted(Protocol):
    """Define a network whose adapters can be switched off, as PEFT's models."""

    def disable_adapter(self) -> AbstractContextManager[None]:
        """Run the block without adapters."""
        ...


@contextmanager
def as_reference(denoiser: Denoiser) -> Generator[Denoiser]:
    """Run the block with the adapters of the denoiser's network off: PEFT's `disable_adapter`.

    `with as_reference(policy) as reference: replay(reference, rollout, grad=False)`.  It needs no
    second network in memory.

    Raises:
        TypeError: the network is no PEFT model with adapters.
    """
    module = denoiser.module
    if not isinstance(module, Adapted):
        kind = "no network" if module is None else named(module)
        raise TypeError(
            f"denoiser has {kind}: must hold a PEFT model, denoiser.module = get_peft_model(...). "
            "Without adapters, keep a copy of the denoiser as the reference."
        )
    with module.disable_adapter():
        yield denoiser
