"""Load and run DiffusionGemma: causal prompt encoder, bidirectional decoder, uniform noise.

Released in transformers 5.23 as `DiffusionGemmaForBlockDiffusion`, whose modules are used as they
are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Unpack

import torch
from torch import Tensor

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.checkpoints.config_keys import ConfigKeys, check_generation_ids
from dlm_sampling.denoisers.checkpoints.settings import listed_ids, number, setting
from dlm_sampling.denoisers.checkpoints.tokenizers import (
    TextFacts,
    tokenizer_source,
    with_special_ids,
)
from dlm_sampling.denoisers.checkpoints.transformers_format import TransformersDenoiser, load_model
from dlm_sampling.denoisers.checkpoints.transformers_keys import transformers_keys
from dlm_sampling.denoisers.columns import at_columns, column_cache
from dlm_sampling.denoisers.quantised_files import READABLE
from dlm_sampling.denoisers.registry import Family, LoadOptions, register
from dlm_sampling.types import ColumnCache, DenoiserOutput, Pass

FIXED: dict[str, Any] = {"is_causal": True}
"""Keys and values of the prompt are kept, so that it may not see what comes after it."""

EXPERTS = tuple(
    f"text_config.{key}" for key in ("moe_intermediate_size", "num_experts", "top_k_experts")
)
"""Keys that the config class lets be absent, and the model does not."""


class DiffusionGemmaDenoiser(TransformersDenoiser):
    """Run a DiffusionGemma network: the last `canvas_length` columns are canvas, the rest prompt.

    The prompt is encoded causally; the canvas sees it and all of itself.  The kind is "posterior",
    as the released sampler reads it: it draws clean tokens from the logits.  The carry is the
    canvas logits [B, canvas_length, V], which the network is given back in the next step
    (self-conditioning) at the temperature of the draw, and whether a row has any, bool [B]: logits
    of 0 are no substitute, since the network would see the mean of all embeddings where the first
    step sees none.  Rows of different padding are run separately, since the canvas is found by its
    column; a row that is padded on the left gives the logits of the row alone all the same.  The
    sampler of `generate` is the released one, with the values of the model's generation config.

    Args:
        model: transformers' `DiffusionGemmaForBlockDiffusion`; never modified.
        text: tokenizer, eos_token_id, pad_token_id; see `TextFacts`.
    """

    family = "diffusion_gemma"
    carries = True
    cacheable = True
    defaults_of_model = True

    def __init__(self, model: Any, **text: Unpack[TextFacts]) -> None:
        """Wrap the model; see the class."""
        config = model.config.text_config
        super().__init__(
            vocab_size=config.vocab_size,
            mask_token_id=None,
            max_length=config.max_position_embeddings,
            honours_padding=False,
            module=model.eval(),
            **with_special_ids(text, config),
        )
        self.model = model
        self.canvas_length = int(model.config.canvas_length)
        generation = setting(model, "generation_config", object)
        self.generation_defaults = {
            "sampler": "diffusion-gemma",
            "sampler_options": sampler_options(generation),
        }
        ends = listed_ids(generation, "eos_token_id")
        self.further_eos_ids = tuple(i for i in ends if i != self.eos_token_id)

    def initial_carry(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Make the state of rows without logits; the zeros in their place take no memory."""
        rows, columns = len(input_ids), int(self.model.config.canvas_length)
        nothing = torch.zeros((), dtype=self.dtype, device=self.device)
        return (
            nothing.expand(rows, columns, self.vocab_size),
            torch.zeros(rows, dtype=torch.bool, device=self.device),
        )

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return logits [B, canvas_length, V] of the canvas columns, and the carry.

        Nothing predicts the prompt's columns, so these are all the values there are, whichever
        columns are asked for.

        Raises:
            ValueError: there is no prompt before the canvas.
        """
        if inputs.cache is not None:
            return self._after_encoded(inputs, column_cache(inputs.cache))
        input_ids, attention_mask = inputs.tokens, inputs.attention
        rows, length = input_ids.shape
        canvas = int(self.model.config.canvas_length)
        start = length - canvas
        _check_prompt(start, length, canvas)
        masks: dict[str, Tensor] = {}
        if attention_mask is not None:
            whole = attention_mask.long()
            masks = {"attention_mask": whole[:, :start], "decoder_attention_mask": whole}
        before, given = _conditioning(inputs.carry)
        logits: Tensor = self.call_module(
            input_ids=input_ids[:, :start],
            decoder_input_ids=input_ids[:, start:],
            self_conditioning_logits=before,
            self_conditioning_mask=given,
            **masks,
        ).logits
        present = torch.ones(rows, dtype=torch.bool, device=logits.device)
        columns = torch.arange(start, length, device=logits.device).expand(rows, -1)
        return DenoiserOutput(logits, carry=(logits, present), columns=columns)

    def _after_encoded(self, inputs: Pass, cache: ColumnCache) -> DenoiserOutput:
        """Encode the columns of the query left of the canvas, and run the canvas behind all stored.

        The rows of such a pass have the same columns, without padding between them.

        Raises:
            ValueError: there is no prompt before the canvas.
        """
        from transformers.cache_utils import DynamicCache

        canvas, stop = int(self.model.config.canvas_length), cache.keys.shape[1]
        start, new = stop - canvas, cache.query.shape[1] - canvas
        first = int(cache.keys[0].long().argmax())
        _check_prompt(start - first, stop - first, canvas)
        encoded: Any = DynamicCache(config=self.model.config.text_config)
        held = slice(first, start - new)
        if held.start < held.stop:
            for layer in range(len(cache.layers)):
                encoded.update(*cache.read(layer, held), layer)
        before, given = _conditioning(inputs.carry)
        logits: Tensor = self.call_module(
            input_ids=inputs.tokens[:, start - new : start] if new else None,
            past_key_values=encoded,
            decoder_input_ids=inputs.tokens[:, start:stop],
            self_conditioning_logits=before,
            self_conditioning_mask=given,
        ).logits
        if new:
            for number, layer in enumerate(encoded.layers):
                # A layer with a sliding window keeps the columns that later ones can see.
                width = min(new, layer.keys.shape[2])
                columns = slice(start - width, start)
                cache.write(layer.keys[:, :, -width:], layer.values[:, :, -width:], number, columns)
        present = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        columns = inputs.columns
        assert columns is not None
        place = (columns - start).clamp(0, canvas - 1)
        own = torch.arange(canvas, device=place.device).expand(len(place), -1)
        values = logits if torch.equal(place, own) else at_columns(logits, place)
        return DenoiserOutput(values, carry=(logits, present), columns=columns)

    def temper(self, carry: tuple[Tensor, Tensor], temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Divide the canvas logits by temperature, float64 [B] > 0."""
        logits, given = carry
        return logits / temperature.to(logits.dtype).view(-1, 1, 1), given


def _check_prompt(prompt: int, length: int, canvas: int) -> None:
    if prompt < 1:
        raise ValueError(
            f"input_ids has {length} columns: must be at least one prompt token and a canvas "
            f"of {canvas}."
        )


def _conditioning(carry: tuple[Tensor, Tensor] | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the canvas logits of the step before and whether a row has any; None if no row has."""
    if carry is None or not bool(carry[1].any()):
        return None, None  # spares the product with the embedding table
    return carry


def sampler_options(generation: object) -> dict[str, float]:
    """Read the sampler's options, under our names, from a generation config of the model."""
    bound = setting(generation, "sampler_config", object)
    options: dict[str, float | None] = {
        "gamma": number(bound, "entropy_bound"),
        "t_max": number(generation, "t_max"),
        "t_min": number(generation, "t_min"),
        "stable_steps": setting(generation, "stability_threshold", int),
        "confidence": number(generation, "confidence_threshold"),
        "max_steps": setting(generation, "max_denoising_steps", int),
    }
    return {name: value for name, value in options.items() if value is not None}


def model_class() -> Any:
    """Import the model's class.

    Raises:
        CheckpointError: the installed transformers lacks it.
    """
    try:
        from transformers.models.diffusion_gemma.modeling_diffusion_gemma import (
            DiffusionGemmaForBlockDiffusion,
        )
    except ImportError as error:
        raise CheckpointError(
            "The checkpoint needs DiffusionGemmaForBlockDiffusion, which transformers "
            f"{version('transformers')} lacks: pip install 'transformers>=5.23,<6'."
        ) from error
    return DiffusionGemmaForBlockDiffusion


def load(checkpoint: Checkpoint, options: LoadOptions) -> DiffusionGemmaDenoiser:
    """Build the denoiser of a DiffusionGemma checkpoint.

    Raises:
        CheckpointError: the installed transformers lacks the model, tensors do not fit, or ids of
            the generation config are no tokens, or others than the config's.
    """
    columns = checkpoint.config["text_config"].get("vocab_size")
    check_generation_ids(checkpoint, columns, "text_config")
    return DiffusionGemmaDenoiser(
        load_model(model_class(), checkpoint, options),
        tokenizer=tokenizer_source(checkpoint.folder, options.tokenizer),
    )


def matches(config: Mapping[str, Any]) -> bool:
    """Match the model type of transformers."""
    return config.get("model_type") == "diffusion_gemma"


def keys_of(config: Mapping[str, Any]) -> ConfigKeys:
    """Name the keys that transformers' model reads of a config; the images' tower is not run."""
    keys = transformers_keys(
        model_class(), config, "text_config", fixed=FIXED, unused=("vision_config",)
    )
    return replace(
        keys,
        required=(*keys.required, *EXPERTS),
        never_null={*keys.never_null, "canvas_length"},
    )


register(Family("diffusion_gemma", matches, load, reads_quantised=READABLE, keys=keys_of))
