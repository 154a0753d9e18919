"""Load and run MDLM: the diffusion transformer with masks.

Sahoo et al. 2024, Simple and Effective Masked Diffusion Language Models, arXiv:2406.07524, released
code github.com/kuleshov-group/mdlm.  The substitution parameterisation (mask column removed, known
tokens kept) is the loop's; here the raw logits come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.dit_checkpoint import (
    GPT2_SIZE,
    PREFIX,
    dit_keys,
    gpt2_tokenizer,
    hub_config,
    load_dit,
    read_sizes,
)
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts
from dlm_sampling.denoisers.checkpoints.value_kinds import FLAG
from dlm_sampling.denoisers.networks.dit import Dit
from dlm_sampling.denoisers.networks.dit_denoiser import DitDenoiser
from dlm_sampling.denoisers.registry import Family, LoadOptions, register
from dlm_sampling.schedules import LOG_LINEAR


class MDLMDenoiser(DitDenoiser):
    """Run an MDLM network: logits in place, padding masked, positions from the first real token.

    Args:
        network: the diffusion transformer.
        mask_token_id: the mask id, by default the last column.
        max_length: length it was trained at.
        time_conditioned: whether the network sees the noise level; otherwise it always sees 0.
        text: tokenizer, eos_token_id, pad_token_id; see `DitDenoiser`.
    """

    family = "mdlm"

    def __init__(
        self,
        network: Dit,
        *,
        mask_token_id: int | None = None,
        max_length: int | None = None,
        time_conditioned: bool = False,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the network; see the class."""
        last = network.config.vocab_size - 1
        super().__init__(
            network,
            mask_token_id=last if mask_token_id is None else mask_token_id,
            max_length=max_length,
            time_conditioned=time_conditioned,
            schedule=LOG_LINEAR,
            **text,
        )

    def authors_config(self) -> dict[str, Any]:
        """Write the flat config of the hub, under the authors' keys."""
        return {
            **hub_config(self.network, self.max_length),
            "architectures": ["MDLM"],
            "model_type": "mdlm",
            "time_conditioning": self.time_conditioned,
            "mask_token_id": self.mask_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }

    @staticmethod
    def authors_name(key: str) -> str:
        """Put `backbone.` before a tensor's name, as in the authors' files."""
        return PREFIX + key


def load(checkpoint: Checkpoint, options: LoadOptions) -> MDLMDenoiser:
    """Build the denoiser of an MDLM checkpoint."""
    vocab_size = checkpoint.config.get("vocab_size", GPT2_SIZE + 1)
    sizes, length = read_sizes(checkpoint, vocab_size)
    mask_token_id = options.mask_id(checkpoint, vocab_size - 1, vocab_size)
    network = load_dit(sizes, checkpoint, options)
    return MDLMDenoiser(
        network,
        mask_token_id=mask_token_id,
        max_length=length,
        time_conditioned=bool(checkpoint.config.get("time_conditioning", False)),
        **options.text(checkpoint, gpt2_tokenizer(vocab_size, mask_token_id)),
    )


def matches(config: Mapping[str, Any]) -> bool:
    """Match the flat hub config, or the nested training config with parameterisation `subs`."""
    nested = config.get("backbone") == "dit" and config.get("parameterization") == "subs"
    return config.get("model_type") == "mdlm" or nested


KEYS = dit_keys(
    read={"time_conditioning": FLAG},
    fixed={
        "backbone": "dit",
        "diffusion": "absorbing_state",
        "noise.type": "loglinear",
        "parameterization": "subs",
    },
    harmless={"noise.sigma_max", "noise.sigma_min", "subs_masking"},
)

register(Family("mdlm", matches, load, keys=KEYS))
