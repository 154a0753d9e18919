"""Look through wrappers around a network: compilation, data parallelism, adapters, and others.

A wrapper is called like the network that it holds, by its outermost module, so that hooks, averaged
gradients and compiled code are not passed by.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

PARALLEL: tuple[type[nn.Module], ...] = (DistributedDataParallel, DataParallel)
SHARDED = {"FSDPModule", "FullyShardedDataParallel"}
BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def outermost(module: nn.Module) -> nn.Module:
    """Return the module to call: the outermost one, but for data parallelism without gradients.

    DistributedDataParallel exchanges buffers in every pass, with gradients or without; ranks that
    sample, which need different numbers of passes, would wait for each other without end.  Sharded
    weights (FSDP) are gathered in every pass, so that there ranks must make equally many: sample
    with `every_step=True` and the same number of steps, and replay with the same `batch_size`.
    """
    if torch.is_grad_enabled():
        return module
    while isinstance(module, PARALLEL):
        module = module.get_submodule("module")
    return module


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the network inside known wrappers: data parallelism, compilation, PEFT's models."""
    inside = dict(module.named_children())
    held = inside.get("_orig_mod")
    if isinstance(module, PARALLEL) or set(inside) == {"module"}:
        held = inside["module"]
    if set(inside) == {"base_model"}:
        held = inside["base_model"].get_submodule("model")
    return module if held is None else unwrapped(held)


def runs_whole(module: nn.Module) -> bool:
    """Return whether a module's weights may be used only inside a call of the whole module.

    The output head must then run inside that call too.

    True under FullyShardedDataParallel, which gathers weights for the call, and with gradients
    under DistributedDataParallel, which counts the weights that the call used.
    """
    inside = [module, *(part for name, part in module.named_children() if name == "_orig_mod")]
    kinds = {kind.__name__ for part in inside for kind in type(part).__mro__}
    parallel = torch.is_grad_enabled() and any(isinstance(part, PARALLEL) for part in inside)
    return parallel or bool(kinds & SHARDED)


def plain_name(module: nn.Module | None) -> str:
    """Return the name of a module's class, or "" if calls of it need care; see `outermost`."""
    with torch.enable_grad():
        plain = module is not None and not runs_whole(module)
    if not plain:
        return ""
    return type(module).__qualname__


def arguments_of(fn: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """List the names that a function or module takes by keyword, and whether it takes any other.

    A module that takes any keyword and holds a single module is a wrapper: it takes what that one
    takes.  So does `functools.partial`, but for what it has fixed.
    """
    if isinstance(fn, partial):
        names, anything = arguments_of(fn.func)
        return names - set(fn.keywords), anything
    module = fn if isinstance(fn, nn.Module) else None
    try:
        parameters = inspect.signature(fn if module is None else module.forward).parameters.values()
    except (TypeError, ValueError):
        return frozenset(), False
    names = frozenset(p.name for p in parameters if p.kind in BY_KEYWORD)
    bare = module is not None and type(module).forward is nn.Module.forward
    if not bare and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return names, False
    inside = [] if module is None else list(module.children())
    if len(inside) != 1:
        return names, True
    inner, anything = arguments_of(inside[0])
    return names | inner, anything


def needs_of(fn: Callable[..., Any]) -> frozenset[str]:
    """List the names without which a function or module cannot be called, beside its first.

    Wrappers are looked through as in `arguments_of`.
    """
    if isinstance(fn, partial):
        return needs_of(fn.func) - set(fn.keywords)
    module = fn if isinstance(fn, nn.Module) else None
    inside = [] if module is None else list(module.children())
    try:
        parameters = inspect.signature(fn if module is None else module.forward).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    if len(inside) == 1 and any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return needs_of(inside[0])
    rest = [p for p in parameters if p.kind in BY_KEYWORD][1:]
    return frozenset(p.name for p in rest if p.default is inspect.Parameter.empty)
