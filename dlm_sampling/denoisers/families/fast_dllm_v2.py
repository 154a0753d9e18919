"""Load and run Fast-dLLM v2: Qwen2 blocks, block-causal attention, logits shifted by one.

The config of the release of 1.5B has 28 layers of width 1536, head tied to the embedding, a
vocabulary of 151936, blocks (`bd_size`) of 32 and no mask id.  The mask is 151665, `|<MASK>|`, and
a text ends at 151645, `<|im_end|>`, which also pads; prompts are messages under the tokenizer's own
chat template.  The released loop writes whole blocks, where a canvas here may end within one: its
last block then shows fewer masks than in training.

Known from public copies of the release's config, of its class and of its `generate`, which were
read and not run.  Unverified: the weights (none were loaded here), the tokenizer's files with the
template and the text of the mask, and the config of the release of 7B, which is taken to have the
same keys.

Wu et al. 2025, Fast-dLLM v2, arXiv:2509.26328, released code github.com/NVlabs/Fast-dLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.qwen_checkpoint import qwen_config, qwen_keys, stock_config
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts
from dlm_sampling.denoisers.checkpoints.value_kinds import SIZE
from dlm_sampling.denoisers.columns import Queried
from dlm_sampling.denoisers.networks.block_causal import block_causal_bias, check_block_length
from dlm_sampling.denoisers.networks.transformers_blocks import StockDenoiser, load_stock
from dlm_sampling.denoisers.registry import Family, LoadOptions, register

if TYPE_CHECKING:
    from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

MASK_TOKEN_ID = 151665
"""Mask id of the released checkpoints (default of the authors' `generate`)."""
BLOCK_LENGTH = 32
"""Block length of the released checkpoints, where the config does not say."""
MODEL_TYPE = "Fast_dLLM_Qwen"


class FastDLLMv2Denoiser(StockDenoiser):
    """Run a Fast-dLLM v2 network: a block sees itself and earlier ones, states are shifted.

    Position i is scored by the state of position i - 1, so that the first token of a block follows
    from the block before it, once that is finished.  (In training that block is noised, so the
    state there saw masks with the probability of its noise; released and native decoding show it
    finished.)  `generate` uses the sampler "fast-dllm-v2" unless another is named.

    Args:
        model: stock Qwen2 modules; used with block-causal attention, never modified.
        mask_token_id: the mask id.
        block_length: columns per block; blocks count from a row's first real token.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.

    Raises:
        ValueError: `block_length` below 1.
    """

    family = "fast_dllm_v2"
    shift = 1

    def __init__(
        self,
        model: Qwen2ForCausalLM,
        *,
        mask_token_id: int,
        block_length: int = BLOCK_LENGTH,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the model; see the class."""
        super().__init__(model, mask_token_id=mask_token_id, **text)
        self.block_length = check_block_length(block_length)
        self.generation_defaults = {"sampler": "fast-dllm-v2"}

    def attention_bias(self, asked: Queried, dtype: torch.dtype) -> Tensor:
        """Return the block-causal bias."""
        assert self.block_length is not None
        return block_causal_bias(asked, self.block_length, dtype)

    def authors_config(self) -> dict[str, Any]:
        """Write the config under the authors' keys."""
        return {
            **qwen_config(self, ()),
            "architectures": ["Fast_dLLM_QwenForCausalLM"],
            "model_type": MODEL_TYPE,
            "bd_size": self.block_length,
        }


def load(checkpoint: Checkpoint, options: LoadOptions) -> FastDLLMv2Denoiser:
    """Build the denoiser of a Fast-dLLM v2 checkpoint."""
    from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

    config = stock_config(Qwen2Config, checkpoint, ())
    mask_token_id = options.mask_id(checkpoint, MASK_TOKEN_ID, config.vocab_size)
    own = checkpoint.config.get("bd_size", BLOCK_LENGTH)
    return FastDLLMv2Denoiser(
        load_stock(Qwen2ForCausalLM, config, checkpoint, options),
        mask_token_id=mask_token_id,
        block_length=options.extra.get("block_length", own),
        **options.text(checkpoint),
    )


def matches(config: Mapping[str, Any]) -> bool:
    """Match the authors' model type."""
    return config.get("model_type") == MODEL_TYPE


register(
    Family(
        "fast_dllm_v2",
        matches,
        load,
        frozenset({"block_length"}),
        keys=qwen_keys({"bd_size": SIZE}),
    )
)
