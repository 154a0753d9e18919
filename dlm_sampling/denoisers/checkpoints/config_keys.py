"""Check the keys of a config.json: each is read, fixed, harmless, or refused.

A key that the loader does not know may change the network, whose logits would then be wrong without
an error.  A family declares what it knows; the rule is the same for all of them:

    read       its value must be of the declared kind; null is the same as absent, or refused
    fixed      its value must be the one that the loader implements
    harmless   ignored: generation, labels, and other things that change no logits
    training   ignored, and reported by `doctor`; so is every key that is null
    otherwise  refused, whatever its value: false changes a network that has the thing switched on
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from dlm_sampling.denoisers.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointError,
    read_json,
    without_nulls,
)
from dlm_sampling.denoisers.checkpoints.settings import is_mapping, token_ids
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
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
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

SWITCHED_OFF: Mapping[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_encoder_decoder": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "pruned_heads": {},
    "tie_encoder_decoder": False,
    "use_mrope": False,
}
"""Keys of released configs that change no logits at the one value that these have."""

TRAINING = frozenset(
    {
        *("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "classifier_dropout"),
        *("classifier_dropout_prob", "cls_dropout", "dropout", "embd_pdrop", "embedding_dropout"),
        *("hidden_dropout", "hidden_dropout_prob", "mlp_dropout", "output_dropout"),
        *("pooler_dropout", "qa_dropout", "resid_pdrop", "residual_dropout", "seq_classif_dropout"),
        *("aux_loss_alpha", "mtp_loss_scaling_factor", "router_aux_loss_coef"),
        *("router_z_loss_coef", "seq_aux"),
        *("init_cutoff_factor", "init_device", "init_fn", "init_std", "initializer_cutoff_factor"),
        *("initializer_factor", "initializer_std"),
        *("_attn_implementation", "_attn_implementation_autoset", "_commit_hash"),
        *("_flash_attn_2_enabled", "_name_or_path", "_num_labels", "attn_implementation"),
        *("_attn_implementation_internal", "_experts_implementation", "experts_implementation"),
        *("name_or_path", "num_labels", "unsloth_fixed", "unsloth_version"),
    }
)
"""Names that released configs give to settings of training, and to notes about the file."""


GENERATION = "generation_config.json"

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Ids of single tokens, which must be columns of the network."""


def vocab_size_of(config: Mapping[str, Any]) -> object:
    """Return the number of columns that a config gives under the usual key."""
    return config.get("vocab_size")


@dataclass(frozen=True)
class ConfigKeys:
    """Name the keys of config.json that a family knows; "a.b" is the key b of the object a.

    Fields:
        read: keys that the loader reads, with the kind of their values.
        required: keys that must be there.
        fixed: switches that the loader implements at one value only.
        harmless: keys that change no logits, beside those in `HARMLESS`.
        never_null: keys that may be absent, but whose null transformers does not read as that.
        columns: number of the network's embeddings by the config; None: the tensors alone tell.
    """

    read: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    required: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    harmless: Collection[str] = frozenset()
    never_null: Collection[str] = frozenset()
    columns: Callable[[Mapping[str, Any]], object] = vocab_size_of

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
        The keys that nothing reads and that are null or of training, sorted.

    Raises:
        CheckpointError: a key is missing, unknown, or has a value that is not allowed; all unknown
            ones are named.
    """
    name, config, sections = checkpoint.name, checkpoint.as_read, keys.sections()
    check_kinds(name, CONFIG, config, {**EVERYWHERE, **dict.fromkeys(sections, SECTION)})
    given = dict(flattened(config, sections))
    check_kinds(name, CONFIG, given, keys.read)
    if missing := [key for key in keys.required if given.get(key) is None]:
        raise CheckpointError(
            f"{name!r}: config.json lacks {', '.join(sorted(missing))}. Download it again."
        )
    if nulls := sorted(key for key in keys.never_null if key in given and given[key] is None):
        raise CheckpointError(
            f"{name!r}: config.json has {nulls[0]}=null: must be a value; delete the key to have "
            "the default."
        )
    check_special_ids(checkpoint, keys.columns(checkpoint.config), sections)
    for key, value in keys.fixed.items():
        found = given.get(key)
        if found is not None and found != value and (found or value):
            raise CheckpointError(
                f"{name!r}: config.json has {key}={found!r}; known {family} checkpoints have "
                f"{value!r}."
            )
    known = {*EVERYWHERE, *keys.read, *keys.fixed, *keys.harmless, *ignored}
    left = [key for key in given if key not in known and not is_harmless(key, given[key])]
    quiet = {key for key in left if given[key] is None or leaf_of(key) in TRAINING}
    if unknown := sorted(set(left) - quiet):
        listed = ", ".join(f"{key}={given[key]!r}"[:60] for key in unknown[:6])
        rest = f" and {len(unknown) - 6} more" if len(unknown) > 6 else ""
        raise CheckpointError(
            f"{name!r}: config.json has {listed}{rest}, which the family {family} does not know: "
            "the network may be another one, and its logits wrong. If you know that they change no "
            f"logits, pass ignore_keys={unknown}."
        )
    return tuple(sorted(quiet))


def check_special_ids(
    checkpoint: Checkpoint, columns: object, sections: Collection[str] = ()
) -> None:
    """Refuse ids of the start, end and padding of a text that are no columns of the network.

    Args:
        checkpoint: with its config.
        columns: number of tokens that the network embeds; no whole number: not known.
        sections: objects of the config that are looked into.

    Raises:
        CheckpointError: an id is outside.
    """
    if not isinstance(columns, int):
        return
    for key, value in flattened(checkpoint.config, sections):
        if leaf_of(key) in SPECIAL:
            ids = token_ids(value, f"{checkpoint.name!r}: config.json has {key}")
            if outside := [each for each in ids if not 0 <= each < columns]:
                raise CheckpointError(
                    f"{checkpoint.name!r}: config.json has {key}={outside[0]}: must be from 0 to "
                    f"{columns - 1}, as the network embeds {columns} tokens, or null."
                )


def check_generation_ids(checkpoint: Checkpoint, columns: object, section: str = "") -> None:
    """Refuse special ids of generation_config.json outside the network, or unlike config.json's.

    Args:
        checkpoint: with its config; nothing is checked where its folder has no such file.
        columns: number of tokens that the network embeds; no whole number: not known.
        section: the object of config.json that has the ids of the text, "" for none.

    Raises:
        CheckpointError: an id is outside, or the two files have no id of a key in common.
    """
    path = checkpoint.folder / GENERATION
    if not path.is_file() or not isinstance(columns, int):
        return
    text = checkpoint.config.get(section)
    inner = text if is_mapping(text) else dict[str, Any]()
    for key, value in without_nulls(read_json(path, checkpoint.name)).items():
        if key not in (*SPECIAL, "mask_token_id"):
            continue
        ids = token_ids(value, f"{checkpoint.name!r}: {GENERATION} has {key}")
        if outside := [each for each in ids if not 0 <= each < columns]:
            raise CheckpointError(
                f"{checkpoint.name!r}: {GENERATION} has {key}={outside[0]}: must be from 0 to "
                f"{columns - 1}, as the network embeds {columns} tokens, or null."
            )
        for name, own in ((key, checkpoint.config), (f"{section}.{key}", inner)):
            other = token_ids(own.get(key), f"{checkpoint.name!r}: config.json has {name}")
            if ids and other and not set(ids) & set(other):
                raise CheckpointError(
                    f"{checkpoint.name!r}: {GENERATION} has {key}={value!r}, and config.json has "
                    f"{name}={own[key]!r}: one of them is of another model; correct or delete it."
                )


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


def is_harmless(key: str, value: object) -> bool:
    """Return whether a key that nothing reads is known to change no logits at this value."""
    leaf = leaf_of(key)
    return leaf in HARMLESS or (leaf in SWITCHED_OFF and SWITCHED_OFF[leaf] == value)


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
