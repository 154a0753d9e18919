"""Load tokenizers of checkpoints, when first needed and without remote code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from dlm_sampling.denoisers.checkpoints.reach import hub_in_reach
from dlm_sampling.denoisers.checkpoints.settings import listed_ids, setting

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase
    from typing_extensions import TypeIs

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")

logger = logging.getLogger("dlm_sampling")

TokenizerSource = Callable[[], "PreTrainedTokenizerBase | None"]


class TextFacts(TypedDict, total=False):
    """Name a checkpoint's tokenizer and special ids, as every family's constructor takes them.

    tokenizer: the tokenizer, or a function that loads it.
    eos_token_id: end-of-text id; default: the tokenizer's if one is given, else the config's.
    pad_token_id: padding id, with the same default.
    """

    tokenizer: PreTrainedTokenizerBase | TokenizerSource | None
    eos_token_id: int | None
    pad_token_id: int | None


def tokenizer_source(
    folder: Path,
    given: PreTrainedTokenizerBase | str | None,
    default: TokenizerSource | None = None,
) -> PreTrainedTokenizerBase | TokenizerSource:
    """Return the tokenizer that the user gave, or a function that loads one when first asked for.

    Args:
        folder: the checkpoint's folder.
        given: a tokenizer, the name or folder of one, or None for the checkpoint's own.
        default: loads a tokenizer when the folder holds none.
    """
    if given is not None and not isinstance(given, str):
        return given
    if given is not None:
        return partial(load_named, given)
    return partial(load_first, folder, default)


def is_tokenizer(
    source: PreTrainedTokenizerBase | TokenizerSource,
) -> TypeIs[PreTrainedTokenizerBase]:
    """Tell a tokenizer, which can be called as well, from a function that loads one.

    The class is not asked: to import it takes seconds, and a look-alike will do.
    """
    return hasattr(source, "decode")


def load_named(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer by folder or hub name."""
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    loader: Any = AutoTokenizer
    with hub_in_reach(asked=not Path(name).is_dir()):
        return loader.from_pretrained(name, trust_remote_code=False)


def load_first(folder: Path, default: TokenizerSource | None) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of a folder, else the default one, else return None."""
    return load_from_folder(folder) or (default() if default is not None else None)


def load_from_folder(folder: Path) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer that lies in a checkpoint folder, or return None.

    `tokenizer.json` is complete by itself; vocabulary and merges alone are read as Qwen2's
    byte-level BPE, the layout in which Dream publishes them.  The classes are named here, so that a
    tokenizer's own Python file is never run.
    """
    library: Any = import_module("transformers")  # the two classes move from version to version
    if (folder / "tokenizer.json").is_file():
        return library.PreTrainedTokenizerFast.from_pretrained(folder)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return library.Qwen2TokenizerFast.from_pretrained(folder)
    return None


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds a vocabulary; transformers may invent an empty one otherwise."""
    return any((folder / file).is_file() for file in VOCABULARIES)


def with_special_ids(text: TextFacts, config: object = None) -> TextFacts:
    """Fill in missing special ids from the tokenizer, if it is loaded, else from the config.

    Args:
        text: facts that the user gave; a function that loads a tokenizer is not called.
        config: a config of transformers, or None.
    """
    tokenizer = text.get("tokenizer")
    sources: tuple[object, ...] = (tokenizer, config)

    def own(name: str) -> int | None:
        return next((i for source in sources for i in listed_ids(source, name)), None)

    eos, pad = text.get("eos_token_id"), text.get("pad_token_id")
    return TextFacts(
        tokenizer=tokenizer,
        eos_token_id=own("eos_token_id") if eos is None else eos,
        pad_token_id=own("pad_token_id") if pad is None else pad,
    )


def mask_id_of(tokenizer: object) -> int | None:
    """Read the mask id of a tokenizer; None if it has none, or there is no tokenizer."""
    return setting(tokenizer, "mask_token_id", int)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write the tokenizer's files next to the weights, if there is one."""
    saver: Any = tokenizer
    if saver is not None:
        saver.save_pretrained(folder)


def gpt2() -> PreTrainedTokenizerBase | None:
    """Load GPT-2's tokenizer; None with a warning if it is unavailable."""
    try:
        return load_named("gpt2")
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        logger.warning(
            "GPT-2's tokenizer could not be loaded (%s); pass tokenizer= for text.", reason
        )
        return None


def gpt2_with_mask() -> PreTrainedTokenizerBase | None:
    """Load GPT-2's tokenizer and add a [MASK] token, 50257; None with a warning if unavailable."""
    tokenizer: Any = gpt2()
    if tokenizer is not None:
        tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return tokenizer
