"""Diffusion transformers as denoisers: what the call of the MDLM, BD3-LM, Duo and SEDD networks is.

All are given the total noise of the time and the positions from the first real token; they differ
in the noise, in the attention, and in what their logits mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import at_columns, positions_of, refuse_cache
from dlm_sampling.denoisers.checkpoints.dit_checkpoint import GPT2_END
from dlm_sampling.denoisers.checkpoints.published import PublishedDenoiser
from dlm_sampling.denoisers.checkpoints.tokenizers import TokenizerSource, special_id
from dlm_sampling.denoisers.networks.dit import Dit
from dlm_sampling.denoisers.networks.total_noise import total_noise
from dlm_sampling.denoisers.networks.transformers_blocks import key_bias
from dlm_sampling.types import DenoiserOutput, Pass

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class DitDenoiser(PublishedDenoiser):
    """Base of the denoisers that are a diffusion transformer: logits in place, padding masked.

    Args:
        network: the diffusion transformer.
        is_gpt2: whether the vocabulary is GPT-2's, whose end of text is then the default.
        noise: total noise sigma [B] of the times t [B].
        tokenizer: the tokenizer, or a function that loads it.
        eos_token_id: end-of-text id, which pads as well.
        facts: the others of `Denoiser`.
    """

    def __init__(
        self,
        network: Dit,
        *,
        is_gpt2: bool,
        noise: Callable[[Tensor], Tensor] = total_noise,
        tokenizer: PreTrainedTokenizerBase | TokenizerSource | None,
        eos_token_id: int | None,
        **facts: Any,
    ) -> None:
        """Wrap the network; see the class."""
        end = special_id("eos_token_id", eos_token_id, tokenizer, None)
        if end is None and is_gpt2:
            end = GPT2_END
        super().__init__(
            vocab_size=network.config.vocab_size,
            eos_token_id=end,
            pad_token_id=end,
            tokenizer=tokenizer,
            module=network.eval(),
            **facts,
        )
        self.network = network
        self.noise = noise

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return hidden states of the columns asked for, and the output head."""
        refuse_cache(inputs)
        hidden = self.network(
            inputs.tokens,
            self.sigma(inputs.tokens, inputs.t),
            positions_of(inputs.attention, inputs.tokens),
            self.attention_bias(inputs),
        )
        values = at_columns(hidden, inputs.columns)
        return DenoiserOutput(values, self.network.output_layer.linear, columns=inputs.columns)

    def attention_bias(self, inputs: Pass) -> Tensor | None:
        """Return the additive bias [B or 1, 1, L, L], or None; here it hides padded keys."""
        return key_bias(inputs.attention, self.network.vocab_embed.embedding.dtype)

    def sigma(self, input_ids: Tensor, t: Tensor | None) -> Tensor:
        """Total noise [B] of times t [B]; 0 if the network is not conditioned on it."""
        if t is None or not self.time_conditioned:
            return torch.zeros(len(input_ids), device=input_ids.device)
        return self.noise(t)
