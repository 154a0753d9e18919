"""Check the keys of a config.json: each is read, fixed, harmless, or refused.

A key that the loader does not know may change the network, whose logits would then be wrong without
an error.  A family declares what it knows; the rule is the same for all of them:

    read       its value must be of the declared kind; null is the same as absent
    fixed      its value must be the one that the loader implements
    harmless   ignored: training, generation, and other things that change no logits
    otherwise  refused, unless it is switched off (null, false, 0, empty) or has the name of a
               setting of training; such keys are reported by `doctor`
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.checkpoints.settings import is_mapping
from dlm_sampling.denoisers.checkpoints.value_kinds import (
    ID,
    IDS,
    NAMES,
    SECTION,
    TEXT,
    TEXTS,
    Kind,
    check_kinds,
)

CONFIG = "config.json"
EVERYWHERE: Mapping[str, Kind] = {
    "architectures": TEXTS,
    "bos_token_id": IDS,
    "auto_map": NAMES,
    "eos_token_id": IDS,
    "mask_token_id": ID,
    "model_type": TEXT,
    "pad_token_id": IDS,
}
"""Keys that the library reads of every config."""

HARMLESS = frozenset(
    {
        "add_cross_attention",
        "bad_words_ids",
        "begin_suppress_tokens",
        "chunk_size_feed_forward",
        "cls_token_id",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "language",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "output_scores",
        "prefix",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "typical_p",
        "unk_token_id",
        "use_bfloat16",
        "use_cache",
        "use_flash_attention_2",
        "use_return_dict",
    }
)
"""Keys of transformers' configs that change no logits here: types, generation, labels, outputs."""

LOOKS_HARMLESS = re.compile(r"^_|dropout|_coef$|_loss|^loss|^init_|initializer|_version$")
"""Names of settings that a network reads in training only."""


@dataclass(frozen=True)
class ConfigKeys:
    """Name the keys of config.json that a family knows; "a.b" is the key b of the object a.

    Fields:
        read: keys that the loader reads, with the kind of their values.
        required: keys that must be there.
        fixed: switches that the loader implements at one value only.
        harmless: keys that change no logits, beside those in `HARMLESS`.
    """

    read: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    required: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    harmless: Collection[str] = frozenset()

    def sections(self) -> set[str]:
        """Return the objects whose keys are named one by one."""
        named = (*self.read, *self.fixed, *self.harmless)
        return {name.rpartition(".")[0] for name in named} - {""}


def check_keys(
    checkpoint: Checkpoint, family: str, keys: ConfigKeys, ignored: Collection[str] = ()
) -> tuple[str, ...]:
    """Refuse a config that the family does not know in full; see the module.

    Args:
        checkpoint: with its config.
        family: name of the family, for messages.
        keys: the keys that it knows.
        ignored: further keys that the user knows to be harmless.

    Returns:
        The keys that nothing reads, and which look harmless, sorted.

    Raises:
        CheckpointError: a key is missing, unknown, or has a value that is not allowed; all unknown
            ones are named.
    """
    name, config, sections = checkpoint.name, checkpoint.config, keys.sections()
    check_kinds(name, CONFIG, config, {**EVERYWHERE, **dict.fromkeys(sections, SECTION)})
    given = dict(flattened(config, sections))
    check_kinds(name, CONFIG, given, keys.read)
    if missing := [key for key in keys.required if given.get(key) is None]:
        raise CheckpointError(
            f"{name!r}: config.json lacks {', '.join(sorted(missing))}. Download it again."
        )
    for key, value in keys.fixed.items():
        found = given.get(key)
        if found is not None and found != value and (found or value):
            raise CheckpointError(
                f"{name!r}: config.json has {key}={found!r}; known {family} checkpoints have "
                f"{value!r}."
            )
    known = {*EVERYWHERE, *keys.read, *keys.fixed, *keys.harmless, *ignored}
    left = {key: leaf_of(key) for key in given if key not in known}
    left = {key: leaf for key, leaf in left.items() if leaf not in HARMLESS}
    quiet = [k for k, leaf in left.items() if is_off(k, given[k]) or LOOKS_HARMLESS.search(leaf)]
    if unknown := sorted(set(left) - set(quiet)):
        listed = ", ".join(f"{key}={given[key]!r}"[:60] for key in unknown[:6])
        rest = f" and {len(unknown) - 6} more" if len(unknown) > 6 else ""
        raise CheckpointError(
            f"{name!r}: config.json has {listed}{rest}, which the family {family} does not know: "
            "the network may be another one, and its logits wrong. If you know that they change no "
            f"logits, pass ignore_keys={unknown}."
        )
    return tuple(sorted(quiet))


def flattened(config: Mapping[str, Any], sections: Collection[str]) -> Iterator[tuple[str, Any]]:
    """List keys and values; the keys of an object in `sections` are listed one by one."""
    for key, value in config.items():
        if key in sections and is_mapping(value):
            yield from ((f"{key}.{inner}", each) for inner, each in value.items())
        else:
            yield key, value


def leaf_of(key: str) -> str:
    """Return the part of a key behind its last dot."""
    return key.rpartition(".")[2]


def is_off(key: str, value: object) -> bool:
    """Return whether a value switches a setting off; a token id of 0 is an id."""
    return value is None or (not value and not key.endswith("_id"))


@contextmanager
def reading_config(checkpoint: Checkpoint) -> Generator[None]:
    """Report an error in the block, which reads config.json, as one of the checkpoint.

    Raises:
        CheckpointError: the block raised KeyError, TypeError, ValueError, or an error of
            transformers' checks of configs.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (
        AttributeError,
        ArithmeticError,
        KeyError,
        TypeError,
        ValueError,
        StrictDataclassError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = f"{reason} is missing" if isinstance(error, KeyError) else reason
        raise CheckpointError(
            f"{checkpoint.name!r}: config.json has a value that is missing or does not fit "
            f"({reason[:200]})."
        ) from error
