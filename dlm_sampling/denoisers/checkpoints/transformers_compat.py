"""Restore names that older model code imports and transformers 5 no longer has.

Applied only when a checkpoint's own code is about to run; each is added only where it is missing,
so that the installed transformers stays as it is for everybody else.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.checkpoints.settings import is_listing, number, section, setting


def old_names() -> None:
    """Restore the default rotary function, and names that such code imports without using them."""
    rope: Any = import_module("transformers.modeling_rope_utils")
    rope.ROPE_INIT_FUNCTIONS.setdefault("default", default_frequencies)
    utils: Any = import_module("transformers.utils")
    imports: Any = import_module("transformers.utils.import_utils")
    caches: Any = import_module("transformers.cache_utils")
    add(utils, "is_torch_fx_available", unavailable)
    add(imports, "is_torch_fx_available", unavailable)
    add(utils, "LossKwargs", dict)
    add(caches, "SlidingWindowCache", type("SlidingWindowCache", (caches.Cache,), {}))


def add(module: Any, name: str, value: Any) -> None:
    """Set an attribute that is missing."""
    if not hasattr(module, name):
        setattr(module, name, value)


def unavailable() -> bool:
    """Answer False, for a feature that transformers no longer has."""
    return False


def default_frequencies(config: Any, device: Any = None, **_: Any) -> tuple[Tensor, float]:
    """Compute the rotary frequencies base^(-2i / d), [d / 2], and the attention scale 1.

    Su et al. 2021, RoFormer, arXiv:2104.09864; d is the rotated part of a head.
    """
    scheme = section(config, "rope_parameters")
    base = number(config, "rope_theta") or scheme.get("rope_theta", 10000.0)
    part = number(config, "partial_rotary_factor") or scheme.get("partial_rotary_factor", 1.0)
    head = setting(config, "head_dim", int) or config.hidden_size // config.num_attention_heads
    width = int(head * part)
    pairs = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    return base ** (-pairs / width), 1.0


def old_tying(module: ModuleType) -> None:
    """Let the model classes of a code file keep the older form of their tied-weight lists.

    The loader ties by itself, so that the list, which transformers 5 wants as a mapping, is
    dropped.
    """
    from transformers.modeling_utils import PreTrainedModel

    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, PreTrainedModel):
            owner: Any = value
            if is_listing(setting(owner, "_tied_weights_keys", object)):
                owner._tied_weights_keys = None
