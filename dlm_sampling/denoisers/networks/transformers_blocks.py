"""Run the decoder blocks of transformers (Llama, Qwen2, Qwen3) with full attention.

The layers are called one by one: with no padding no mask is built at all, so that PyTorch's fused
attention kernels apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from dlm_sampling.denoisers.checkpoints.authors_format import PublishedDenoiser
from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.placement import plan_placement
from dlm_sampling.denoisers.checkpoints.settings import section
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts, with_special_ids
from dlm_sampling.denoisers.checkpoints.weights import NameOf, load_weights, tie
from dlm_sampling.denoisers.columns import Queried, queried, wanted
from dlm_sampling.denoisers.networks.partial_update import LayerInput, run_layer
from dlm_sampling.denoisers.registry import LoadOptions
from dlm_sampling.types import ColumnCache, DenoiserOutput, Pass

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def key_bias(keys: Tensor | None, dtype: torch.dtype, queries: int | None = None) -> Tensor | None:
    """Make the additive bias [B, 1, q, K] that hides keys; None if all may be seen.

    The bias is the lowest finite number, not -inf, so that a row of padding alone gives no NaN.

    Args:
        keys: bool [B, K], False at padding and at other columns that are not seen.
        dtype: type of the bias.
        queries: the number of queries, q; None: K.
    """
    if keys is None:
        return None
    bias = torch.zeros(keys.shape, dtype=dtype, device=keys.device)
    bias.masked_fill_(~keys, torch.finfo(dtype).min)
    return bias[:, None, None, :].expand(-1, 1, keys.shape[1] if queries is None else queries, -1)


def beside_hidden(given: LayerInput, columns: ColumnCache | None) -> dict[str, Any]:
    """Return what a decoder layer of transformers takes beside hidden states, to see all."""
    return {
        "attention_mask": given.bias,
        "position_ids": given.positions,
        "past_key_values": columns,
        "position_embeddings": given.rotary,
        "is_causal": False,
    }


def run_stock(layer: Any, hidden: Tensor, given: LayerInput, columns: ColumnCache | None) -> Tensor:
    """Run a decoder layer of transformers with full attention."""
    found = layer(hidden, **beside_hidden(given, columns))
    return found if isinstance(found, Tensor) else found[0]


class FullAttention:
    """Mark a stock model that also runs with full attention: `model(..., full_attention=True)`.

    Otherwise it is the stock model.  Both are the model's `forward`, so that wrappers and compiled
    code apply to them.
    """

    stock: type[Any]

    def forward(
        self: Any,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        *args: Any,
        full_attention: bool = False,
        columns: ColumnCache | None = None,
        finish: Callable[[Tensor], Tensor] | None = None,
        **given: Any,
    ) -> Any:
        """Run the layers with full attention, or the stock model on its own arguments.

        Args:
            input_ids: int64 [B, L], or embeddings [B, L, d]; of the query only, with `columns`.
            attention_mask: additive attention bias, or None; otherwise as the stock model takes it.
            position_ids: int64 [B, L] or [1, L].
            args: further arguments of the stock model.
            full_attention: whether to return hidden states under full attention.
            columns: keys and values of other columns, or None.
            finish: applied to these inside the call.
            given: arguments of the stock model by keyword.
        """
        if not full_attention:
            return self.stock.forward(self, input_ids, attention_mask, position_ids, *args, **given)
        stack, hidden = self.model, input_ids
        if not hidden.is_floating_point():
            hidden = stack.embed_tokens(hidden)
        beside = LayerInput(attention_mask, position_ids, stack.rotary_emb(hidden, position_ids))
        if columns is None or not columns.keeps_added:
            arguments = beside_hidden(beside, columns)
            for layer in stack.layers:
                hidden = layer(hidden, **arguments)
                hidden = hidden if isinstance(hidden, Tensor) else hidden[0]
        else:
            for number, layer in enumerate(stack.layers):
                hidden = run_layer(run_stock, layer, number, hidden, beside, columns)
        hidden = stack.norm(hidden)
        return hidden if finish is None else finish(hidden)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model as its class of transformers and its state; the class here is made."""
        return new_view, (self.stock,), self.__getstate__()  # type: ignore[attr-defined]


@cache
def full_attention_class(stock: type[Any]) -> type[Any]:
    """Derive the class from a class of transformers."""
    return type(stock.__name__, (FullAttention, stock), {"stock": stock})


def new_view(stock: type[Any]) -> Any:
    """Make an empty model of the derived class, without running a constructor."""
    maker: Any = object.__new__
    return maker(full_attention_class(stock))


def with_full_attention(model: Any) -> Any:
    """Return a view of a stock model that shares all its state; the model itself stays as it is."""
    if isinstance(model, FullAttention):
        return model
    view = new_view(model.__class__)
    object.__setattr__(view, "__dict__", vars(model))
    return view


class StockDenoiser(PublishedDenoiser):
    """Run a stock `...ForCausalLM` module of transformers without its causal mask.

    Args:
        model: stock modules; never modified.
        mask_token_id: the mask id.
        suppressed: ids that are never drawn.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.

    Raises:
        ValueError: an attention backend that would mask causally.
    """

    lazy_head = True
    cacheable = True
    partial_layers = True

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
        self.model: Any = with_full_attention(model.eval())
        super().__init__(
            vocab_size=config.vocab_size,
            mask_token_id=mask_token_id,
            max_length=config.max_position_embeddings,
            suppressed=suppressed,
            module=self.model,
            **with_special_ids(text, config),
        )

    @property
    def tied(self) -> Mapping[str, str]:
        """Map the output head's weight to the embedding's, if they are tied."""
        return tied_names(self.model.config)

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return hidden states of the columns asked for, and the output head."""
        asked = queried(inputs)
        dtype: torch.dtype = self.model.model.embed_tokens.weight.dtype
        module, inside = self.entry()
        given: dict[str, Any] = {
            "input_ids": asked.ids,
            "position_ids": asked.positions,
            "attention_mask": self.attention_bias(asked, dtype),
            "columns": inputs.cache,
            "full_attention": True,
        }
        if inside:
            logits = module(**given, finish=partial(self.headed, inputs=inputs))
            return DenoiserOutput(logits, columns=inputs.columns)
        values = self.aligned(module(**given), inputs)
        return DenoiserOutput(values, self.model.lm_head, columns=inputs.columns)

    def headed(self, hidden: Tensor, inputs: Pass) -> Tensor:
        """Return the logits of the columns asked for."""
        return self.model.lm_head(self.aligned(hidden, inputs))

    def attention_bias(self, asked: Queried, dtype: torch.dtype) -> Tensor | None:
        """Return the additive bias [B or 1, 1, q, K], or None; here it hides padded keys."""
        return key_bias(asked.keys, dtype, asked.ids.shape[1])

    def aligned(self, hidden: Tensor, inputs: Pass) -> Tensor:
        """Return the hidden states that predict the columns asked for."""
        return wanted(hidden, inputs, self.shift)


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
