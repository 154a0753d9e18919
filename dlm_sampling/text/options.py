"""Hold the arguments of `generate` as one value, and turn them into the request of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import BlockRequest, Request
from dlm_sampling.errors import check_real, check_whole, unknown_choice
from dlm_sampling.samplers import create, from_config
from dlm_sampling.samplers.contract import check_sampler
from dlm_sampling.text.completion import eos_ids
from dlm_sampling.text.prompts import (
    Eos,
    Infill,
    PromptRow,
    Prompts,
    TextRows,
    build_rows,
    check_length,
    read_prompts,
)
from dlm_sampling.types import Crossing, NoiseKind, Sampler, TokenLaw

DEFAULT_NEW_TOKENS = 128
FALLBACK_SAMPLERS: Mapping[NoiseKind, str] = {
    "absorbing": "llada",
    "uniform": "ancestral",
    "matrix": "ancestral",
}


@dataclass(frozen=True)
class LawOptions:
    """Hold changes to the sampler's token law, from a caller or a checkpoint; None is no change."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    crossing: Crossing | None = None

    def __post_init__(self) -> None:
        check_real("temperature", self.temperature, optional=True)
        check_whole("top_k", self.top_k, optional=True)
        check_real("top_p", self.top_p, optional=True)
        check_real("min_p", self.min_p, optional=True)
        if self.crossing not in (None, "include", "exclude"):
            raise unknown_choice("crossing", self.crossing, ("include", "exclude"))

    def over(self, law: TokenLaw) -> TokenLaw:
        """Return the law with these changes."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(law, **given)


@dataclass(frozen=True)
class GenerateOptions:
    """Hold the arguments of `generate` that decide the tokens; see there for their meaning."""

    sampler: str | Sampler[Any] | None = None
    sampler_options: Mapping[str, Any] | None = None
    max_new_tokens: int | None = None
    blocks: BlockRequest = field(default_factory=BlockRequest)
    seed: int | Sequence[int] | None = None
    law: LawOptions = field(default_factory=LawOptions)
    suppress_tokens: Sequence[int] = ()
    guidance_scale: float = 0.0
    num_return_sequences: int = 1
    infill: Infill | None = None
    attention_mask: Tensor | None = None
    eos: Eos = "auto"
    eos_token_id: int | Sequence[int] | None = None
    tokenizer: Any = None
    return_trajectory: bool = False
    every_step: bool = False
    cuda_graph: bool = False


@dataclass(frozen=True)
class Job:
    """Hold a call of `generate`, checked before the first forward pass.

    Fields:
        denoiser: the model.
        request: the settings of the run.
        prompts: the prompt of each row.
        new_tokens: positions to append to each row.
        seeds: one per row.
        eos: the treatment of an end-of-text; see `generate`.
        tokenizer: decodes the tokens, or None.
    """

    denoiser: Denoiser
    request: Request
    prompts: list[PromptRow]
    new_tokens: list[int]
    seeds: list[int]
    eos: Eos
    tokenizer: Any

    def rows(self, first: int = 0, last: int | None = None) -> TextRows:
        """Build the canvases of the rows `first` to `last` - 1, padded to one length."""
        part = slice(first, last)
        return build_rows(
            self.prompts[part], self.new_tokens[part], self.denoiser, self.seeds[part], self.eos
        )


def prepare(denoiser: Denoiser, prompts: Prompts, options: GenerateOptions) -> Job:
    """Check the arguments and read the prompts.

    Raises:
        ValueError, TypeError: an argument is out of range, or does not fit the model.
    """
    sampler, defaults = _choose_sampler(denoiser, options.sampler, options.sampler_options)
    law = _law_defaults(defaults).over(sampler.law)
    law = options.law.over(law)
    law = replace(law, suppressed=(*law.suppressed, *options.suppress_tokens))
    tokenizer = options.tokenizer if options.tokenizer is not None else denoiser.tokenizer
    count = options.num_return_sequences
    check_whole("num_return_sequences", count)
    check_whole("max_new_tokens", options.max_new_tokens, optional=True)
    if count < 1:
        raise ValueError(f"num_return_sequences={count}: must be at least 1.")
    if options.eos not in ("auto", "keep", "cut", "stop"):
        raise unknown_choice("eos", options.eos, ("auto", "keep", "cut", "stop"))
    found = read_prompts(prompts, denoiser, tokenizer, options.infill, options.attention_mask)
    rows = [row for row in found for _ in range(count)]
    new = [_new_tokens(options.max_new_tokens, row.infill, len(row.ids), denoiser) for row in rows]
    for i, row in enumerate(rows):
        check_length(i // count, len(row.ids), new[i], denoiser.max_length)
    seeds = ops.row_seeds(ops.fresh_seed() if options.seed is None else options.seed, len(rows))
    blocks = options.blocks
    if blocks.length is None:
        blocks = replace(
            blocks,
            length=defaults.get("block_length", denoiser.block_length),
            align=blocks.align or denoiser.block_length is not None,
        )
    request = Request(
        sampler,
        law,
        blocks,
        guidance_scale=options.guidance_scale,
        stop_token_ids=eos_ids(options.eos_token_id, denoiser),
        every_step=options.every_step,
        return_trajectory=options.return_trajectory,
        cuda_graph=options.cuda_graph,
    )
    return Job(denoiser, request, rows, new, seeds, options.eos, tokenizer)


def default_sampler(denoiser: Denoiser) -> str:
    """Return the name of the sampler that `generate` uses by default for a denoiser."""
    own = denoiser.generation_defaults.get("sampler")
    return FALLBACK_SAMPLERS[denoiser.process.name] if own is None else str(own)


def _choose_sampler(
    denoiser: Denoiser, sampler: str | Sampler[Any] | None, options: Mapping[str, Any] | None
) -> tuple[Sampler[Any], Mapping[str, Any]]:
    """Return the sampler, and the checkpoint's defaults if the caller named no sampler."""
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


def _law_defaults(defaults: Mapping[str, Any]) -> LawOptions:
    """Return the changes to the token law in a checkpoint's defaults."""
    return LawOptions(
        defaults.get("temperature"),
        defaults.get("top_k"),
        defaults.get("top_p"),
        defaults.get("min_p"),
        cast("Crossing | None", defaults.get("crossing")),
    )


def _new_tokens(asked: int | None, infill: bool, prompt: int, denoiser: Denoiser) -> int:
    """Return the positions to append to a row, rounded up to whole canvases if need be."""
    context, canvas = denoiser.max_length, denoiser.canvas_length or 1
    if asked is not None and asked < 0:
        raise ValueError(f"max_new_tokens={asked}: must be at least 0.")
    if asked is None and infill:
        return 0
    if asked is None:
        asked = DEFAULT_NEW_TOKENS
        asked = asked if context is None else max(1, min(asked, context - prompt))
    return -(-asked // canvas) * canvas
