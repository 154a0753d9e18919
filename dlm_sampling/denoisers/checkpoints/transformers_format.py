"""Loads and saves models that transformers itself reads and writes.

They keep the format of the library, so that nothing is renamed or cast on the way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.checkpoints.placement import parse_dtype, single_device
from dlm_sampling.denoisers.checkpoints.tokenizers import save_tokenizer
from dlm_sampling.denoisers.registry import LoadOptions


class TransformersDenoiser(Denoiser):
    """Adds saving to denoisers whose model has a `save_pretrained` of its own."""

    model: Any

    def save_pretrained(
        self, folder: str | Path, *, dtype: torch.dtype | str | None = None
    ) -> None:
        """Write the model with its own `save_pretrained`, and the tokenizer.

        Args:
            folder: created if needed.
            dtype: must be None; the model is written as it is.
        """
        if parse_dtype(dtype) is not None:
            raise ValueError(
                f"dtype={dtype!r}: must be None here; convert the model first with "
                "denoiser.module.to(dtype)."
            )
        self.model.save_pretrained(folder)
        save_tokenizer(self.tokenizer, Path(folder))


def load_model(
    loader: Any, checkpoint: Checkpoint, options: LoadOptions
) -> tuple[Any, dict[str, Any]]:
    """Load a model by a class of transformers onto the device that the user wants.

    Args:
        loader: with `from_pretrained`; the checkpoint's own code is never run.
        checkpoint: in the format of transformers.
        options: type and place.

    Returns:
        The model, and the report `output_loading_info` of tensors that are missing or do not fit.

    Raises:
        CheckpointError: it cannot be read.
    """
    device = single_device(options.device_map)
    placing: dict[str, Any] = {} if device is not None else {"device_map": options.device_map}
    try:
        model, report = loader.from_pretrained(
            checkpoint.folder,
            dtype=options.dtype_for(checkpoint),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **placing,
        )
    except (OSError, RuntimeError, ImportError) as error:
        raise CheckpointError(
            f"{checkpoint.name!r} could not be loaded: {str(error).strip().splitlines()[0]}"
        ) from error
    return (model if device is None else model.to(device)), report
