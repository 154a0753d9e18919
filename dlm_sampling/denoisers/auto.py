"""Load a checkpoint of any family: its config.json says which family that is."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

import torch

from dlm_sampling.denoisers import families
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.checkpoints.adapters import CONFIG as ADAPTER
from dlm_sampling.denoisers.checkpoints.adapters import base_of, merge_adapter
from dlm_sampling.denoisers.checkpoints.authors_format import PublishedDenoiser
from dlm_sampling.denoisers.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointError,
    open_checkpoint,
    read_json,
)
from dlm_sampling.denoisers.checkpoints.config_keys import CONFIG, EVERYWHERE, check_special_ids
from dlm_sampling.denoisers.checkpoints.placement import DeviceMap, single_device
from dlm_sampling.denoisers.checkpoints.value_kinds import (
    COUNT,
    NUMBER,
    SECTION,
    SIZE,
    TEXT,
    Kind,
    check_kinds,
)
from dlm_sampling.denoisers.checkpoints.weights import SAMPLER
from dlm_sampling.denoisers.quantisation import check_method, quantise
from dlm_sampling.denoisers.quantised_files import SECTIONS, check_stored
from dlm_sampling.denoisers.registry import FAMILIES, LoadOptions, family_of
from dlm_sampling.embedded import embedded_models, embedded_path
from dlm_sampling.errors import suggestion

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

OPEN_OPTIONS = frozenset({"cache_dir", "local_files_only"})
NAMED_OPTIONS = frozenset(
    {
        *("device_map", "dtype", "ignore_keys", "mask_token_id", "quantize", "revision"),
        *("tokenizer", "trust_remote_code"),
    }
)
REMOTE_OPTIONS = frozenset({"shifted", "honours_padding", "max_length"})
"""Options for checkpoints with their own code, whose config does not tell these; as in `wrap`."""
DEFAULTS: dict[str, Kind] = {
    "block_length": SIZE,
    "crossing": TEXT,
    "eta_cutoff": NUMBER,
    "min_p": NUMBER,
    "notes": TEXT,
    "presence_penalty": NUMBER,
    "repetition_penalty": NUMBER,
    "sampler": TEXT,
    "sampler_options": SECTION,
    "temperature": NUMBER,
    "top_k": COUNT,
    "top_n_sigma": NUMBER,
    "top_p": NUMBER,
    "typical_p": NUMBER,
}
"""Kinds of the values of sampler_config.json."""
NOT_BUILT = {
    "e2d2": (
        "E2D2, an encoder with a decoder, which is not built here: the encoder sees the prompt "
        "whole, which a pass here does not tell from finished blocks, and the sizes of the network "
        "stand in another repository (backbone_config). Its own code noises the canvas that it is "
        "shown, so that trust_remote_code=True is no help; load it yourself and use wrap()."
    ),
}
"""What a known model type is, and why neither a family nor its own code loads it."""
ALIASES = {
    "torch_dtype": ("dtype", "transformers' torch_dtype"),
    "device": ("device_map", "device"),
    "load_in_8bit": ("quantize", "transformers' load_in_8bit"),
    "load_in_4bit": ("quantize", "transformers' load_in_4bit"),
    "quantization_config": ("quantize", "transformers' quantization_config"),
    "mask_id": ("mask_token_id", "LLaDA's mask_id"),
    "mask_index": ("mask_token_id", "MDLM's mask_index"),
}


class AutoDenoiser:
    """Load a checkpoint of any known family; `from_pretrained` is its only use."""

    @staticmethod
    def from_pretrained(
        name_or_path: str | Path,
        *,
        dtype: torch.dtype | str | None = "auto",
        device_map: DeviceMap = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        mask_token_id: int | None = None,
        ignore_keys: Collection[str] = (),
        quantize: str | None = None,
        **options: Any,
    ) -> Denoiser:
        """Load a denoiser from a folder or the Hugging Face hub.

        `denoiser.module.compile()` compiles the network, and every pass then runs the compiled one.
        Layers compiled one by one (`layer.compile()`) gain without a cache only: with one torch
        makes code of its own for every layer, and leaves those beyond its limit (8) uncompiled.

        Args:
            name_or_path: folder with config.json and safetensors, folder of a PEFT adapter (its
                base is loaded and the adapter merged), name of an embedded model
                (`embedded_models()`), or hub name.
            dtype: type of the weights; "auto" keeps the checkpoint's, but widens 16 bits to float32
                on a CPU.
            device_map: a device ("cuda", "cpu", 0), or a plan over several ("auto", a mapping;
                needs accelerate).  Default: the current GPU if there is one, else the CPU.
            trust_remote_code: allow a checkpoint of an unknown family to run its own Python files.
            revision: commit, tag or branch on the hub.
            tokenizer: a tokenizer, or the name or folder of one, instead of the checkpoint's.
            mask_token_id: the mask id, where the checkpoint does not say or says it wrongly.
            ignore_keys: keys of config.json that are known to change no logits, though the family
                does not know them.
            quantize: "int8", "int8-dynamic" or "int4" (torchao), "llm-int8" or "nf4"
                (bitsandbytes): the linear layers but the output head are quantised once
                the weights are loaded; see `dlm_sampling.denoisers.quantisation`.
            options: `cache_dir`, `local_files_only`, and options of the family.

        Raises:
            CheckpointError: the checkpoint is missing, damaged, incomplete, pickled, of an unknown
                family, or its config has a key that the family does not know.
            TypeError: an unknown option; the nearest known one is named.
            ValueError: an option has a value that is not allowed.
        """
        if not isinstance(name_or_path, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"name_or_path={name_or_path!r}: must be a folder, or a name such as 'tiny-books'."
            )
        if isinstance(ignore_keys, str):
            raise TypeError(
                f"ignore_keys={ignore_keys!r}: must be a list of keys; try [{ignore_keys!r}]."
            )
        check_method(quantize, single_device(device_map))
        load_families()
        known = OPEN_OPTIONS.union(
            *(family.options for family in FAMILIES.values()), REMOTE_OPTIONS
        )
        check_options(options, known)
        opening = {key: options[key] for key in OPEN_OPTIONS & set(options)}
        adapter = Path(name_or_path).expanduser()
        if not (adapter / ADAPTER).is_file() or (adapter / CONFIG).is_file():
            adapter = None
        given, own = (name_or_path, None)
        if adapter is not None:
            given, own = base_of(adapter, str(name_or_path))
        if str(given) in embedded_models() and not Path(given).exists():
            given = embedded_path(str(given))
        revision = own if revision is None else revision
        try:
            checkpoint = open_checkpoint(given, revision=revision, **opening)
        except CheckpointError as error:
            hint = "" if "/" in str(given) else suggestion(str(given), embedded_models())
            whose = "" if adapter is None else f"{str(name_or_path)!r}: its base: "
            raise CheckpointError(f"{whose}{error} {hint}".rstrip()) from error
        extra = {key: value for key, value in options.items() if key not in OPEN_OPTIONS}
        check_kinds(checkpoint.name, CONFIG, checkpoint.config, EVERYWHERE)
        wishes = LoadOptions(dtype, device_map, tokenizer, mask_token_id, extra)
        family = family_of(checkpoint.config)
        if family is not None:
            stored = check_stored(checkpoint, family.reads_quantised)
            if stored is not None and quantize is not None:
                raise ValueError(
                    f"quantize={quantize!r}: {checkpoint.name!r} is quantised with {stored} "
                    "already; leave quantize out."
                )
            check_options(extra, family.options | OPEN_OPTIONS)
            unread = family.check(checkpoint, {*ignore_keys, *SECTIONS})  # which were just read
            denoiser = family.load(checkpoint, wishes)
            denoiser.unread_keys = unread
            denoiser.quantized = stored
        elif (reason := NOT_BUILT.get(checkpoint.config.get("model_type", ""))) is not None:
            raise CheckpointError(f"{checkpoint.name!r} is {reason}")
        elif trust_remote_code:
            from dlm_sampling.denoisers import remote_code

            check_stored(checkpoint, ())
            denoiser = remote_code.load(checkpoint, wishes, revision=revision, **opening)
        else:
            raise CheckpointError(unknown_family(checkpoint))
        check_special_ids(checkpoint, denoiser.vocab_size)
        denoiser.checkpoint_config = checkpoint.as_read
        if adapter is not None:
            assert denoiser.module is not None
            naming = denoiser.authors_name if isinstance(denoiser, PublishedDenoiser) else str
            merge_adapter(denoiser.module, adapter, str(name_or_path), naming)
        if quantize is not None:
            quantise(denoiser, quantize)
        saved = checkpoint.folder / SAMPLER
        if saved.is_file():
            defaults = read_json(saved, checkpoint.name)
            check_kinds(checkpoint.name, saved.name, defaults, DEFAULTS)
            if defaults.get("sampler") is None:
                raise CheckpointError(
                    f"{checkpoint.name!r}: {saved.name} names no sampler: give one, such as "
                    '"sampler": "llada", or delete the file.'
                )
            denoiser.generation_defaults = defaults
        return denoiser


def load_families() -> None:
    """Import every file of the folder `families`; each registers its family."""
    for file in iter_modules(families.__path__):
        import_module(f"{families.__name__}.{file.name}")


def check_options(given: dict[str, Any], known: frozenset[str]) -> None:
    """Refuse an unknown option and name the nearest known one."""
    names = known | NAMED_OPTIONS
    for key in given:
        if key not in known:
            hint = suggestion(key, names, ALIASES) or f"Valid: {', '.join(sorted(names))}."
            raise TypeError(f"Unknown argument '{key}'. {hint}")


def unknown_family(checkpoint: Checkpoint) -> str:
    """Say why no family loads a checkpoint, and list the remedies."""
    native = ", ".join(sorted(FAMILIES))
    auto_map: Any = checkpoint.config.get("auto_map") or {}
    files = sorted(
        {str(value).split("--")[-1].split(".")[0] + ".py" for value in auto_map.values()}
    )
    modelling = [file for file in files if file.startswith("model")] or files
    if modelling:
        return (
            f"{checkpoint.name!r} needs its own Python code ({modelling[0]}). Native: {native}. "
            "If you trust it: trust_remote_code=True, revision=<commit>."
        )
    kind = checkpoint.config.get("model_type", "unknown")
    return (
        f"{checkpoint.name!r} has model_type {kind!r}, which is no known denoiser. Native: "
        f"{native}. Or load it yourself and use wrap()."
    )
