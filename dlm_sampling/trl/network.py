"""Give TRL a network that it takes: a model of transformers, or a shell of one around another."""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers.configuration_utils import PretrainedConfig
from transformers.generation.configuration_utils import GenerationConfig
from transformers.modeling_utils import PreTrainedModel

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.modes import CheckpointedNetwork
from dlm_sampling.denoisers.wrappers import unwrapped

_Model: Any = PreTrainedModel


class NetworkShell(_Model):
    """Hold a network of another kind where a trainer wants a model of transformers.

    It calls the network, and has what a trainer reads besides: config, mode, checkpointing.
    """

    supports_gradient_checkpointing = True
    config_class = PretrainedConfig
    base_model_prefix = "module"

    def __init__(self, network: nn.Module, vocab_size: int) -> None:
        config: Any = PretrainedConfig()
        config.vocab_size = vocab_size
        super().__init__(config)
        self.module = network
        self.generation_config = GenerationConfig()
        self.post_init()

    def forward(self, *args: Any, **given: Any) -> Any:
        """Call the network."""
        return self.module(*args, **given)

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights as they are."""

    def gradient_checkpointing_enable(self, *args: Any, **unused: Any) -> None:
        """Switch checkpointing on, if the network has it; it needs no arguments."""
        if isinstance(self.module, CheckpointedNetwork):
            self.module.gradient_checkpointing_enable()

    def gradient_checkpointing_disable(self) -> None:
        """Switch checkpointing off."""
        if isinstance(self.module, CheckpointedNetwork):
            self.module.gradient_checkpointing_disable()


def network_for_trainer(denoiser: Denoiser) -> Any:
    """Return the network of a denoiser as a model of transformers; the denoiser then calls that.

    Raises:
        TypeError: the denoiser has no network.
    """
    if denoiser.module is None:
        raise TypeError(f"denoiser ({denoiser.family}) has no network whose weights could train.")
    if not isinstance(unwrapped(denoiser.module), PreTrainedModel):
        denoiser.module = NetworkShell(denoiser.module, denoiser.vocab_size)
    network: Any = unwrapped(denoiser.module)
    if "generation_config" not in vars(
        network
    ):  # networks that transformers does not generate with
        network.generation_config = GenerationConfig()
    return denoiser.module


def tokenizer_for_trainer(tokenizer: Any) -> Any:
    """Return a tokenizer with a token to fill up lists of ids, which TRL needs.

    One without a padding token and an end-of-text (TRL then pads with that) is copied, and the copy
    pads with the mask: the loss never reads it.

    Raises:
        ValueError: it has no mask either.
    """
    if tokenizer.pad_token is not None or tokenizer.eos_token is not None:
        return tokenizer
    if tokenizer.mask_token is None:
        raise ValueError(
            "processing_class has no padding token: set its pad_token, such as to a token that no "
            "text has; TRL fills up lists of ids with it."
        )
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = tokenizer.mask_token
    return padded


@contextmanager
def calling(denoiser: Denoiser, module: nn.Module) -> Generator[None]:
    """Run the block with a denoiser that calls `module`, such as its network in a wrapper."""
    kept, denoiser.module = denoiser.module, module
    try:
        yield
    finally:
        denoiser.module = kept
