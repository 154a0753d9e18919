"""`generate`: from prompts to text with any denoiser and any sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.batches import run_batches
from dlm_sampling.engine.trajectory import StepCallback
from dlm_sampling.errors import check_arguments
from dlm_sampling.samplers import create, from_config
from dlm_sampling.samplers.contract import check_sampler
from dlm_sampling.text.completion import Eos, GenerateOutput, endings, eos_ids, finish
from dlm_sampling.text.prompts import Infill, Prompts, build_canvas, read_prompts
from dlm_sampling.text.streaming import Streamer
from dlm_sampling.types import Crossing, NoiseKind, Sampler, TokenLaw

DEFAULT_NEW_TOKENS = 128
FALLBACK_SAMPLERS: Mapping[NoiseKind, str] = {
    "absorbing": "llada",
    "uniform": "ancestral",
    "matrix": "ancestral",
}
_LAW_FIELDS = ("temperature", "top_k", "top_p", "min_p", "crossing")


def generate(
    denoiser: Denoiser,
    prompts: Prompts = None,
    *,
    sampler: str | Sampler[Any] | None = None,
    sampler_options: Mapping[str, Any] | None = None,
    max_new_tokens: int | None = None,
    steps: int | None = None,
    block_length: int | None = None,
    steps_per_block: int | None = None,
    align_blocks: bool = False,
    causal_blocks: bool = False,
    seed: int | Sequence[int] | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    crossing: Crossing | None = None,
    suppress_tokens: Sequence[int] = (),
    guidance_scale: float = 0.0,
    num_return_sequences: int = 1,
    infill: Infill | None = None,
    attention_mask: Tensor | None = None,
    eos: Eos = "auto",
    eos_token_id: int | Sequence[int] | None = None,
    batch_size: int | None = None,
    tokenizer: Any = None,
    streamer: Streamer | None = None,
    callback: StepCallback | None = None,
    progress: bool | None = None,
    return_trajectory: bool = False,
    every_step: bool = False,
    cuda_graph: bool = False,
    **unknown: Any,
) -> GenerateOutput:
    """Generate text (or fill masks) with a diffusion language model.

    Args:
        denoiser: the model, from `AutoDenoiser.from_pretrained` or `wrap`.
        prompts: a string, chat messages, token ids, a list of any of these, a padded tensor of ids
            [B, L], or None for text without a prompt.  A string that contains mask tokens is filled
            in place.
        sampler: a name (`samplers.available()`), the path of a file that `dlm-sampling learn` wrote
            (it ends in ".json"), an instance, or None for the checkpoint's own default
            (`sampler_config.json`), else "llada", or "ancestral" without a mask.
        sampler_options: parameters of a sampler given by name, such as {"eta": 0.02}.
        max_new_tokens: positions appended to each prompt; default 128 within the context, 0 for
            rows that are filled in place; whole canvases for a network that writes nothing else.
        steps: planned steps over the whole row; default one per position, or for a sampler with a
            number of its own (learned ones, DiffusionGemma's) that many in every block.
        block_length: write blocks of this many positions from left to right; default one block, or
            the aligned blocks of a model with block-causal attention.
        steps_per_block: steps of every block, whatever its size; replaces `steps`.
        align_blocks: block boundaries at multiples of block_length from the row's first token, as
            block-causal models (SDAR, LLaDA2, BD3-LM) need.
        causal_blocks: hide everything right of the current block from the model.
        seed: one int, or one per row; default fresh entropy.  The row seeds are in the output.
        temperature: 1 is the model's law, 0 argmax; this and the next four replace the sampler's
            own default (see `TokenLaw`).
        top_k: keep this many tokens.
        top_p: keep the nucleus of this mass.
        min_p: keep tokens with at least this fraction of the largest probability.
        crossing: whether the token that crosses top_p is kept ("include") or dropped ("exclude").
        suppress_tokens: ids that are never written.
        guidance_scale: w of classifier-free guidance, u + (w + 1) (c - u); a guided pass counts 2
            NFE.
        num_return_sequences: rows per prompt.
        infill: True fills every mask id of the prompts; a bool mask (tensor or lists) fills just
            those positions; False fills none; None decides by the text.
        attention_mask: for a tensor of prompts, False (0) at padding, on either side.
        eos: "keep" what follows an end-of-text; "cut" it afterwards; "stop" a row as soon as
            everything left of its end-of-text is known; "auto" stops rows with a prompt and keeps
            the others.
        eos_token_id: end-of-text ids; default all of the denoiser's.
        batch_size: rows that run together; default all.
        tokenizer: overrides the denoiser's.
        streamer: a transformers streamer, also a draft-aware one; a batch is spoken row after row.
        callback: called with a `StepEvent` after every step.
        progress: show a progress bar; default only on a terminal and for long work.
        return_trajectory: keep every step.
        every_step: no early exit and no skipped forward, the accounting of the released loops.
        cuda_graph: on a GPU, record one step of each batch as a CUDA graph and replay it; see
            `sample`.
        unknown: refused; the error names the closest valid argument.

    Returns:
        A `GenerateOutput`.

    Raises:
        ValueError, TypeError: an argument is out of range, unknown, or does not fit the model; the
            message names it and what to try.
    """
    check_arguments(unknown, generate.__kwdefaults__ or ())
    chosen, defaults = _choose_sampler(denoiser, sampler, sampler_options)
    values = (temperature, top_k, top_p, min_p, crossing)
    given: dict[str, Any] = dict(zip(_LAW_FIELDS, values, strict=True))
    law = _token_law(chosen, defaults, given, suppress_tokens)
    tokenizer = tokenizer if tokenizer is not None else denoiser.tokenizer
    if num_return_sequences < 1:
        raise ValueError(f"num_return_sequences={num_return_sequences}: must be at least 1.")
    rows = read_prompts(prompts, denoiser, tokenizer, infill, attention_mask)
    rows = [row for row in rows for _ in range(num_return_sequences)]
    new = [_new_tokens(max_new_tokens, row.infill, len(row.ids), denoiser) for row in rows]
    batch = build_canvas(rows, new, denoiser)
    seeds = ops.row_seeds(ops.fresh_seed() if seed is None else seed, len(rows))
    ending = endings(eos, batch, [len(row.ids) for row in rows])
    stop_ids = eos_ids(eos_token_id, denoiser)
    if block_length is None:
        block_length = defaults.get("block_length", denoiser.block_length)
        align_blocks = align_blocks or denoiser.block_length is not None
    output = run_batches(
        denoiser,
        chosen,
        batch,
        seeds,
        ending,
        stop_ids,
        len(rows) if batch_size is None else batch_size,
        streamer,
        callback,
        progress,
        steps=steps,
        block_length=block_length,
        steps_per_block=steps_per_block,
        align_blocks=align_blocks,
        causal_blocks=causal_blocks,
        law=law,
        guidance_scale=guidance_scale,
        every_step=every_step,
        cuda_graph=cuda_graph,
        return_trajectory=return_trajectory,
    )
    return finish(
        output, batch, [len(row.ids) for row in rows], seeds, ending, stop_ids, tokenizer, denoiser
    )


def default_sampler(denoiser: Denoiser) -> str:
    """Name of the sampler that `generate` takes for a denoiser where none is asked for."""
    own = denoiser.generation_defaults.get("sampler")
    return FALLBACK_SAMPLERS[denoiser.process.name] if own is None else str(own)


def _choose_sampler(
    denoiser: Denoiser, sampler: str | Sampler[Any] | None, options: Mapping[str, Any] | None
) -> tuple[Sampler[Any], Mapping[str, Any]]:
    """The sampler, and the checkpoint's defaults if the caller left the choice to it."""
    if sampler is None and denoiser.generation_defaults:
        config = from_config(denoiser.generation_defaults)
        return create(
            config.sampler, **{**config.sampler_options, **(options or {})}
        ), config.to_dict()
    if sampler is None:
        sampler = default_sampler(denoiser)
    if isinstance(sampler, str):
        return create(sampler, **(options or {})), {}
    if options:
        raise ValueError(
            "sampler_options: go with a sampler given by name; an instance carries its own fields."
        )
    check_sampler(sampler)
    return sampler, {}


def _token_law(
    sampler: Sampler[Any],
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    suppress: Sequence[int],
) -> TokenLaw:
    """The sampler's law, then the checkpoint's defaults, then what the caller gave."""
    base = sampler.law
    fields = {name: getattr(base, name) for name in _LAW_FIELDS}
    fields.update({name: defaults[name] for name in _LAW_FIELDS if name in defaults})
    fields.update({name: value for name, value in given.items() if value is not None})
    return TokenLaw(**fields, suppressed=(*base.suppressed, *suppress))


def _new_tokens(asked: int | None, infill: bool, prompt: int, denoiser: Denoiser) -> int:
    """Positions to append to a row, whole canvases where the network writes no others."""
    context, canvas = denoiser.max_length, denoiser.canvas_length or 1
    if asked is not None and asked < 0:
        raise ValueError(f"max_new_tokens={asked}: must be at least 0.")
    if asked is None and infill:
        return 0
    if asked is None:
        asked = DEFAULT_NEW_TOKENS
        asked = asked if context is None else max(1, min(asked, context - prompt))
    return -(-asked // canvas) * canvas
