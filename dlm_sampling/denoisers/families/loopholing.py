"""Add loopholing to a network: a latent state passes from one forward pass to the next.

    e = E(x_t) + LN(h),   h' = f(e, t),   logits = g(h'),   h = 0 before the first pass

h' [B, L, d] is the input of the output head at every position, written or not; it is a function of
the canvases of all earlier steps and takes no part in the drawing.  Training runs the network twice
on one canvas: h' of a first pass without state and without gradient is the h of the second, on
which the loss is taken (`examples/train_loopholing.py`).

Jo et al. 2025, Loopholing Discrete Diffusion: Deterministic Bypass of the Sampling Wall,
arXiv:2510.19304.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, singledispatch
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointError,
    open_tensors,
    read_json,
)
from dlm_sampling.denoisers.checkpoints.config_keys import ConfigKeys
from dlm_sampling.denoisers.checkpoints.placement import parse_dtype
from dlm_sampling.denoisers.checkpoints.value_kinds import POSITIVE
from dlm_sampling.denoisers.checkpoints.weights import cast_floats, save_defaults, write_json
from dlm_sampling.denoisers.columns import at_columns, positions_of, refuse_cache
from dlm_sampling.denoisers.families.duo import DuoDenoiser
from dlm_sampling.denoisers.families.llada import LLaDADenoiser
from dlm_sampling.denoisers.families.masked_lm import MaskedLMDenoiser
from dlm_sampling.denoisers.families.mdlm import MDLMDenoiser
from dlm_sampling.denoisers.networks.transformers_blocks import key_bias
from dlm_sampling.denoisers.registry import Family, LoadOptions, family_of, register
from dlm_sampling.errors import named
from dlm_sampling.types import DenoiserOutput, Pass

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

KEY = "loopholing"
"""Key of config.json that makes a checkpoint of a base family one of this family."""

WEIGHTS, SCALE = "loopholing.safetensors", "norm.weight"
"""File and tensor name of the norm's scale; the other files are the base family's."""


class Seam(NamedTuple):
    """Split a network behind its token embeddings."""

    embed: nn.Module  # int64 [B, L] -> [B, L, d]
    width: int  # d of the hidden states
    run: Callable[[Tensor, Pass], DenoiserOutput]
    """Embeddings, pass -> output of all columns; its carry is the input of the head (NFE 1)."""


class LoopholingNetwork(nn.ModuleDict):
    """Hold the base `network` and the `norm`, and run both in one call."""

    def forward(self, seam: Seam, inputs: Pass) -> DenoiserOutput:
        """Run the network from E(x) + LN(h)."""
        embeds = seam.embed(inputs.tokens)
        if inputs.carry is not None:
            if inputs.carry.shape != embeds.shape:
                raise ValueError(
                    f"carry has shape {tuple(inputs.carry.shape)}: must be {tuple(embeds.shape)}; "
                    "pass the carry of the last output for the same rows, or "
                    "initial_carry(input_ids)."
                )
            embeds = embeds + self["norm"](inputs.carry.to(embeds))
        return seam.run(embeds, inputs)


class LoopholingDenoiser(Denoiser):
    """Run a network of another family with a carried latent state; its facts are the network's.

    The norm has a scale and no shift, so that LN(0) = 0 and a row without a state gets the logits
    of the base network.  With the scale at 0, where a new one starts, that holds in every step.
    The carry is h, [B, L, d] in the type of the weights; at padding it is arbitrary.

    Args:
        base: a masked language model, LLaDA, MDLM or Duo denoiser; its network is shared, not
            copied.
        scale: start value of the norm's scale.
        eps: added to the variance in the norm.

    Raises:
        TypeError: no pass from embeddings is known for the family of `base`.
        ValueError: its embeddings are not as wide as its hidden states, or it does not honour
            padding, so that rows of a batch have states of different lengths.
    """

    family = "loopholing"
    carries = True
    carry_has_columns = True

    def __init__(self, base: Denoiser, *, scale: float = 0.0, eps: float = 1e-5) -> None:
        """Add the norm to the network of `base`; see the class."""
        seam, network = seam_of(base), base.module
        assert network is not None
        table, width = next(seam.embed.parameters()), seam.width
        if table.shape[1] != width:
            raise ValueError(
                f"base has embeddings of width {table.shape[1]} and hidden states of {width}: must "
                "be equal, as the states are added to the embeddings."
            )
        if not base.honours_padding:
            raise ValueError(
                f"base is {named(base)} that does not honour padding: must do so; take "
                "a model with position ids."
            )
        norm = nn.LayerNorm(width, eps=eps, bias=False, device=table.device, dtype=table.dtype)
        nn.init.constant_(norm.weight, scale)
        super().__init__(
            vocab_size=base.vocab_size,
            mask_token_id=base.mask_token_id,
            eos_token_id=base.eos_token_id,
            pad_token_id=base.pad_token_id,
            max_length=base.max_length,
            time_conditioned=base.time_conditioned,
            kind=base.kind,
            process=base.process,
            schedule=base.schedule,
            suppressed=base.suppressed,
            tokenizer=partial(tokenizer_of, base),
            module=LoopholingNetwork({"network": network, "norm": norm}),
        )
        self.base, self.norm = base, norm
        self.lazy_head = base.lazy_head
        self.generation_defaults = dict(base.generation_defaults)

    def initial_carry(self, input_ids: Tensor) -> Tensor:
        """Make the state of rows before their first pass: zeros [B, L, d]."""
        weight = self.norm.weight
        return weight.new_zeros(*input_ids.shape, len(weight))

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Run the network from E(x) + LN(h); a carry of None is that of fresh rows.

        Values are those of the columns asked for; the carry is of all columns.

        Raises:
            ValueError: the carry is not [B, L, d].
        """
        refuse_cache(inputs)
        out = self.call_module(seam_of(self.base), inputs)
        values = at_columns(out.values, inputs.columns)
        return DenoiserOutput(values, out.head, out.carry, inputs.columns)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        max_shard_size: int | str = "5GB",
    ) -> None:
        """Write the base family's files, the norm's scale, and the key in config.json.

        Args:
            folder: created if needed.
            dtype: type of the written weights, as the base family takes it.
            max_shard_size: size of a file in bytes, or such as "2GB"; larger models are split.
        """
        target = Path(folder)
        self.base.save_pretrained(target, dtype=dtype, max_shard_size=max_shard_size)
        save_defaults(self.generation_defaults, target)
        config = read_json(target / "config.json", str(folder))
        write_json(target / "config.json", {**config, KEY: {"layer_norm_eps": self.norm.eps}})
        weight = cast_floats(self.norm.weight.detach(), parse_dtype(dtype)).cpu()
        writer: Any = import_module("safetensors.torch")
        writer.save_file({SCALE: weight}, target / WEIGHTS, metadata={"format": "pt"})
        (target / WEIGHTS).chmod(0o644)  # written as 600, which would hide it from other users


def tokenizer_of(base: Denoiser) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of the base, loaded when first asked for."""
    return base.tokenizer


@singledispatch
def seam_of(base: Denoiser) -> Seam:
    """Split the network of a denoiser behind its embeddings; a family registers its own way."""
    raise TypeError(
        f"base is {named(base)}: must be a MaskedLMDenoiser, LLaDADenoiser, "
        "MDLMDenoiser or DuoDenoiser."
    )


@seam_of.register
def _(base: MaskedLMDenoiser) -> Seam:
    model = base.model

    def run(embeds: Tensor, inputs: Pass) -> DenoiserOutput:
        given: dict[str, Any] = {}
        if inputs.attention is not None:
            given["attention_mask"] = inputs.attention.long()
        places = positions_of(inputs.attention, embeds) + base.offset
        kept: list[Tensor] = []  # `hidden_states` of transformers 4 may lack the final norm

        def keep(module: nn.Module, arguments: object, output: Any) -> None:
            kept.append(output[0])

        hook = model.base_model.register_forward_hook(keep)
        try:
            out = model(inputs_embeds=embeds, position_ids=places.expand(embeds.shape[:2]), **given)
        finally:
            hook.remove()
        return DenoiserOutput(out.logits, carry=kept[0])

    return Seam(model.get_input_embeddings(), model.config.hidden_size, run)


@seam_of.register
def _(base: LLaDADenoiser) -> Seam:
    stack, head = base.model.model, base.model.lm_head

    def run(embeds: Tensor, inputs: Pass) -> DenoiserOutput:
        bias = key_bias(inputs.attention, embeds.dtype)
        hidden = base.model(
            input_ids=embeds,
            position_ids=positions_of(inputs.attention, embeds),
            attention_mask=bias,
            full_attention=True,
        )
        return DenoiserOutput(hidden, head, carry=hidden)

    return Seam(stack.embed_tokens, base.model.config.hidden_size, run)


@seam_of.register(MDLMDenoiser)
@seam_of.register(DuoDenoiser)
def _(base: MDLMDenoiser | DuoDenoiser) -> Seam:
    network = base.network

    def run(embeds: Tensor, inputs: Pass) -> DenoiserOutput:
        bias, sigma = key_bias(inputs.attention, embeds.dtype), base.sigma(inputs.tokens, inputs.t)
        hidden = network(embeds, sigma, positions_of(inputs.attention, embeds), bias)
        return DenoiserOutput(hidden, network.output_layer.linear, carry=hidden)

    return Seam(network.vocab_embed, network.config.hidden_size, run)


def load(checkpoint: Checkpoint, options: LoadOptions) -> LoopholingDenoiser:
    """Build the base family's denoiser, then add the norm.

    Raises:
        CheckpointError: the base family is unknown, or the scale is missing or of another width.
    """
    facts = {key: value for key, value in checkpoint.config.items() if key != KEY}
    family = family_of(facts)
    if family is None:
        raise CheckpointError(
            f"{checkpoint.name!r} has a latent state on a network of an unknown family: "
            f"model_type is {facts.get('model_type')!r}."
        )
    base = family.load(Checkpoint(checkpoint.name, checkpoint.folder, facts), options)
    denoiser = LoopholingDenoiser(base, eps=checkpoint.config[KEY].get("layer_norm_eps", 1e-5))
    scale = denoiser.norm.weight
    file = checkpoint.folder / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{checkpoint.name!r} has no {WEIGHTS}: download it again.")
    with open_tensors(file) as tensors:
        names = list(tensors.keys())
        stored: Tensor = tensors.get_tensor(names[0])
    if names != [SCALE] or stored.shape != scale.shape:
        raise CheckpointError(
            f"{checkpoint.name!r}: {WEIGHTS} holds {', '.join(names)} {tuple(stored.shape)}, not "
            f"{SCALE} {tuple(scale.shape)}: it belongs to another network."
        )
    scale.data.copy_(stored)
    return denoiser


def matches(config: Mapping[str, Any]) -> bool:
    """Match a config of another family with this family's key."""
    return KEY in config


def keys_of(config: Mapping[str, Any]) -> ConfigKeys | None:
    """Name the keys of the base family, and this family's own; None if the base is unknown."""
    facts = {key: value for key, value in config.items() if key != KEY}
    family = family_of(facts)
    base = None if family is None else family.keys_for(facts)
    if base is None:
        return None
    return replace(base, read={**base.read, f"{KEY}.layer_norm_eps": POSITIVE})


register(Family("loopholing", matches, load, precedence=1, keys=keys_of))
