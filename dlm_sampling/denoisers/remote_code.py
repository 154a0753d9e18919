"""Load checkpoints that bring their own Python code, on request and with every tensor checked.

transformers >= 5 builds a model on the meta device and fills in the checkpoint's tensors.  Buffers
that are not saved (rotary frequencies) and plain tensor attributes are lost on the way, without an
error: the logits are wrong and differ from run to run.  Here the model's own constructor runs on a
real device, so that it computes its buffers itself; only parameters are left empty until they are
read; every name and shape must fit; and the finished tensors are checked before they are used.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.checkpoints.checkpoint import (
    READ,
    Checkpoint,
    CheckpointError,
    download,
)
from dlm_sampling.denoisers.checkpoints.meta_device import empty_parameters
from dlm_sampling.denoisers.checkpoints.placement import plan_placement
from dlm_sampling.denoisers.checkpoints.settings import is_listing, setting
from dlm_sampling.denoisers.checkpoints.tokenizers import is_tokenizer, mask_id_of, tokenizer_source
from dlm_sampling.denoisers.checkpoints.transformers_compat import old_names, old_tying
from dlm_sampling.denoisers.checkpoints.weights import load_weights, tie
from dlm_sampling.denoisers.registry import LoadOptions
from dlm_sampling.denoisers.wrap import wrap

logger = logging.getLogger("dlm_sampling")

COMMIT = re.compile(r"[0-9a-f]{40}")
ENTRIES = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")
CONFIG_DEFAULTS = {"use_cache": False, "return_dict": True}


def load(
    checkpoint: Checkpoint, options: LoadOptions, *, revision: str | None = None, **opening: Any
) -> Denoiser:
    """Build a denoiser from a checkpoint's own code.

    Padding is not trusted: rows of different padding run separately unless `honours_padding=True`
    is given.

    Raises:
        CheckpointError: the code is not pinned or not here, it does not run on the installed
            transformers, or its model does not fit the checkpoint or holds lost tensors.
    """
    folder = fetch_code(checkpoint, revision, opening)
    announce(folder, checkpoint.name)
    model = build(checkpoint, folder, options)
    tokenizer = tokenizer_source(checkpoint.folder, options.tokenizer)
    text = tokenizer if is_tokenizer(tokenizer) else tokenizer()
    columns = output_width(model)
    limit = checkpoint.config.get("max_position_embeddings")
    return wrap(
        model,
        vocab_size=columns,
        mask_token_id=options.mask_id(checkpoint, mask_id_of(text), columns),
        tokenizer=text,
        eos_token_id=checkpoint.config.get("eos_token_id"),
        pad_token_id=checkpoint.config.get("pad_token_id"),
        max_length=options.extra.get("max_length", limit),
        honours_padding=options.extra.get("honours_padding", False),
        shifted=options.extra.get("shifted", False),
    )


def fetch_code(checkpoint: Checkpoint, revision: str | None, opening: Mapping[str, Any]) -> Path:
    """Find the folder of config, weights and code; code from the hub must be pinned to a commit."""
    if Path(checkpoint.name).expanduser().is_dir():
        return checkpoint.folder
    if revision is None or not COMMIT.fullmatch(revision):
        raise CheckpointError(
            f"{checkpoint.name!r} runs code from the hub: pin what you have read with "
            "revision=<40 hex digits>; "
            f"now it is {checkpoint.folder.name}."
        )
    return download(checkpoint.name, (*READ, "*.py"), revision=revision, **opening)


def announce(folder: Path, name: str) -> None:
    """Log each code file with its digest."""
    for file in sorted(folder.glob("*.py")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        logger.warning("Running code of %s: %s sha256 %s", name, file.name, digest)


def build(checkpoint: Checkpoint, folder: Path, options: LoadOptions) -> Any:
    """Build the model, load its weights and check them; it comes in evaluation mode."""
    name = checkpoint.name
    old_names()
    model_class = code_class(checkpoint, folder, ENTRIES)
    old_tying(sys.modules[model_class.__module__])
    config = code_class(checkpoint, folder, ("AutoConfig",)).from_pretrained(folder)
    for key, value in CONFIG_DEFAULTS.items():
        if not hasattr(config, key):
            setattr(config, key, value)
    try:
        with empty_parameters():
            model = model_class(config)
    except Exception as error:
        raise CheckpointError(
            f"{name!r}: its code fails on this transformers: {one_line(error)} "
            "transformers==4.57.6 runs most."
        ) from error
    tied = shared_parameters(model, checkpoint)
    dtype = options.dtype_for(checkpoint)
    place, finish = plan_placement(model, options.device_map, dtype, whole_modules(model))
    load_weights(model, checkpoint, lambda key: key, dtype=dtype, place=place, tied=tied)
    move_buffers(model, place)
    check_tensors(model, name)
    finish()
    return model.eval()


def code_class(checkpoint: Checkpoint, folder: Path, entries: tuple[str, ...]) -> Any:
    """Import the class that the config's `auto_map` names, from a file in the folder only."""
    mapped: Any = checkpoint.config.get("auto_map") or {}
    reference = next((str(mapped[entry]) for entry in entries if entry in mapped), None)
    if reference is None:
        raise CheckpointError(
            f"{checkpoint.name!r}: config.json's auto_map names no {entries[0]}: it has no code "
            "to run."
        )
    origin, _, local = reference.rpartition("--")
    file = folder / (local.split(".")[0] + ".py")
    if not file.is_file():
        where = f", but in {origin!r}" if origin else ""
        raise CheckpointError(
            f"{checkpoint.name!r}: {file.name} is not in the checkpoint{where}. Put it into the "
            "folder after reading it."
        )
    dynamic: Any = import_module("transformers.dynamic_module_utils")
    try:
        return dynamic.get_class_from_dynamic_module(local, str(folder))
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint.name!r}: {file.name} fails on this transformers: {one_line(error)}"
        ) from error


def one_line(error: BaseException) -> str:
    """Shorten an error to its type and first line."""
    text = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {text.rstrip('.')}."


def shared_parameters(model: nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
    """Map each parameter that the checkpoint omits, as it is tied, to the one it is tied to."""
    network: Any = model
    names = {
        key: id(parameter) for key, parameter in model.named_parameters(remove_duplicate=False)
    }
    held = {identity: key for key, identity in names.items() if key in checkpoint.files}
    tied = {
        key: held[identity]
        for key, identity in names.items()
        if identity in held and key not in checkpoint.files
    }
    if (
        setting(network.config, "tie_word_embeddings", bool)
        and network.get_output_embeddings() is not None
    ):
        output, source = (
            names_of(names, part.weight)
            for part in (network.get_output_embeddings(), network.get_input_embeddings())
        )
        if output not in checkpoint.files and output != source:
            tie(model, output, source)
            tied[output] = source
    return tied


def names_of(names: Mapping[str, int], parameter: Tensor) -> str:
    """Return the first name under which the model holds a parameter."""
    return next(key for key, identity in names.items() if identity == id(parameter))


def whole_modules(model: nn.Module) -> tuple[str, ...]:
    """List the classes that must stay on one device, as the model names them."""
    listed = setting(model, "_no_split_modules", object)
    return tuple(str(name) for name in listed) if is_listing(listed) else ()


def move_buffers(model: nn.Module, place: Callable[[str], Any]) -> None:
    """Move the buffers that the constructor computed to where their module's weights are."""
    buffers: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
    for key, buffer in buffers.items():
        path, _, leaf = key.rpartition(".")
        setattr(model.get_submodule(path), leaf, buffer.to(place(key)))


def check_tensors(model: nn.Module, name: str) -> None:
    """Refuse a model that holds a tensor without data, or rotary frequencies that no formula gives.

    Raises:
        CheckpointError: with the tensor's place.
    """
    for key, value in tensors_of(model).items():
        damaged = key.endswith("inv_freq") and not plausible_frequencies(value)
        if value.is_meta or damaged:
            state = "got no data" if value.is_meta else "are damaged rotary frequencies"
            raise CheckpointError(
                f"{name!r}: after its code ran, {key} {state}; the logits would be wrong. "
                "Not loaded."
            )


def tensors_of(model: Any) -> dict[str, Tensor]:
    """Collect parameters, buffers, and tensors that are plain attributes of a module, by name."""
    found: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    modules: dict[str, nn.Module] = dict(model.named_modules())
    for path, module in modules.items():
        for leaf, value in vars(module).items():
            if isinstance(value, Tensor):
                found[f"{path}.{leaf}".lstrip(".")] = value
    return found


def plausible_frequencies(values: Tensor) -> bool:
    """Check that rotary frequencies are finite, in (0, 1], and never rise, as in every scheme."""
    if values.is_meta:
        return False
    flat = values.detach().double().flatten()
    return bool(
        flat.isfinite().all()
        and (flat > 1e-12).all()
        and (flat <= 1.0).all()
        and (flat.diff() <= 0).all()
    )


def output_width(model: Any) -> int:
    """Count the logit columns: those of the output head if there is one, else the config's."""
    head = model.get_output_embeddings()
    return model.config.vocab_size if head is None else int(head.weight.shape[0])
