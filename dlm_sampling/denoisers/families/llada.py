"""Load and run LLaDA (Base, Instruct, 1.5): Llama blocks with full attention.

Nie et al. 2025, Large Language Diffusion Models, arXiv:2502.09992; released code
github.com/ML-GSAI/LLaDA.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.config_keys import ConfigKeys, reading_config
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts
from dlm_sampling.denoisers.checkpoints.value_kinds import FLAG, LAYERS, POSITIVE, SIZE
from dlm_sampling.denoisers.networks.transformers_blocks import (
    StockDenoiser,
    load_stock,
    rope_theta,
)
from dlm_sampling.denoisers.registry import Family, LoadOptions, register

if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

MASK_TOKEN_ID = 126336
"""Mask id of the released checkpoints."""

FIXED: dict[str, Any] = {
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_type": "llama",
    "include_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "activation_type": "silu",
    "rope": True,
    "scale_logits": False,
}
"""Architecture switches of the authors' config, at the only values that any release uses."""

NAMES = {
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
}
TOP_NAMES = {"model.embed_tokens": "wte", "model.norm": "ln_f", "lm_head": "ff_out"}
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")


class LLaDADenoiser(StockDenoiser):
    """Run a LLaDA network: no time input, logits in place, padding masked as keys.

    Args:
        model: stock Llama modules; used with full attention, never modified.
        mask_token_id: the mask id.
        vocab_size: tokens in use; output columns from here on are never drawn.  Default: all
            columns.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.
    """

    family = "llada"

    def __init__(
        self,
        model: LlamaForCausalLM,
        *,
        mask_token_id: int,
        vocab_size: int | None = None,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the model; see the class."""
        columns: int = model.config.vocab_size
        super().__init__(
            model,
            mask_token_id=mask_token_id,
            suppressed=range(columns if vocab_size is None else vocab_size, columns),
            **text,
        )

    def authors_config(self) -> dict[str, Any]:
        """Write the config under the authors' keys."""
        config: Any = self.model.config
        return {
            **FIXED,
            "architectures": ["LLaDAModelLM"],
            "model_type": "llada",
            "d_model": config.hidden_size,
            "n_layers": config.num_hidden_layers,
            "n_heads": config.num_attention_heads,
            "n_kv_heads": config.num_key_value_heads,
            "mlp_hidden_size": config.intermediate_size,
            "include_qkv_bias": bool(config.attention_bias),
            "vocab_size": self.vocab_size - len(self.suppressed),
            "embedding_size": self.vocab_size,
            "max_sequence_length": config.max_position_embeddings,
            "rms_norm_eps": config.rms_norm_eps,
            "rope_theta": rope_theta(config),
            "weight_tying": bool(config.tie_word_embeddings),
            "mask_token_id": self.mask_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }

    @staticmethod
    def authors_name(key: str) -> str:
        """Translate a tensor's name in the stock Llama module to that in the authors' files."""
        layer = LAYER.fullmatch(key)
        if layer is None:
            return f"model.transformer.{TOP_NAMES[key.removesuffix('.weight')]}.weight"
        return f"model.transformer.blocks.{layer[1]}.{NAMES[layer[2]]}.{layer[3]}"


def columns_of(config: Mapping[str, Any]) -> int:
    """Return the number of embeddings, of which some may be no tokens."""
    return config.get("embedding_size", config["vocab_size"])


def stock_config(checkpoint: Checkpoint) -> Any:
    """Make the stock Llama config of an authors' config.

    Raises:
        CheckpointError: the sizes do not fit each other.
    """
    from transformers.models.llama.configuration_llama import LlamaConfig

    maker: Any = LlamaConfig
    given = checkpoint.config
    width, heads = given["d_model"], given["n_heads"]
    one, kv_heads = given.get("multi_query_attention"), given.get("n_kv_heads")
    shared = {None: kv_heads or heads, True: 1, False: heads}[one]
    columns = columns_of(given)
    with reading_config(checkpoint):
        if kv_heads not in (None, shared):
            raise ValueError(f"n_kv_heads={kv_heads} beside multi_query_attention={one}")
        if columns < given["vocab_size"]:
            raise ValueError(f"embedding_size={columns} beside vocab_size={given['vocab_size']}")
        return maker(
            vocab_size=columns,
            hidden_size=width,
            intermediate_size=given.get("mlp_hidden_size") or (given.get("mlp_ratio") or 4) * width,
            num_hidden_layers=given["n_layers"],
            num_attention_heads=heads,
            num_key_value_heads=shared,
            max_position_embeddings=given.get("max_sequence_length") or 1024,
            rms_norm_eps=given.get("rms_norm_eps") or 1e-5,
            rope_theta=given.get("rope_theta") or 10000.0,
            tie_word_embeddings=given.get("weight_tying") is not False,
            attention_bias=bool(given.get("include_qkv_bias")),
            bos_token_id=None,
            eos_token_id=given.get("eos_token_id"),
            pad_token_id=given.get("pad_token_id"),
        )


def network(config: Any) -> Any:
    """Build stock Llama modules; a bias of attention is one of queries, keys and values only."""
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    model: Any = LlamaForCausalLM(config)
    for layer in model.model.layers:
        layer.self_attn.o_proj.bias = None
    return model


def load(checkpoint: Checkpoint, options: LoadOptions) -> LLaDADenoiser:
    """Build the denoiser of a LLaDA checkpoint."""
    config = stock_config(checkpoint)
    mask_token_id = options.mask_id(checkpoint, MASK_TOKEN_ID, config.vocab_size)
    return LLaDADenoiser(
        load_stock(network, config, checkpoint, options, LLaDADenoiser.authors_name),
        mask_token_id=mask_token_id,
        vocab_size=checkpoint.config["vocab_size"],
        **options.text(checkpoint),
    )


def matches(config: Mapping[str, Any]) -> bool:
    """Match dense LLaDA; the release with experts shares the model type, but counts experts."""
    return (
        config.get("model_type") == "llada" and "num_experts" not in config and "d_model" in config
    )


KEYS = ConfigKeys(
    read={
        "d_model": SIZE,
        "embedding_size": SIZE,
        "include_qkv_bias": FLAG,
        "max_sequence_length": SIZE,
        "mlp_hidden_size": SIZE,
        "mlp_ratio": SIZE,
        "multi_query_attention": FLAG,
        "n_heads": SIZE,
        "n_kv_heads": SIZE,
        "n_layers": LAYERS,
        "rms_norm_eps": POSITIVE,
        "rope_theta": POSITIVE,
        "vocab_size": SIZE,
        "weight_tying": FLAG,
    },
    required=("d_model", "n_heads", "n_layers", "vocab_size"),
    fixed=FIXED,
    columns=columns_of,
    harmless={
        *("alibi_bias_max", "attention_layer_norm_with_affine", "block_group_size"),
        *("flash_attention", "precision", "rope_full_precision"),
    },
)

register(Family("llada", matches, load, keys=KEYS))
