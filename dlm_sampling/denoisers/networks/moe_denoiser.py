"""Run mixture-of-experts decoders as denoisers: LLaDA-MoE and LLaDA2."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

from torch import Tensor

from dlm_sampling.denoisers.checkpoints.authors_format import PublishedDenoiser
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts, with_special_ids
from dlm_sampling.denoisers.columns import Queried, queried, wanted
from dlm_sampling.denoisers.networks.moe import TIED, MoeNetwork
from dlm_sampling.denoisers.networks.transformers_blocks import key_bias
from dlm_sampling.types import DenoiserOutput, Pass


class MoeDenoiser(PublishedDenoiser):
    """Run a mixture-of-experts decoder: no time input, logits in place.

    Args:
        network: the decoder.
        mask_token_id: the mask id.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.
    """

    lazy_head = True
    cacheable = True
    recordable = False

    def __init__(
        self,
        network: MoeNetwork,
        *,
        mask_token_id: int,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the network; see the class."""
        sizes = network.config
        super().__init__(
            vocab_size=sizes.vocab_size,
            mask_token_id=mask_token_id,
            max_length=sizes.max_length,
            module=network.eval(),
            **with_special_ids(text),
        )
        self.network = network

    @property
    def tied(self) -> Mapping[str, str]:
        """Map the output head's weight to the embedding's, if they are one."""
        one = self.network.lm_head.weight is self.network.model.embed_tokens.weight
        return TIED if one else {}

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return hidden states of the columns asked for, and the output head."""
        asked, (module, inside) = queried(inputs), self.entry()
        given = (asked.ids, asked.positions, self.attention_bias(asked))
        if inside:
            logits = module(*given, partial(self.headed, inputs=inputs), inputs.cache)
            return DenoiserOutput(logits, columns=inputs.columns)
        values = wanted(module(*given, None, inputs.cache), inputs)
        return DenoiserOutput(values, self.network.lm_head, columns=inputs.columns)

    def headed(self, hidden: Tensor, inputs: Pass) -> Tensor:
        """Return the logits of the columns asked for."""
        return self.network.lm_head(wanted(hidden, inputs))

    def attention_bias(self, asked: Queried) -> Tensor | None:
        """Return the additive bias [B or 1, 1, q, K], or None; here it hides padded keys."""
        return key_bias(asked.keys, self.network.lm_head.weight.dtype, asked.ids.shape[1])

    def shared_config(self) -> dict[str, Any]:
        """Write the keys that mean the same in the authors' configs of all these families."""
        sizes = self.network.config
        return {
            "vocab_size": sizes.vocab_size,
            "hidden_size": sizes.hidden_size,
            "num_hidden_layers": len(sizes.dense_layers),
            "num_attention_heads": sizes.n_heads,
            "num_key_value_heads": sizes.n_kv_heads,
            "num_experts": sizes.n_experts,
            "partial_rotary_factor": sizes.rotary_width / sizes.head_dim,
            "rope_theta": sizes.rope_theta,
            "rms_norm_eps": sizes.eps,
            "max_position_embeddings": sizes.max_length,
            "tie_word_embeddings": bool(self.tied),
            "mask_token_id": self.mask_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }
