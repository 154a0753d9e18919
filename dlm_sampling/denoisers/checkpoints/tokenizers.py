"""Tokenizers of checkpoints, loaded when first needed and without remote code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")

logger = logging.getLogger("dlm_sampling")

TokenizerSource = Callable[[], "PreTrainedTokenizerBase | None"]


def tokenizer_source(
    folder: Path,
    given: PreTrainedTokenizerBase | str | None,
    default: TokenizerSource | None = None,
) -> PreTrainedTokenizerBase | TokenizerSource:
    """The tokenizer that the user gave, or a function that loads it when first asked for.

    Args:
        folder: the checkpoint's folder.
        given: a tokenizer, the name or folder of one, or None for the checkpoint's own.
        default: what to use when the folder holds none.
    """
    if given is not None and not isinstance(given, str):
        return given
    if given is not None:
        return lambda: load_named(given)
    return lambda: load_from_folder(folder) or (default() if default is not None else None)


def load_named(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer by folder or hub name."""
    from transformers import AutoTokenizer

    loader: Any = AutoTokenizer
    return loader.from_pretrained(name, trust_remote_code=False)


def load_from_folder(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer that lies in a checkpoint folder, or None.

    `tokenizer.json` is complete by itself; vocabulary and merges alone are read as Qwen2's
    byte-level BPE, the layout in which Dream publishes them.  The classes are named here, so that a
    tokenizer's own Python file is never run.
    """
    import transformers

    library: Any = transformers
    if (folder / "tokenizer.json").is_file():
        return library.PreTrainedTokenizerFast.from_pretrained(folder)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return library.Qwen2TokenizerFast.from_pretrained(folder)
    return None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a vocabulary; transformers may invent an empty one otherwise."""
    return any((folder / file).is_file() for file in VOCABULARIES)


def special_id(name: str, given: int | None, tokenizer: object, config: Any) -> int | None:
    """A special id: the one given, else that of a tokenizer at hand, else the config's first."""
    if given is not None:
        return given
    own: int | None = getattr(tokenizer, name, None)
    if own is not None:
        return own
    listed: Any = getattr(config, name, None)
    ids: list[int | None] = list(listed) if isinstance(listed, list | tuple) else [listed]  # pyright: ignore[reportUnknownArgumentType]
    return ids[0] if ids else None


def save_tokenizer(tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write the tokenizer's files next to the weights, if there is one."""
    saver: Any = tokenizer
    if saver is not None:
        saver.save_pretrained(folder)


def gpt2() -> PreTrainedTokenizerBase | None:
    """GPT-2's tokenizer; None with a warning if it is unavailable."""
    try:
        return load_named("gpt2")
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        logger.warning(
            "GPT-2's tokenizer could not be loaded (%s); pass tokenizer= for text.", reason
        )
        return None


def gpt2_with_mask() -> PreTrainedTokenizerBase | None:
    """GPT-2's tokenizer and a [MASK] token behind its 50257; None with a warning if unavailable."""
    tokenizer: Any = gpt2()
    if tokenizer is not None:
        tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return tokenizer
