"""Load and run Duo: the diffusion transformer for uniform noise, without a mask token.

Sahoo et al. 2025, The Diffusion Duality, arXiv:2506.10892, released code github.com/s-sahoo/duo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.config_keys import reading_config, vocab_size_of
from dlm_sampling.denoisers.checkpoints.dit_checkpoint import (
    dit_keys,
    gpt2_tokenizer,
    load_dit,
    read_sizes,
    rows_of,
    training_config,
)
from dlm_sampling.denoisers.checkpoints.settings import is_mapping
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts
from dlm_sampling.denoisers.checkpoints.value_kinds import FLAG, one_of
from dlm_sampling.denoisers.networks.dit import Dit
from dlm_sampling.denoisers.networks.dit_denoiser import DitDenoiser
from dlm_sampling.denoisers.registry import Family, LoadOptions, register
from dlm_sampling.schedules import LOG_LINEAR

EMBEDDING, TIMED = "vocab_embed.embedding", "time_conditioning"


class DuoDenoiser(DitDenoiser):
    """Run a Duo network: logits in place, uniform noise over all columns, no mask.

    The logits are of kind "leave_one_out": Duo's ELBO plugs the network's law into
    q(x_s | x_t, x_0), whose optimum is P(x0_i | x_t without position i), not the posterior
    P(x0_i | x_t).  A sampler must not read them as the posterior.

    Args:
        network: the diffusion transformer.
        max_length: length it was trained at.
        time_conditioned: whether the network sees the noise level; otherwise it always sees 0.
        text: tokenizer, eos_token_id, pad_token_id; see `DitDenoiser`.
    """

    family = "duo"

    def __init__(
        self,
        network: Dit,
        *,
        max_length: int | None = None,
        time_conditioned: bool = True,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the network; see the class."""
        super().__init__(
            network,
            mask_token_id=None,
            max_length=max_length,
            time_conditioned=time_conditioned,
            kind="leave_one_out",
            schedule=LOG_LINEAR,
            **text,
        )

    def soft_logits(self, weights: Tensor, sigma: Tensor) -> Tensor:
        """Compute logits [B, L, V] of a canvas of mixtures (NFE 1), as in the Gaussian relaxation.

        Public toolbox: training passes such canvases; no sampler here does.

        Args:
            weights: [B, L, V], how much of each token's embedding a position gets; rows that sum to
                1 are laws over tokens.
            sigma: total noise of each row, [B].
        """
        positions = torch.arange(weights.shape[1], device=weights.device)[None]
        embeds = weights @ self.network.vocab_embed.embedding
        head = self.network.output_layer.linear
        return self.call_module(embeds, sigma, positions, None, head)

    def authors_config(self) -> dict[str, Any]:
        """Write the training config, under the authors' keys."""
        return {
            "algo": {
                "name": "duo",
                "backbone": "dit",
                "parameterization": "mean",
                "time_conditioning": self.time_conditioned,
            },
            "diffusion": "uniform_state",
            "model": training_config(self.network, self.max_length),
            "vocab_size": self.vocab_size,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }


def load(checkpoint: Checkpoint, options: LoadOptions) -> DuoDenoiser:
    """Build the denoiser of a Duo checkpoint; the number of columns is that of the embedding."""
    given, vocab_size = checkpoint.config, rows_of(checkpoint, EMBEDDING)
    sizes, length = read_sizes(checkpoint, vocab_size)
    inner: Mapping[str, Any] = given.get("algo", {})
    timed = {bool(each[TIMED]) for each in (given, inner) if TIMED in each}
    with reading_config(checkpoint):
        if given.get("vocab_size", vocab_size) != vocab_size:
            raise ValueError(f"vocab_size={given['vocab_size']} beside {vocab_size} embeddings")
        if len(timed) > 1:
            raise ValueError(f"{TIMED}={given[TIMED]} beside algo.{TIMED}={inner[TIMED]}")
    return DuoDenoiser(
        load_dit(sizes, checkpoint, options),
        max_length=length,
        time_conditioned=min(timed, default=True),
        **options.text(checkpoint, gpt2_tokenizer(vocab_size, None)),
    )


def matches(config: Mapping[str, Any]) -> bool:
    """Match the nested training config of the algorithm, or a hub config of its model type."""
    algorithm = config.get("algo")
    name = algorithm.get("name") if is_mapping(algorithm) else None
    return name in ("duo", "duo_base") or str(config.get("model_type")).lower() == "duo"


KEYS = dit_keys(
    read={
        "algo.name": one_of("duo", "duo_base"),
        "algo.time_conditioning": FLAG,
        "noise.type": one_of("loglinear", "log-linear"),
        "time_conditioning": FLAG,
    },
    fixed={
        "algo.backbone": "dit",
        "algo.causal_attention": False,
        "algo.parameterization": "mean",
        "diffusion": "uniform_state",
    },
    harmless={
        *("algo.T", "algo.ignore_bos", "algo.subs_masking", "noise.eps", "var_min"),
        *("algo.curriculum_end", "algo.curriculum_start", "algo.gamma_max", "algo.gamma_min"),
        *("algo.gumbel_tau_log10_end", "algo.gumbel_tau_log10_start", "algo.integral_cache_path"),
    },
    columns=vocab_size_of,
)

register(Family("duo", matches, load, keys=KEYS))
