"""Save checkpoints as their authors publish them, under the authors' names.

Every family with a format of its own is written the same way; families differ in the config, in the
names of the tensors, and in which of them are tied.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dlm_sampling.denoisers.base import Denoiser, refuse_quantised
from dlm_sampling.denoisers.checkpoints.placement import parse_dtype
from dlm_sampling.denoisers.checkpoints.tokenizers import save_tokenizer
from dlm_sampling.denoisers.checkpoints.weights import (
    NameOf,
    check_shard_size,
    save_defaults,
    save_weights,
    write_json,
)
from dlm_sampling.denoisers.wrappers import unwrapped

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class PublishedDenoiser(Denoiser):
    """Add saving to denoisers whose authors have a checkpoint format of their own."""

    rows_alike = True

    @abstractmethod
    def authors_config(self) -> dict[str, Any]:
        """Write the config under the authors' keys."""

    @staticmethod
    def authors_name(key: str) -> str:
        """Translate a tensor's name in the module to that in the authors' files; here the same."""
        return key

    @property
    def tied(self) -> Mapping[str, str]:
        """Map tied tensors, which are not written, to the tensors they share; here none."""
        return {}

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        max_shard_size: int | str = "5GB",
    ) -> None:
        """Write config.json, safetensors and tokenizer as the authors publish them.

        Adapters of PEFT are merged into the written weights.

        Args:
            folder: created if needed.
            dtype: type of the written weights, such as "bfloat16"; default: as they are.
            max_shard_size: size of a file in bytes, or such as "2GB"; larger models are split.

        Raises:
            TypeError: the network has an adapter that cannot be merged, or is quantised.
        """
        refuse_quantised(self)
        assert self.module is not None
        save_published(
            unwrapped(self.module),
            folder,
            self.authors_config(),
            self.tokenizer,
            self.authors_name,
            dtype=dtype,
            tied=self.tied,
            max_shard_size=max_shard_size,
        )
        save_defaults(self.generation_defaults, Path(folder))


def save_published(
    module: nn.Module,
    folder: str | Path,
    config: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    name_of: NameOf = PublishedDenoiser.authors_name,
    *,
    dtype: torch.dtype | str | None = None,
    tied: Mapping[str, str] | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write config.json, safetensors and tokenizer into a folder, and make the folder if need be.

    Args:
        module: the network.
        folder: created if needed.
        config: under the authors' keys.
        tokenizer: written next to the weights, if there is one.
        name_of: name of a tensor in the file from its name in the module.
        dtype: type of the written weights, such as "bfloat16"; None: as they are.
        tied: tensors that are the same object as another one; not written.
        max_shard_size: size of a file in bytes, or such as "2GB".
    """
    check_shard_size(max_shard_size)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    save_weights(
        module, target, name_of, dtype=parse_dtype(dtype), tied=tied, max_shard_size=max_shard_size
    )
    write_json(target / "config.json", config)
    save_tokenizer(tokenizer, target)
