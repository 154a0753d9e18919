"""Load and save models that transformers itself reads and writes.

They keep the format of the library, so that nothing is renamed or cast on the way.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dlm_sampling.denoisers.base import Denoiser, refuse_quantised
from dlm_sampling.denoisers.checkpoints.adapters import merged_state
from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.checkpoints.config_keys import reading_config
from dlm_sampling.denoisers.checkpoints.placement import parse_dtype, single_device
from dlm_sampling.denoisers.checkpoints.tokenizers import save_tokenizer
from dlm_sampling.denoisers.checkpoints.weights import (
    check_shard_size,
    packed_error,
    remove_weights,
    save_defaults,
)
from dlm_sampling.denoisers.quantised_files import SECTIONS
from dlm_sampling.denoisers.registry import LoadOptions


class TransformersDenoiser(Denoiser):
    """Add saving to denoisers whose model has a `save_pretrained` of its own."""

    model: Any
    rows_alike = True
    defaults_of_model: bool = False
    """Whether `generation_defaults` come from the generation config that the model saves."""

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        max_shard_size: int | str = "5GB",
    ) -> None:
        """Write the model with its own `save_pretrained`, and the tokenizer.

        Adapters of PEFT are merged into the written weights.

        Args:
            folder: created if needed.
            dtype: must be None; the model is written as it is.
            max_shard_size: size of a file in bytes, or such as "2GB"; larger models are split.

        Raises:
            TypeError: the network has an adapter that cannot be merged, or is quantised.
        """
        if parse_dtype(dtype) is not None:
            raise ValueError(
                f"dtype={dtype!r}: must be None here; convert the model first with "
                "denoiser.module.to(dtype)."
            )
        refuse_quantised(self)
        check_shard_size(max_shard_size)
        state = merged_state(self.model)
        remove_weights(Path(folder))  # transformers leaves an old index, or file beside new shards
        with without_bars():
            self.model.save_pretrained(folder, state_dict=state, max_shard_size=max_shard_size)
        save_tokenizer(self.tokenizer, Path(folder))
        if not self.defaults_of_model:
            save_defaults(self.generation_defaults, Path(folder))


@contextmanager
def without_bars() -> Generator[None]:
    """Hide the bars of transformers while it loads weights: the library never prints."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    shown, downloads = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            with warnings.catch_warnings():  # it would show those of downloads too, and says so
                warnings.simplefilter("ignore")
                logging.enable_progress_bar()
            if not downloads:
                disable_progress_bars()


def load_model(
    loader: Any,
    checkpoint: Checkpoint,
    options: LoadOptions,
    spare: re.Pattern[str] = re.compile(r"(?!)"),
) -> Any:
    """Load a model by a class of transformers onto the device that the user wants.

    Args:
        loader: with `from_pretrained`; the checkpoint's own code is never run.
        checkpoint: in the format of transformers.
        options: type and place.
        spare: names of tensors that the checkpoint may hold beside the model's; default: none.

    Raises:
        CheckpointError: it cannot be read, or its tensors are not exactly those of the model.
    """
    packed = None if any(checkpoint.config.get(key) for key in SECTIONS) else checkpoint.packed()
    if packed is not None:  # which transformers reads as if they were the weights
        raise packed_error(f"{checkpoint.name!r}: {packed[0]}", packed[1])
    device = single_device(options.device_map)
    placing: dict[str, Any] = {} if device is not None else {"device_map": options.device_map}
    dtype = options.dtype_for(checkpoint)
    try:
        with reading_config(checkpoint), without_bars():
            model, report = loader.from_pretrained(
                checkpoint.folder,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **placing,
            )
    except CheckpointError:
        raise
    except (OSError, RuntimeError, ImportError) as error:
        raise CheckpointError(
            f"{checkpoint.name!r} could not be loaded: {str(error).strip().splitlines()[0]}"
        ) from error
    for problem in ("missing", "mismatched", "unexpected"):
        names = sorted(str(name) for name in report[f"{problem}_keys"])
        if found := [name for name in names if problem != "unexpected" or not spare.search(name)]:
            raise CheckpointError(
                f"{checkpoint.name!r}: {len(found)} {problem} tensors, first {found[0]}. "
                "Not loaded: part of it would be random, or left out. The download is incomplete, "
                "or config.json describes another architecture."
            )
    return model if device is None else model.to(device)
