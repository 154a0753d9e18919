"""DiffusionGemma: a causal prompt encoder and a bidirectional canvas decoder, uniform noise.

Released in transformers 5.23 as `DiffusionGemmaForBlockDiffusion`, whose modules are used as they
are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import refuse_cache
from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.checkpoints.tokenizers import (
    TokenizerSource,
    special_id,
    tokenizer_source,
)
from dlm_sampling.denoisers.checkpoints.transformers_format import TransformersDenoiser, load_model
from dlm_sampling.denoisers.registry import Family, LoadOptions, register
from dlm_sampling.types import DenoiserOutput, Pass

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLASS = "DiffusionGemmaForBlockDiffusion"


class DiffusionGemmaDenoiser(TransformersDenoiser):
    """A DiffusionGemma network: the last `canvas_length` columns are the canvas, the rest prompt.

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
        tokenizer: the tokenizer, or a function that loads it.
        eos_token_id: default: the tokenizer's if one is given, else the model config's.
        pad_token_id: as `eos_token_id`.
    """

    family = "diffusion_gemma"
    carries = True

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: PreTrainedTokenizerBase | TokenizerSource | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
    ) -> None:
        """Wrap the model; see the class."""
        text = model.config.text_config
        super().__init__(
            vocab_size=text.vocab_size,
            mask_token_id=None,
            eos_token_id=special_id("eos_token_id", eos_token_id, tokenizer, text),
            pad_token_id=special_id("pad_token_id", pad_token_id, tokenizer, text),
            max_length=text.max_position_embeddings,
            honours_padding=False,
            tokenizer=tokenizer,
            module=model.eval(),
        )
        self.model = model
        self.canvas_length = int(model.config.canvas_length)
        config: Any = getattr(model, "generation_config", None)
        self.generation_defaults = {
            "sampler": "diffusion-gemma",
            "sampler_options": sampler_options(config),
        }
        listed: Any = getattr(config, "eos_token_id", None)
        ids: list[int] = list(listed) if isinstance(listed, list | tuple) else []  # pyright: ignore[reportUnknownArgumentType]
        self.further_eos_ids = tuple(i for i in ids if i != self.eos_token_id)

    def initial_carry(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """No logits for any row; the zeros in their place take no memory."""
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
        refuse_cache(inputs)
        input_ids, attention_mask = inputs.tokens, inputs.attention
        rows, length = input_ids.shape
        canvas = int(self.model.config.canvas_length)
        start = length - canvas
        if start < 1:
            raise ValueError(
                f"input_ids has {length} columns: must be at least one prompt token and a canvas "
                f"of {canvas}."
            )
        masks: dict[str, Tensor] = {}
        if attention_mask is not None:
            whole = attention_mask.long()
            masks = {"attention_mask": whole[:, :start], "decoder_attention_mask": whole}
        before, given = inputs.carry if inputs.carry is not None else (None, None)
        if given is not None and not bool(given.any()):
            before, given = None, None  # spares the product with the embedding table
        logits: Tensor = self.model(
            input_ids=input_ids[:, :start],
            decoder_input_ids=input_ids[:, start:],
            self_conditioning_logits=before,
            self_conditioning_mask=given,
            **masks,
        ).logits
        present = torch.ones(rows, dtype=torch.bool, device=logits.device)
        columns = torch.arange(start, length, device=logits.device).expand(rows, -1)
        return DenoiserOutput(logits, carry=(logits, present), columns=columns)

    def temper(self, carry: tuple[Tensor, Tensor], temperature: Tensor) -> tuple[Tensor, Tensor]:
        """The canvas logits divided by temperature, float64 [B] > 0."""
        logits, given = carry
        return logits / temperature.to(logits.dtype).view(-1, 1, 1), given


def sampler_options(config: Any) -> dict[str, Any]:
    """What a generation config of the model sets of its sampler, under our names."""
    bound: Any = getattr(config, "sampler_config", None)
    options: dict[str, Any] = {
        "gamma": getattr(bound, "entropy_bound", None),
        "t_max": getattr(config, "t_max", None),
        "t_min": getattr(config, "t_min", None),
        "stable_steps": getattr(config, "stability_threshold", None),
        "confidence": getattr(config, "confidence_threshold", None),
        "max_steps": getattr(config, "max_denoising_steps", None),
    }
    return {name: value for name, value in options.items() if value is not None}


def load(checkpoint: Checkpoint, options: LoadOptions) -> DiffusionGemmaDenoiser:
    """Build the denoiser of a DiffusionGemma checkpoint.

    Raises:
        CheckpointError: the installed transformers lacks the model, or tensors do not fit.
    """
    import transformers

    loader: Any = getattr(transformers, CLASS, None)
    if loader is None:
        raise CheckpointError(
            f"{checkpoint.name!r} needs {CLASS}, which transformers {transformers.__version__} "
            "lacks: pip install 'transformers>=5.23,<6'."
        )
    model, report = load_model(loader, checkpoint, options)
    if absent := sorted(str(key) for key in report["missing_keys"]):
        raise CheckpointError(
            f"{checkpoint.name!r}: {len(absent)} tensors are missing, first {absent[0]}. "
            "The download is incomplete, or config.json describes another architecture."
        )
    return DiffusionGemmaDenoiser(
        model,
        tokenizer=tokenizer_source(checkpoint.folder, options.tokenizer),
    )


def matches(config: Mapping[str, Any]) -> bool:
    """The model type of transformers."""
    return config.get("model_type") == "diffusion_gemma"


register(Family("diffusion_gemma", matches, load))
