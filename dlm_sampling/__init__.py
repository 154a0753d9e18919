"""Sample from diffusion language models: exactly, in batches, from Python.

The names below are the public interface; each is imported when it is first used, so that
`import dlm_sampling` costs no import of torch.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlm_sampling import samplers
    from dlm_sampling.denoisers import AutoDenoiser, Denoiser, wrap
    from dlm_sampling.engine.sample import sample
    from dlm_sampling.engine.trajectory import StepEvent, Trajectory
    from dlm_sampling.learn import learn_sampler
    from dlm_sampling.likelihood.elbo import elbo
    from dlm_sampling.likelihood.replay import replay
    from dlm_sampling.likelihood.rollout import Rollout
    from dlm_sampling.likelihood.uniform_elbo import uniform_elbo
    from dlm_sampling.ops import RANDOM_STREAM
    from dlm_sampling.text.completion import GenerateOutput
    from dlm_sampling.text.custom_generate import diffusion_generate, save_custom_generate
    from dlm_sampling.text.generate import generate

__version__ = "0.1.0"

__all__ = [
    "RANDOM_STREAM",
    "AutoDenoiser",
    "Denoiser",
    "GenerateOutput",
    "Rollout",
    "StepEvent",
    "Trajectory",
    "__version__",
    "diffusion_generate",
    "elbo",
    "generate",
    "learn_sampler",
    "replay",
    "sample",
    "samplers",
    "save_custom_generate",
    "uniform_elbo",
    "wrap",
]

_HOME = {
    "RANDOM_STREAM": "dlm_sampling.ops",
    "AutoDenoiser": "dlm_sampling.denoisers",
    "Denoiser": "dlm_sampling.denoisers",
    "GenerateOutput": "dlm_sampling.text.completion",
    "Rollout": "dlm_sampling.likelihood.rollout",
    "StepEvent": "dlm_sampling.engine.trajectory",
    "Trajectory": "dlm_sampling.engine.trajectory",
    "diffusion_generate": "dlm_sampling.text.custom_generate",
    "elbo": "dlm_sampling.likelihood.elbo",
    "generate": "dlm_sampling.text.generate",
    "learn_sampler": "dlm_sampling.learn",
    "replay": "dlm_sampling.likelihood.replay",
    "sample": "dlm_sampling.engine.sample",
    "save_custom_generate": "dlm_sampling.text.custom_generate",
    "uniform_elbo": "dlm_sampling.likelihood.uniform_elbo",
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
