"""Samplers for diffusion language models: exact, batched, importable.

The names below are the public interface; each is imported when it is first used, so that
`import dlm_sampling` costs no import of torch.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlm_sampling import samplers
    from dlm_sampling.denoisers import AutoDenoiser, Denoiser, wrap
    from dlm_sampling.elbo import elbo
    from dlm_sampling.generate import GenerateOutput, generate
    from dlm_sampling.learn import learn_sampler
    from dlm_sampling.loop import sample
    from dlm_sampling.replay import replay
    from dlm_sampling.rollout import Rollout
    from dlm_sampling.trajectory import Trajectory

__version__ = "0.1.0"

RANDOM_STREAM = 1
"""Version of the random stream: it rises when the tokens at a fixed seed change."""

__all__ = [
    "RANDOM_STREAM",
    "AutoDenoiser",
    "Denoiser",
    "GenerateOutput",
    "Rollout",
    "Trajectory",
    "__version__",
    "elbo",
    "generate",
    "learn_sampler",
    "replay",
    "sample",
    "samplers",
    "wrap",
]

_HOME = {
    "AutoDenoiser": "dlm_sampling.denoisers",
    "Denoiser": "dlm_sampling.denoisers",
    "GenerateOutput": "dlm_sampling.generate",
    "Rollout": "dlm_sampling.rollout",
    "Trajectory": "dlm_sampling.trajectory",
    "elbo": "dlm_sampling.elbo",
    "generate": "dlm_sampling.generate",
    "learn_sampler": "dlm_sampling.learn",
    "replay": "dlm_sampling.replay",
    "sample": "dlm_sampling.loop",
    "wrap": "dlm_sampling.denoisers",
}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name == "samplers":
        return import_module("dlm_sampling.samplers")
    if name not in _HOME:
        raise AttributeError(f"module 'dlm_sampling' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `dlm_sampling.generate` the function when the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
