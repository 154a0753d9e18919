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
    second network in memory.  The adapted network may lie in a wrapper, such as that of data
    parallelism.

    Raises:
        TypeError: neither the network nor one that it wraps is a PEFT model with adapters.
    """
    module = denoiser.module
    parts = () if module is None else module.modules()  # a wrapper comes before what it holds
    adapted = next((part for part in parts if isinstance(part, Adapted)), None)
    if adapted is None:
        kind = "no network" if module is None else named(module)
        raise TypeError(
            f"denoiser has {kind}: must hold a PEFT model, denoiser.module = get_peft_model(...). "
            "Without adapters, keep a copy of the denoiser as the reference."
        )
    with adapted.disable_adapter():
        yield denoiser
