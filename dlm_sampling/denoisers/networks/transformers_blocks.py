"""Runs the decoder blocks of transformers (Llama, Qwen2, Qwen3) with full attention.

The layers are called one by one: with no padding no mask is built at all, so that PyTorch's fused
attention kernels apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import at_columns, positions_of, refuse_cache
from dlm_sampling.denoisers.checkpoints.authors_format import PublishedDenoiser
from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.placement import plan_placement
from dlm_sampling.denoisers.checkpoints.settings import section
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts, with_special_ids
from dlm_sampling.denoisers.checkpoints.weights import NameOf, load_weights, tie
from dlm_sampling.denoisers.registry import LoadOptions
from dlm_sampling.types import DenoiserOutput, Pass

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def key_bias(attention_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Make the additive bias [B, 1, L, L] that hides padded keys; None if nothing is padded.

    The bias is the lowest finite number, not -inf, so that a row of padding alone gives no NaN.
    """
    if attention_mask is None:
        return None
    length = attention_mask.shape[1]
    bias = torch.zeros(attention_mask.shape, dtype=dtype, device=attention_mask.device)
    bias.masked_fill_(~attention_mask, torch.finfo(dtype).min)
    return bias[:, None, None, :].expand(-1, 1, length, -1)


def run_layers(
    stack: Any, embeds: Tensor, position_ids: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Run a decoder with bidirectional attention; hidden states [B, L, d] after the final norm.

    Args:
        stack: a transformers decoder (`layers`, `rotary_emb`, `norm`).
        embeds: [B, L, d].
        position_ids: int64 [B, L] or [1, L].
        bias: additive attention bias, broadcastable to [B, heads, L, keys], or None for full
            attention.
    """
    rotary = stack.rotary_emb(embeds, position_ids)
    hidden: Any = embeds
    for layer in stack.layers:
        hidden = layer(
            hidden,
            attention_mask=bias,
            position_ids=position_ids,
            position_embeddings=rotary,
            is_causal=False,
        )
        hidden = hidden if isinstance(hidden, Tensor) else hidden[0]
    return stack.norm(hidden)


class StockDenoiser(PublishedDenoiser):
    """Runs a stock `...ForCausalLM` module of transformers without its causal mask.

    Args:
        model: stock modules; never modified.
        mask_token_id: the mask id.
        suppressed: ids that are never drawn.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.

    Raises:
        ValueError: an attention backend that would mask causally.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        mask_token_id: int,
        suppressed: Iterable[int] = (),
        **text: Unpack[TextFacts],
    ) -> None:
        """Check the attention backend; see the class."""
        config: Any = model.config
        attention: str = config._attn_implementation
        if attention not in ("sdpa", "eager"):
            raise ValueError(
                f"attn_implementation={attention!r}: must be 'sdpa' or 'eager'; others would "
                "mask causally."
            )
        super().__init__(
            vocab_size=config.vocab_size,
            mask_token_id=mask_token_id,
            max_length=config.max_position_embeddings,
            suppressed=suppressed,
            module=model.eval(),
            **with_special_ids(text, config),
        )
        self.model: Any = model

    @property
    def tied(self) -> Mapping[str, str]:
        """Map the output head's weight to the embedding's, if they are tied."""
        return tied_names(self.model.config)

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return hidden states of the columns asked for, and the output head."""
        refuse_cache(inputs)
        stack, places = self.model.model, positions_of(inputs.attention, inputs.tokens)
        embeds = stack.embed_tokens(inputs.tokens)
        hidden = run_layers(stack, embeds, places, self.attention_bias(inputs, embeds.dtype))
        values = self.aligned(hidden, inputs)
        return DenoiserOutput(values, self.model.lm_head, columns=inputs.columns)

    def attention_bias(self, inputs: Pass, dtype: torch.dtype) -> Tensor | None:
        """Return the additive bias [B or 1, 1, L, L], or None; here it hides padded keys."""
        return key_bias(inputs.attention, dtype)

    def aligned(self, hidden: Tensor, inputs: Pass) -> Tensor:
        """Return the hidden states that predict the columns asked for; here those in place."""
        return at_columns(hidden, inputs.columns)


def load_stock(
    model_class: Callable[[Any], Any],
    config: Any,
    checkpoint: Checkpoint,
    options: LoadOptions,
    name_of: NameOf = lambda key: key,
) -> Any:
    """Build a stock `...ForCausalLM` with a checkpoint's weights, without initialising any.

    Buffers that no checkpoint holds (rotary frequencies) are computed on the CPU, as the meta
    device would lose them.
    """
    with torch.device("meta"):
        model = model_class(config)
    tied = tied_names(config)
    for key, source in tied.items():
        tie(model, key, source)
    dtype = options.dtype_for(checkpoint)
    place, finish = plan_placement(
        model, options.device_map, dtype, tuple(model._no_split_modules or ())
    )
    load_weights(model, checkpoint, name_of, dtype=dtype, place=place, tied=tied, ignored=is_rotary)
    stack = model.model
    stack.rotary_emb = type(stack.rotary_emb)(config=config).to(place("model.rotary_emb"))
    finish()
    return model


def tied_names(config: Any) -> Mapping[str, str]:
    """Map the output head's weight to the embedding's, if the config ties them."""
    return {HEAD: EMBEDDING} if config.tie_word_embeddings else {}


def is_rotary(name: str) -> bool:
    """Tell whether a tensor in a file is a table of rotary frequencies; these are computed."""
    return name.endswith("rotary_emb.inv_freq")


def rope_theta(config: Any) -> float:
    """Read the base of the rotary frequencies, wherever the installed transformers keeps it."""
    parameters = section(config, "rope_parameters")
    return float(parameters.get("rope_theta") or config.rope_theta)
