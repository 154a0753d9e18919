"""Load and run masked language models of transformers (BERT, RoBERTa, ModernBERT, ...).

Wang & Cho 2019, arXiv:1902.04094, generate from BERT as from a Markov random field; read as a
masked diffusion model, its logits at a mask are the denoising law.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor, nn

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.config_keys import ConfigKeys, reading_config
from dlm_sampling.denoisers.checkpoints.settings import setting
from dlm_sampling.denoisers.checkpoints.tokenizers import (
    TextFacts,
    has_tokenizer,
    load_named,
    mask_id_of,
    with_special_ids,
)
from dlm_sampling.denoisers.checkpoints.transformers_format import TransformersDenoiser, load_model
from dlm_sampling.denoisers.checkpoints.transformers_keys import transformers_keys
from dlm_sampling.denoisers.columns import positions_of, refuse_cache
from dlm_sampling.denoisers.quantised_files import READABLE
from dlm_sampling.denoisers.registry import Family, LoadOptions, register
from dlm_sampling.types import DenoiserOutput, Pass

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


FIXED: dict[str, Any] = {"is_causal": False, "is_decoder": False}
"""Switches that would let a position see those to its left only."""
FURTHER_HEADS = re.compile(r"(^|\.)(pooler|seq_relationship|sop_classifier)\.|\.position_ids$")
"""Tensors of heads for further tasks of the training, which a masked language model lacks."""


class MaskedLMDenoiser(TransformersDenoiser):
    """Run a masked language model: logits in place, positions counted from the first real token.

    Padding is honoured where the model takes explicit position ids; models that count columns
    instead run rows of different padding separately.

    Args:
        model: a `...ForMaskedLM` module.
        mask_token_id: the mask id.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.
    """

    family = "masked_lm"
    padding_proven = False

    def __init__(self, model: Any, *, mask_token_id: int, **text: Unpack[TextFacts]) -> None:
        """Wrap the model; see the class."""
        config = model.config
        self.model = model
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.offset = position_offset(model)
        limit = setting(config, "max_position_embeddings", int)
        super().__init__(
            vocab_size=config.vocab_size,
            mask_token_id=mask_token_id,
            max_length=None if limit is None else limit - self.offset,
            honours_padding=self.takes_positions,
            module=model.eval(),
            **with_special_ids(text, config),
        )

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return logits of all columns, as the model's head makes them."""
        refuse_cache(inputs)
        given: dict[str, Tensor] = {"input_ids": inputs.tokens}
        if inputs.attention is not None:
            given["attention_mask"] = inputs.attention.long()
        if self.takes_positions:
            places = positions_of(inputs.attention, inputs.tokens) + self.offset
            given["position_ids"] = places.expand_as(inputs.tokens)
        return DenoiserOutput(self.call_module(**given).logits)


def position_offset(model: Any) -> int:
    """Find the index of the first position: RoBERTa reserves those up to the padding index."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    for name, module in modules.items():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def load(checkpoint: Checkpoint, options: LoadOptions) -> MaskedLMDenoiser:
    """Build the denoiser of a masked language model.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape, so that it would be
            another model.
    """
    from transformers.models.auto.modeling_auto import AutoModelForMaskedLM

    with reading_config(checkpoint):  # transformers reads it to choose the class of tokenizer
        tokenizer = pick_tokenizer(checkpoint, options)
    mask_token_id = options.mask_id(
        checkpoint, mask_id_of(tokenizer), checkpoint.config["vocab_size"]
    )
    model = load_model(AutoModelForMaskedLM, checkpoint, options, spare=FURTHER_HEADS)
    return MaskedLMDenoiser(model, mask_token_id=mask_token_id, tokenizer=tokenizer)


def pick_tokenizer(checkpoint: Checkpoint, options: LoadOptions) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of the user, or the checkpoint's; None if it has none."""
    given = options.tokenizer
    if given is not None:
        return load_named(given) if isinstance(given, str) else given
    return load_named(str(checkpoint.folder)) if has_tokenizer(checkpoint.folder) else None


def matches(config: Mapping[str, Any]) -> bool:
    """Match model types that transformers can load with a masked-language-model head."""
    from transformers.models.auto import modeling_auto

    listed: list[str] = config.get("architectures") or []
    headed = not listed or any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in listed)
    known: Any = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return headed and config.get("model_type") in known


def keys_of(config: Mapping[str, Any]) -> ConfigKeys:
    """Name the keys that transformers' model for a config reads."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    classes: Any = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING
    return transformers_keys(classes[CONFIG_MAPPING[config["model_type"]]], config, fixed=FIXED)


register(Family("masked_lm", matches, load, precedence=-1, reads_quantised=READABLE, keys=keys_of))
