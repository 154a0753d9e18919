"""Hold the arguments of `generate` as one value, and turn them into the request of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from dlm_sampling.caches import AnyPolicy
from dlm_sampling.constraints import Constraint, TokenAutomaton, as_constraint
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.caching import choose_cache, legal_caches
from dlm_sampling.engine.drafts import check_start, start_of
from dlm_sampling.engine.request import BlockRequest, Request
from dlm_sampling.engine.sample import plan_request
from dlm_sampling.errors import check_flag, check_mapping, check_real, check_whole, unknown_choice
from dlm_sampling.guidance.base import Guidance
from dlm_sampling.prediction.model import full_law
from dlm_sampling.samplers import create, from_config
from dlm_sampling.samplers.contract import check_sampler
from dlm_sampling.text.arguments import (
    Drafts,
    Ids,
    Stop,
    check_tokenizer,
    eos_ids,
    read_ids,
    read_seeds,
    read_stops,
)
from dlm_sampling.text.drafts import check_draft, read_drafts
from dlm_sampling.text.encoding import Encoder, check_template
from dlm_sampling.text.endings import Ends
from dlm_sampling.text.lengths import AutoLength, new_tokens
from dlm_sampling.text.prompts import Infill, Mask, Prompts, read_prompts
from dlm_sampling.text.rows import Eos, PromptRow, TextRows, build_rows, check_length, ending
from dlm_sampling.types import Crossing, LogitsProcessor, NoiseKind, Sampler, TokenLaw
from dlm_sampling.watermark import Watermark, as_watermark

T = TypeVar("T")

FALLBACK_SAMPLERS: Mapping[NoiseKind, str] = {
    "absorbing": "llada",
    "uniform": "ancestral",
    "matrix": "ancestral",
}


LAW_REALS = (
    *("temperature", "top_p", "min_p", "typical_p", "eta_cutoff", "top_n_sigma"),
    *("repetition_penalty", "presence_penalty"),
)
"""The numbers of a token law that a caller or a checkpoint may give."""


@dataclass(frozen=True)
class LawOptions:
    """Hold changes to the sampler's token law, from a caller or a checkpoint; None is no change."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    crossing: Crossing | None = None
    typical_p: float | None = None
    eta_cutoff: float | None = None
    top_n_sigma: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    logits_processor: LogitsProcessor | None = None

    def __post_init__(self) -> None:
        check_whole("top_k", self.top_k, optional=True)
        for name in LAW_REALS:
            check_real(name, vars(self)[name], optional=True)
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
    max_new_tokens: int | AutoLength | None = None
    blocks: BlockRequest = field(default_factory=BlockRequest)
    seed: Ids | None = None
    law: LawOptions = field(default_factory=LawOptions)
    suppress_tokens: Ids = ()
    guidance_scale: float = 0.0
    num_return_sequences: int = 1
    infill: Infill | None = None
    attention_mask: Mask | None = None
    add_special_tokens: bool | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    eos: Eos = "auto"
    eos_token_id: Ids | None = None
    stop: Stop | None = None
    tokenizer: Any = None
    return_trajectory: bool = False
    every_step: bool = False
    cuda_graph: bool = False
    cache: str | AnyPolicy = "auto"
    cache_audit: float | str | None = None
    start: Drafts | None = None
    t_start: float | None = None
    renoise: bool = True
    times: Sequence[float] | None = None
    constraint: str | Constraint | None = None
    guidance: Guidance | None = None
    max_nfe: int | None = None
    speculate: int = 1
    watermark: Watermark | int | None = None

    def __post_init__(self) -> None:
        check_whole("num_return_sequences", self.num_return_sequences)
        if not isinstance(self.max_new_tokens, AutoLength):
            try:
                check_whole("max_new_tokens", self.max_new_tokens, optional=True)
            except TypeError as error:
                raise TypeError(
                    f"{str(error)[:-1]}, or AutoLength() (dlm_sampling.text.lengths) for as many "
                    "as the model expects."
                ) from None
        elif self.max_nfe is not None:
            raise ValueError(
                f"max_nfe={self.max_nfe}: AutoLength takes as many passes as it needs before the "
                "run; give max_new_tokens as a number, or leave max_nfe out."
            )
        check_flag("add_special_tokens", self.add_special_tokens, optional=True)
        check_template(self.chat_template_kwargs)
        check_mapping("sampler_options", self.sampler_options, '{"eta": 0.02}')
        check_tokenizer(self.tokenizer)
        if self.num_return_sequences < 1:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences}: must be at least 1."
            )
        if self.eos not in ("auto", "keep", "cut", "stop", "fill"):
            raise unknown_choice("eos", self.eos, ("auto", "keep", "cut", "stop", "fill"))


@dataclass(frozen=True)
class Job:
    """Hold a call of `generate`, checked before the first forward pass.

    Fields:
        denoiser: the model.
        request: the settings of the run.
        prompts: the prompt of each row.
        new_tokens: positions to append to each row; with `auto` those to begin with.
        seeds: one per row.
        eos: the treatment of an end-of-text; see `generate`.
        tokenizer: decodes the tokens, or None.
        stop: the stop strings of each row.
        numbers: of the prompt of each row, for messages.
        auto: finds out how many positions each text gets, or None.
    """

    denoiser: Denoiser
    request: Request
    prompts: list[PromptRow]
    new_tokens: list[int]
    seeds: list[int]
    eos: Eos
    tokenizer: Any
    stop: list[tuple[str, ...]]
    numbers: list[int]
    auto: AutoLength | None = None

    @property
    def alike(self) -> str | None:
        """Return why the texts of a prompt may be equal, and what to change; None: by chance."""
        law = self.request.sampler.law if self.request.law is None else self.request.law
        if law.temperature == 0 or law.top_k == 1:
            option = "the temperature is 0" if law.temperature == 0 else "top_k is 1"
            return (
                f"{option}, so every token is the most probable one. For different texts set "
                "temperature=1.0, or another value above 0, without top_k=1"
            )
        if self.request.watermark is not None:
            return (
                "the key of the watermark is one noise for all of them. For different texts give "
                "watermark=Watermark(key, variants=64), or a larger number"
            )
        return None

    @property
    def lengths(self) -> list[int]:
        """Return the columns of each row, its prompt and the positions to append."""
        return [len(row.ids) + n for row, n in zip(self.prompts, self.new_tokens, strict=True)]

    def part(self, first: int, last: int) -> Job:
        """Return the rows `first` to `last` - 1."""
        lists = ("prompts", "new_tokens", "seeds", "stop", "numbers")
        return replace(self, **{name: vars(self)[name][first:last] for name in lists})

    def rows(self, first: int = 0, last: int | None = None) -> TextRows:
        """Build the canvases of the rows `first` to `last` - 1, padded to one length."""
        part = slice(first, last)
        ends = Ends(frozenset(self.request.stop_token_ids), self.tokenizer)
        return build_rows(
            self.prompts[part],
            self.new_tokens[part],
            self.denoiser,
            self.seeds[part],
            self.eos,
            ends,
            self.stop[part],
        )


def prepare(denoiser: Denoiser, prompts: Prompts, options: GenerateOptions) -> Job:
    """Check the arguments and read the prompts.

    Raises:
        ValueError, TypeError: an argument is out of range, or does not fit the model.
    """
    sampler, defaults = choose_sampler(denoiser, options.sampler, options.sampler_options)
    law = _law_defaults(defaults).over(sampler.law)
    law = options.law.over(law)
    suppressed = read_ids("suppress_tokens", options.suppress_tokens, denoiser.vocab_size)
    law = replace(law, suppressed=(*law.suppressed, *suppressed))
    stop_ids = eos_ids(options.eos_token_id, denoiser)
    tokenizer = options.tokenizer if options.tokenizer is not None else denoiser.tokenizer
    encoder = Encoder(tokenizer, options.add_special_tokens, options.chat_template_kwargs)
    found = read_prompts(prompts, denoiser, encoder, options.infill, options.attention_mask)
    stops = read_stops(options.stop, len(found), tokenizer)
    drafts = read_drafts(options.start, len(found), denoiser, tokenizer)
    constraint = as_constraint(options.constraint)
    if constraint is not None and any(stops):
        raise ValueError(
            "stop: a constraint is about the whole text, which a stop string would cut; let the "
            "expression end where the text should."
        )
    new: list[int] = []
    for i, row in enumerate(found):
        row = replace(row, draft=drafts[i])
        new.append(new_tokens(options.max_new_tokens, i, row, denoiser, stop_ids))
        found[i] = row = row.open() if new[i] else row
        check_draft(i, row, new[i], denoiser)
        check_length(i, len(row.ids), new[i], denoiser.max_length)
        if row.infill and stops[i]:
            raise ValueError(
                f"Prompt {i} is filled in place, and a stop string (stop) ends completions only."
            )
    automaton = None
    if constraint is not None:
        never = set(full_law(law, denoiser).suppressed)
        automaton = _compiled(constraint, denoiser, tokenizer, stop_ids, never, found, options.eos)
    count = options.num_return_sequences
    seeds = read_seeds(options.seed, len(found) * count)
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
        stop_token_ids=stop_ids,
        every_step=options.every_step,
        return_trajectory=options.return_trajectory,
        cuda_graph=options.cuda_graph,
        cache=options.cache,
        cache_audit=options.cache_audit,
        start=start_of(options.start is not None, options.t_start, options.renoise, options.times),
        times=None if options.times is None else tuple(options.times),
        constraint=automaton,
        guidance=options.guidance,
        max_nfe=options.max_nfe,
        speculate=options.speculate,
        watermark=as_watermark(options.watermark),
        fills_behind=options.eos == "fill",
    )
    check_start(sampler, request.start, request.times)
    return Job(
        denoiser,
        request,
        _times(found, count),
        _times(new, count),
        seeds,
        options.eos,
        tokenizer,
        _times(stops, count),
        _times(list(range(len(found))), count),
        options.max_new_tokens if isinstance(options.max_new_tokens, AutoLength) else None,
    )


def _compiled(
    constraint: Constraint,
    denoiser: Denoiser,
    tokenizer: Any,
    ends: tuple[int, ...],
    never: set[int],
    rows: list[PromptRow],
    eos: Eos,
) -> TokenAutomaton:
    """Return the automaton of a constraint; what stands behind the end of a text follows `eos`.

    Raises:
        ValueError: the rows differ in what stands there.
    """
    kept = check_one_ending(eos, rows)
    pad = () if denoiser.pad_token_id is None else (denoiser.pad_token_id,)
    return constraint.compile(
        tokenizer,
        denoiser.vocab_size,
        ends=ends,
        behind={*ends, *pad} if kept == {True} else None,
        never=never,
    )


def check_one_ending(eos: Eos, rows: list[PromptRow]) -> set[bool]:
    """Return whether texts go on behind an end-of-text, of rows with a constraint.

    Raises:
        ValueError: the rows differ in it.
    """
    kept = {ending(eos, row) == "keep" for row in rows}
    if len(kept) == 2:
        raise ValueError(
            "constraint: the text of some prompts ends at an end-of-text, and of others (empty "
            'or filled in place) goes on behind it; give eos="cut" or eos="keep".'
        )
    return kept


def default_sampler(denoiser: Denoiser) -> str:
    """Return the name of the sampler that `generate` uses by default for a denoiser."""
    own = denoiser.generation_defaults.get("sampler")
    return FALLBACK_SAMPLERS[denoiser.process.name] if own is None else str(own)


def choose_sampler(
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
    numbers = {name: defaults.get(name) for name in (*LAW_REALS, "top_k")}
    return LawOptions(**numbers, crossing=cast("Crossing | None", defaults.get("crossing")))


def _times(items: list[T], count: int) -> list[T]:
    """Return each item `count` times in a row."""
    return [item for item in items for _ in range(count)]


def fitting_caches(
    denoiser: Denoiser, prompts: Prompts, options: GenerateOptions, caches: Sequence[AnyPolicy] = ()
) -> list[str]:
    """Return the names that `cache` may have in a call, "none" first; run nothing.

    Args:
        denoiser: the model.
        prompts: as `generate` takes them.
        options: of the call.
        caches: policies that have to fit.

    Raises:
        ValueError: one of `caches` does not fit the model, the sampler or the blocks.
    """
    job = prepare(denoiser, prompts, options)
    canvases = job.rows().canvases
    request, plan = plan_request(denoiser, job.request, canvases)
    for policy in caches:
        choose_cache(denoiser, replace(request, cache=policy), plan, canvases)
    return legal_caches(denoiser, request, plan, canvases)
