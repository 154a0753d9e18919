"""Quantise the linear layers of a loaded network with torchao or bitsandbytes.

    int8           weights round(W / s), one scale s per output row             torchao, anywhere
    int8-dynamic   the same, and activations rounded to 8 bits per token        torchao, anywhere
    int4           weights in 4 bits, a scale and a zero per 32 inputs          torchao, anywhere
    llm-int8       weights in 8 bits, outlying inputs multiplied in 16 bits     bitsandbytes
    nf4            weights in 4 bits, levels at quantiles of a normal law       bitsandbytes

The output head, the embedding and all norms stay as they are, so that the logits of a position are
made as without quantisation.  torchao keeps the 4-bit numbers in bytes but on a GPU in bfloat16,
where they are packed.  bitsandbytes runs on a CPU from version 0.50 on; its older versions need a
GPU.  llm-int8 looks for outlying inputs in all rows of a pass, so that the logits of a row depend a
little on its batch.  No GPU has run any of the five yet.  Dettmers et al. 2022, LLM.int8(),
arXiv:2208.07339; Dettmers et al. 2023, QLoRA (nf4), arXiv:2305.14314.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.checkpoints.checkpoint import CheckpointError
from dlm_sampling.errors import unknown_choice

GROUP = 32
Apply = Callable[[nn.Module, Sequence[str]], None]


@dataclass(frozen=True)
class Method:
    """Describe a way to quantise.

    Fields:
        library: the package that does it.
        apply: replaces or converts the layers of these names in a module.
        group: inputs that share a scale; layers whose width is no multiple stay as they are.
        cpu_from: the first version of the library that ran on a CPU here, or "" for any.
    """

    library: str
    apply: Apply
    group: int = 1
    cpu_from: str = ""


def with_torchao(config: Callable[[Any, Tensor], Any]) -> Apply:
    """Return how to quantise with a config of torchao, made from its module and a weight."""

    def apply(module: nn.Module, names: Sequence[str]) -> None:
        torchao: Any = import_module("torchao.quantization")
        chosen, weight = set(names), module.get_submodule(names[0]).get_parameter("weight")

        def is_chosen(part: nn.Module, name: str) -> bool:
            return name in chosen

        torchao.quantize_(module, config(torchao, weight), filter_fn=is_chosen)
        for name in names:  # a note for printing, which cannot be pickled
            vars(module.get_submodule(name)).pop("extra_repr", None)

    return apply


def int8(torchao: Any, weight: Tensor) -> Any:
    """Make the config of 8-bit weights; the settings of torch.compile stay as they are."""
    return torchao.Int8WeightOnlyConfig(set_inductor_config=False)


def int8_dynamic(torchao: Any, weight: Tensor) -> Any:
    """Make the config of 8-bit weights and activations."""
    return torchao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)


def int4(torchao: Any, weight: Tensor) -> Any:
    """Make the config of 4-bit weights: packed on a GPU in bfloat16, else one number per byte."""
    if weight.is_cuda and weight.dtype == torch.bfloat16:
        return torchao.Int4WeightOnlyConfig(
            GROUP, set_inductor_config=False, int4_packing_format="tile_packed_to_4d"
        )
    four_bits: Any = vars(torch)["int4"]  # which torch's own stubs leave out
    return torchao.IntxWeightOnlyConfig(four_bits, torchao.PerGroup(GROUP))


def with_bitsandbytes(make: Callable[[Any, nn.Linear], nn.Module]) -> Apply:
    """Return how to put layers of bitsandbytes in place of linear ones."""

    def apply(module: nn.Module, names: Sequence[str]) -> None:
        library: Any = import_module("bitsandbytes").nn
        for name in names:
            path, _, leaf = name.rpartition(".")
            old: Any = module.get_submodule(name)
            new = make(library, old)
            new.bias = old.bias
            setattr(module.get_submodule(path), leaf, new.to(old.weight.device).eval())

    return apply


def nf4(library: Any, old: nn.Linear) -> nn.Module:
    """Make a layer of 4-bit normal floats; it rounds its weight when it is moved."""
    kind = old.weight.dtype
    new = library.Linear4bit(
        old.in_features, old.out_features, bias=False, compute_dtype=kind, quant_type="nf4"
    )
    new.weight = library.Params4bit(old.weight.data.cpu(), requires_grad=False, quant_type="nf4")
    return new


def llm_int8(library: Any, old: nn.Linear) -> nn.Module:
    """Make a layer of 8-bit integers; it rounds its weight when it is moved."""
    new = library.Linear8bitLt(
        old.in_features, old.out_features, bias=False, has_fp16_weights=False, threshold=6.0
    )
    data = old.weight.data.cpu()
    new.weight = library.Int8Params(data, requires_grad=False, has_fp16_weights=False)
    return new


METHODS = {
    "int8": Method("torchao", with_torchao(int8)),
    "int8-dynamic": Method("torchao", with_torchao(int8_dynamic)),
    "int4": Method("torchao", with_torchao(int4), group=GROUP),
    "llm-int8": Method("bitsandbytes", with_bitsandbytes(llm_int8), cpu_from="0.50"),
    "nf4": Method("bitsandbytes", with_bitsandbytes(nf4), group=GROUP, cpu_from="0.50"),
}


def check_method(quantize: object, device: torch.device | None) -> None:
    """Check the argument `quantize` before anything is loaded.

    Args:
        quantize: the argument; None is no quantisation.
        device: the device of the network, or None if it is spread over several.

    Raises:
        ValueError: no such method, or this version of its library needs a GPU.
        CheckpointError: its library is not installed.
    """
    if quantize is None:
        return
    method = METHODS.get(quantize) if isinstance(quantize, str) else None
    if method is None:
        raise unknown_choice("quantize", quantize, METHODS)
    if find_spec(method.library) is None:
        raise CheckpointError(
            f"quantize={quantize!r} needs {method.library}: pip install {method.library}."
        )
    if method.cpu_from and device is not None and device.type == "cpu":
        found = version(method.library)
        if Version(found) < Version(method.cpu_from):
            raise ValueError(
                f"quantize={quantize!r}: {method.library} {found} needs a GPU, and the device is "
                f"{device}; install {method.cpu_from} or later, or try quantize='int8'."
            )


@torch.no_grad()
def quantise(denoiser: Denoiser, quantize: str) -> None:
    """Quantise the linear layers of a denoiser's network in place, but for its output head.

    Raises:
        ValueError: no layer can be quantised this way.
    """
    method, module = METHODS[quantize], denoiser.module
    assert module is not None
    network: Any = module
    parts: dict[str, nn.Module] = dict(network.named_modules())
    names = [
        name
        for name, part in parts.items()
        if type(part) is nn.Linear
        and part.out_features != denoiser.vocab_size
        and part.in_features % method.group == 0
    ]
    if not names:
        raise ValueError(
            f"quantize={quantize!r}: the network has no linear layer whose inputs are a multiple "
            f"of {method.group}; try quantize='int8'."
        )
    method.apply(module, names)
    denoiser.quantized = quantize


def plain_parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the plain tensors that a weight is made of; of a plain one, itself.

    A packed weight has several, and one that is sharded over ranks has its shard.
    """
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for part in (getattr(tensor, name) for name in names):
        if isinstance(part, Tensor):  # a sharded weight also has a mesh of devices
            yield from plain_parts(part)
