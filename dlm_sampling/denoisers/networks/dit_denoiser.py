"""Run diffusion transformers as denoisers: MDLM, BD3-LM, Duo and SEDD.

All are given the total noise of the time and the positions from the first real token; they differ
in the noise, in the attention, and in the meaning of their logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from dlm_sampling.denoisers.checkpoints.authors_format import PublishedDenoiser
from dlm_sampling.denoisers.checkpoints.dit_checkpoint import GPT2_END, is_gpt2
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts, with_special_ids
from dlm_sampling.denoisers.columns import Queried, queried, wanted
from dlm_sampling.denoisers.networks.dit import Dit
from dlm_sampling.denoisers.networks.total_noise import total_noise
from dlm_sampling.denoisers.networks.transformers_blocks import key_bias
from dlm_sampling.schedules import Schedule
from dlm_sampling.types import DenoiserOutput, Pass, PredictionKind


class DitDenoiser(PublishedDenoiser):
    """Run a diffusion transformer: logits in place, padding masked.

    Args:
        network: the diffusion transformer.
        mask_token_id: the mask id, or None for uniform noise.
        max_length: length it was trained at.
        time_conditioned: whether the network sees the noise level; otherwise it always sees 0.
        schedule: alpha(t) of its times, or None.
        kind: the law that the logits are of.
        noise: total noise sigma [B] of the times t [B].
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.  If neither a tokenizer nor
            an id is given and the vocabulary is GPT-2's, the end-of-text id is GPT-2's; it is also
            the default for padding.
    """

    lazy_head = True
    cacheable = True

    def __init__(
        self,
        network: Dit,
        *,
        mask_token_id: int | None,
        max_length: int | None,
        time_conditioned: bool,
        schedule: Schedule | None,
        kind: PredictionKind = "posterior",
        noise: Callable[[Tensor], Tensor] = total_noise,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the network; see the class."""
        columns, own = network.config.vocab_size, with_special_ids(text)
        end = own.get("eos_token_id")
        if end is None and is_gpt2(columns, mask_token_id):
            end = GPT2_END
        pad = own.get("pad_token_id")
        super().__init__(
            vocab_size=columns,
            mask_token_id=mask_token_id,
            max_length=max_length,
            time_conditioned=time_conditioned,
            schedule=schedule,
            kind=kind,
            module=network.eval(),
            tokenizer=own.get("tokenizer"),
            eos_token_id=end,
            pad_token_id=end if pad is None else pad,
        )
        self.network = network
        self.noise = noise

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return hidden states of the columns asked for, and the output head."""
        asked, (module, inside) = queried(inputs), self.entry()
        given = (
            asked.ids,
            self.sigma(inputs.tokens, inputs.t),
            asked.positions,
            self.attention_bias(asked),
        )
        if inside:
            logits = module(*given, partial(self.headed, inputs=inputs), inputs.cache)
            return DenoiserOutput(logits, columns=inputs.columns)
        values = wanted(module(*given, None, inputs.cache), inputs)
        return DenoiserOutput(values, self.network.output_layer.linear, columns=inputs.columns)

    def headed(self, hidden: Tensor, inputs: Pass) -> Tensor:
        """Return the logits of the columns asked for."""
        return self.network.output_layer.linear(wanted(hidden, inputs))

    def attention_bias(self, asked: Queried) -> Tensor | None:
        """Return the additive bias [B or 1, 1, q, K], or None; here it hides padded keys."""
        dtype = self.network.vocab_embed.embedding.dtype
        return key_bias(asked.keys, dtype, asked.ids.shape[1])

    def sigma(self, input_ids: Tensor, t: Tensor | None) -> Tensor:
        """Return the total noise [B] of times t [B]; 0 if the network is not conditioned on it."""
        if t is None or not self.time_conditioned:
            return torch.zeros(len(input_ids), device=input_ids.device)
        return self.noise(t)
