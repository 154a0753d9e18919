"""Keep the list of checkpoint families: each family's file registers it, a config selects one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.checkpoints.config_keys import ConfigKeys, check_keys
from dlm_sampling.denoisers.checkpoints.placement import DeviceMap, resolve_dtype, single_device
from dlm_sampling.denoisers.checkpoints.settings import token_ids
from dlm_sampling.denoisers.checkpoints.tokenizers import (
    TextFacts,
    TokenizerSource,
    tokenizer_source,
)

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LoadOptions:
    """Hold the options of `from_pretrained`, as every family's loader gets them."""

    dtype: torch.dtype | str | None = "auto"
    device_map: DeviceMap = None
    tokenizer: PreTrainedTokenizerBase | str | None = None
    mask_token_id: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def dtype_for(self, checkpoint: Checkpoint) -> torch.dtype:
        """Choose the type of the weights: the one asked for, else the checkpoint's."""
        return resolve_dtype(self.dtype, checkpoint.dtype, single_device(self.device_map))

    def text(self, checkpoint: Checkpoint, default: TokenizerSource | None = None) -> TextFacts:
        """Find a checkpoint's tokenizer, loaded when first asked for, and its config's special ids.

        Args:
            checkpoint: the checkpoint.
            default: loads a tokenizer where the folder holds none.
        """

        def first(key: str) -> int | None:
            where = f"{checkpoint.name!r}: config.json has {key}"
            return next(iter(token_ids(checkpoint.config.get(key), where)), None)

        return TextFacts(
            tokenizer=tokenizer_source(checkpoint.folder, self.tokenizer, default),
            eos_token_id=first("eos_token_id"),
            pad_token_id=first("pad_token_id"),
        )

    def mask_id(self, checkpoint: Checkpoint, default: int | None, vocab_size: int) -> int:
        """Choose the mask id: the user's, else the config's, else the family's default.

        Raises:
            CheckpointError: none is known, or it lies outside the vocabulary.
        """
        for source, value in (
            ("mask_token_id", self.mask_token_id),
            ("config.json's mask_token_id", checkpoint.config.get("mask_token_id")),
            ("the family's mask id", default),
        ):
            if value is None:
                continue
            if not 0 <= value < vocab_size:
                raise CheckpointError(
                    f"{checkpoint.name!r}: {source} {value} is outside the vocabulary of "
                    f"{vocab_size}. Pass mask_token_id=."
                )
            return int(value)
        raise CheckpointError(
            f"{checkpoint.name!r} does not say which token is the mask. Pass mask_token_id=."
        )


@dataclass(frozen=True)
class Family:
    """Describe one checkpoint family.

    Args:
        name: short lower-case name.
        matches: whether a config.json belongs to the family.
        load: build the denoiser.
        options: further keyword arguments of `from_pretrained` that the loader reads from `extra`.
        precedence: of several families that match a config, the one of largest precedence loads
            it; among equals, the one registered last.
        reads_quantised: methods of quantisation whose stored weights the loader reads.
        keys: the keys of config.json that the loader knows, or a function from a config to them;
            None: not declared, so that no key is refused.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    load: Callable[[Checkpoint, LoadOptions], Denoiser]
    options: frozenset[str] = frozenset()
    precedence: int = 0
    reads_quantised: tuple[str, ...] = ()
    keys: ConfigKeys | Callable[[Mapping[str, Any]], ConfigKeys | None] | None = None

    def check(self, checkpoint: Checkpoint, ignored: Collection[str] = ()) -> tuple[str, ...]:
        """Refuse a config that the family does not know in full; return the keys that no one reads.

        Raises:
            CheckpointError: see `check_keys`.
        """
        keys = self.keys_for(checkpoint.as_read)
        return () if keys is None else check_keys(checkpoint, self.name, keys, ignored)

    def keys_for(self, config: Mapping[str, Any]) -> ConfigKeys | None:
        """Return the keys that the loader knows of a config; None: not declared."""
        return self.keys(config) if callable(self.keys) else self.keys


FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Add a family; one with the same name is replaced."""
    FAMILIES[family.name] = family
    return family


def family_of(config: Mapping[str, Any]) -> Family | None:
    """Find the registered family that a config belongs to, or None; see `Family.precedence`."""
    fitting = [family for family in reversed(FAMILIES.values()) if family.matches(config)]
    return max(fitting, key=lambda family: family.precedence, default=None)
