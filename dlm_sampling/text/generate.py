"""Define `generate`, which turns prompts into texts with any denoiser and any sampler."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from dlm_sampling.caches import AnyPolicy
from dlm_sampling.constraints import Constraint
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.batches import in_parts, run_parts
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.engine.request import BlockRequest
from dlm_sampling.engine.trajectory import StepCallback
from dlm_sampling.errors import SamplingWarning, check_arguments, check_flag, check_whole, named
from dlm_sampling.guidance.base import Guidance
from dlm_sampling.likelihood.recording import Recording
from dlm_sampling.text.arguments import Drafts, Ids, Stop
from dlm_sampling.text.completion import GenerateOutput, equal_rows, finish
from dlm_sampling.text.fingerprint import weights_digest
from dlm_sampling.text.lengths import AutoLength, Spent, grown
from dlm_sampling.text.options import GenerateOptions, Job, LawOptions, prepare
from dlm_sampling.text.prompts import Infill, Mask, Prompts
from dlm_sampling.text.rows import Eos, TextRows, padding_id
from dlm_sampling.types import Crossing, LogitsProcessor, Sampler
from dlm_sampling.viewers.streaming import ProgressFeed, Streamer, StreamerFeed
from dlm_sampling.watermark import Watermark

logger = logging.getLogger("dlm_sampling")


def generate(
    denoiser: Denoiser,
    prompts: Prompts = None,
    *,
    sampler: str | Sampler[Any] | None = None,
    sampler_options: Mapping[str, Any] | None = None,
    max_new_tokens: int | AutoLength | None = None,
    steps: int | None = None,
    block_length: int | None = None,
    steps_per_block: int | None = None,
    align_blocks: bool = False,
    causal_blocks: bool = False,
    seed: Ids | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    crossing: Crossing | None = None,
    typical_p: float | None = None,
    eta_cutoff: float | None = None,
    top_n_sigma: float | None = None,
    repetition_penalty: float | None = None,
    presence_penalty: float | None = None,
    logits_processor: LogitsProcessor | None = None,
    suppress_tokens: Ids = (),
    guidance_scale: float = 0.0,
    num_return_sequences: int = 1,
    infill: Infill | None = None,
    attention_mask: Mask | None = None,
    add_special_tokens: bool | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    eos: Eos = "auto",
    eos_token_id: Ids | None = None,
    stop: Stop | None = None,
    batch_size: int | None = None,
    tokenizer: Any = None,
    streamer: Streamer | None = None,
    callback: StepCallback | None = None,
    progress: bool | None = None,
    return_trajectory: bool = False,
    return_rollout: bool = False,
    every_step: bool = False,
    cuda_graph: bool = False,
    cache: str | AnyPolicy = "auto",
    cache_audit: float | str | None = None,
    start: Drafts | None = None,
    t_start: float | None = None,
    renoise: bool = True,
    times: Sequence[float] | None = None,
    constraint: str | Constraint | None = None,
    guidance: Guidance | None = None,
    max_nfe: int | None = None,
    speculate: int = 1,
    watermark: Watermark | int | None = None,
    **unknown: Any,
) -> GenerateOutput:
    """Generate text (or fill masks) with a diffusion language model.

    Args:
        denoiser: the model, from `AutoDenoiser.from_pretrained` or `wrap`.
        prompts: a string, chat messages, token ids, the output of a tokenizer, a list or an
            iterator of any of these, a padded tensor or array of ids [B, L], or None for text
            without a prompt.  A string that contains mask tokens is filled in place.  A chat that
            ends with a message of the assistant is continued inside that message.
        sampler: a name (`samplers.available()`), the path of a file that `dlm-sampling learn` wrote
            (it ends in ".json"), an instance, or None for the checkpoint's own default
            (`sampler_config.json`), else "llada", or "ancestral" without a mask.
        sampler_options: parameters of a sampler given by name, such as {"eta": 0.02}.
        max_new_tokens: positions appended to each prompt; default 128 within the context, 0 for
            rows that are filled in place; rounded up to whole canvases for a network that only
            writes those.  A `text.lengths.AutoLength` gives each text as many as the model expects
            (the first phase of DAEDAL), in further passes that `out.nfe` counts.
        steps: planned steps over the whole row; default one per position; a sampler with its own
            number (learned samplers, DiffusionGemma's) takes that many in every block.
        block_length: write blocks of this many positions from left to right; default that
            of the checkpoint's sampler_config.json, else one block, or the aligned blocks of a
            model with block-causal attention; samplers that write several blocks at once
            ("d2f", "d3llm") have blocks of 32.
        steps_per_block: steps of every block, of any size; replaces `steps`.
        align_blocks: put block boundaries at multiples of block_length from the row's first token,
            as block-causal models (SDAR, LLaDA2, Fast-dLLM v2, BD3-LM) need.
        causal_blocks: hide everything right of the current block from the model, or of the last one
            where a sampler writes several.
        seed: a whole number from which the seed of each row is made, or a list of row seeds;
            default a random number.  `seed=out.seeds` repeats a run, `seed=[out.seeds[i]]` row i;
            `seed=out.seeds[i]`, a number, begins a new run, and warns of it.
        temperature: 1 samples the model's law, 0 takes the argmax; this argument and the next ten
            replace the sampler's own default (see `TokenLaw`).
        top_k: keep this many tokens.
        top_p: keep the nucleus of this mass.
        min_p: keep tokens with at least this fraction of the largest probability.
        crossing: whether the token that crosses top_p is kept ("include") or dropped ("exclude").
        typical_p: keep the most typical tokens that reach this mass.
        eta_cutoff: keep tokens above this probability, or above a bound that falls with the
            entropy.
        top_n_sigma: keep tokens whose logit is within so many standard deviations of the largest.
        repetition_penalty: divides the logits of tokens that stand elsewhere in the row (multiplies
            negative ones); 1 is none.
        presence_penalty: subtracted from the logits of tokens that stand elsewhere in what the run
            has written; 0 is none.
        logits_processor: called like those of transformers (a `LogitsProcessorList` is one), with
            the ids left of a position and its logits, for the positions that are drawn.
        suppress_tokens: ids that are never written.
        guidance_scale: w of classifier-free guidance, u + (w + 1) (c - u), with conditional and
            unconditional logits c and u; a guided pass counts 2 NFE.
        num_return_sequences: rows per prompt, each with its own seed.  On masks their first canvas
            is the same, and the first step runs it once for all (`Denoiser.rows_alike`, or with a
            cache; not with a guidance object, a carried state or rows with times of their own).
            Without a mask each row begins with noise of its own, and nothing is shared.
        infill: True fills every mask id of the prompts; a bool mask (tensor or lists) fills the
            positions where it is True; False fills none; None fills mask tokens in strings only.
        attention_mask: for prompts of token ids, False (0) at padding, on either side.
        add_special_tokens: True encodes texts just as the tokenizer does, False without special
            tokens.  None adds them, but no begin token where the text has one, and none that closes
            the text where positions are appended.
        chat_template_kwargs: further arguments of the chat template, such as
            {"enable_thinking": False}.
        eos: "keep" keeps the text after an end-of-text; "cut" removes it after the run; "stop" also
            ends a row as soon as everything left of its end-of-text is known; "fill" also writes
            the end at all positions behind it once it is written, without a pass or a log-
            probability: tokens left of it that are still unknown are then drawn from the law of a
            canvas with these ends, another law than without.  "auto" is "stop" for
            rows with a prompt, and "keep" for infilling and rows without a prompt.
        eos_token_id: end-of-text ids; default all of the denoiser's.
        stop: stop strings for all prompts, or one list of them per prompt.  Text and ids end before
            the first one; with blocks, the row ends with the block that completes it (in a recorded
            run with its last block).
        batch_size: rows that run together; default all.  Of these, rows at most half as long as
            the longest run apart where that spares columns; no token changes.
        tokenizer: overrides the denoiser's.
        streamer: a transformers streamer, with or without `put_draft`.  For a batch, rows are
            streamed one after another.
        callback: called with a `StepEvent` after every step.
        progress: show a progress bar; default only on a terminal and for long work.
        return_trajectory: keep every step.
        return_rollout: keep the changes of every step, without canvases: a `Rollout`, which
            `replay` scores and a training loop keeps.
        every_step: run the model in every planned step, without early exit: the accounting of the
            released loops.
        cuda_graph: on a GPU, record one step of each batch as a CUDA graph and replay it; see
            `sample`.
        cache: keys and values of earlier passes.  "auto" keeps those of finished blocks where that
            changes nothing (block-causal models: SDAR, LLaDA2, Fast-dLLM v2, BD3-LM), "none" keeps
            none, "block" insists on the first.  "prefix", "dual", "vicinity", "dkv", "dpad",
            "adaptive", "dllm", or a policy of `dlm_sampling.caches` with values of its own, are
            approximate, for models with full attention; a block-causal one does less with "auto".
        cache_audit: compare the laws of the cache with the exact ones, on the same canvas with the
            same random numbers, for `out.cache`: "refresh" for the pass before each pass over all
            columns, which costs one of a block ("prefix", "dual", "vicinity", "dkv", "adaptive"); a
            share such as 1/64 of the other passes too, each of which costs a pass over all columns.
            Tokens and `out.nfe` stay what they are.
        start: a draft to refine in place of noise: a text or token ids for all prompts, or a list
            with one per prompt.  It takes the positions to write in their order; further ones, and
            its mask tokens, are noise.  max_new_tokens defaults to its length.
        t_start: the time in (0, 1) at which the sampler's clock begins.  The draft is noised to
            that level first: a token stays with probability alpha(t_start).  None: the draft is
            taken as it is, for samplers without a clock ("glauber", "remdm-llada", "llada2.1", or
            any decoder, which fills its masks).
        renoise: False takes the draft as it is at t_start too, as a canvas that is that noisy.
        times: times of a solver's steps in every block, falling from 1 (or t_start) to 0, in place
            of its even grid; methods of two stages take every second one.
        constraint: a rule for every text: a regular expression that matches the whole text, or a
            `constraints.Constraint`: banned and required words, JSON schema, grammar.
            Tokens are drawn from the law of the step conditioned on it, and their log-probabilities
            are those of that law.  For models with masks and samplers that draw unknown tokens from
            the model's law; others are refused by name.  A text ends at an end-of-text or with the
            last position.
        guidance: an object of `dlm_sampling.guidance`, in place of guidance_scale, which is short
            for `ClassifierFree(scale)`: classifier-free with other scales and conditions, by a
            classifier or a reward, products and pairs of models.
        max_nfe: most forward passes of a row, never exceeded, with nothing left unknown.  Samplers
            of planned steps plan fewer of them; adaptive ones write further tokens, the least
            uncertain, drawn from the law of the same pass (`out.forced` counts them), so that
            log-probabilities stay those of the law.  Samplers that take several passes in a step,
            or as many as they need without masks, are refused by name.
        speculate: K canvases of a row in one pass: that of the step, and K - 1 that further steps
            would ask for if the logits stayed as they were.  The tokens are those of K = 1 with any
            sampler at any temperature, up to rounding in batches of another shape.  `out.nfe`
            counts a pass once, `out.work` all its canvases: worth it where further columns of a
            pass cost little, as a block does with cache="block" in a small batch.
        watermark: a secret whole number, or a `watermark.Watermark`: tokens are drawn with noise
            that the key repeats, from the same law, and `dlm_sampling.watermark.detect` tells them
            from others by an exact p-value.  For masks, samplers that choose positions without
            regard to what is drawn there, and temperatures above 0; others are refused by name.
        unknown: refused; the error names the closest valid argument.

    Returns:
        A `GenerateOutput`.

    Raises:
        ValueError, TypeError: an argument is out of range, unknown, or does not fit the model; the
            message names it and what to try.
    """
    check_arguments(unknown, generate.__kwdefaults__ or ())
    _check_helpers(denoiser, streamer, callback, progress, batch_size)
    options = GenerateOptions(
        sampler=sampler,
        sampler_options=sampler_options,
        max_new_tokens=max_new_tokens,
        blocks=BlockRequest(block_length, steps, steps_per_block, align_blocks, causal_blocks),
        seed=seed,
        law=LawOptions(
            temperature,
            top_k,
            top_p,
            min_p,
            crossing,
            typical_p=typical_p,
            eta_cutoff=eta_cutoff,
            top_n_sigma=top_n_sigma,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            logits_processor=logits_processor,
        ),
        suppress_tokens=suppress_tokens,
        guidance_scale=guidance_scale,
        num_return_sequences=num_return_sequences,
        infill=infill,
        attention_mask=attention_mask,
        add_special_tokens=add_special_tokens,
        chat_template_kwargs=chat_template_kwargs,
        eos=eos,
        eos_token_id=eos_token_id,
        stop=stop,
        tokenizer=tokenizer,
        return_trajectory=return_trajectory,
        every_step=every_step,
        cuda_graph=cuda_graph,
        cache=cache,
        cache_audit=cache_audit,
        start=start,
        t_start=t_start,
        renoise=renoise,
        times=times,
        constraint=constraint,
        guidance=guidance,
        max_nfe=max_nfe,
        speculate=speculate,
        watermark=watermark,
    )
    job, spent = lengthened(prepare(denoiser, prompts, options), batch_size)
    rows = job.rows()
    canvases = rows.canvases
    listeners: list[StepCallback] = [] if callback is None else [callback]
    feed = None
    if streamer is not None:
        sendable = [end.sendable for end in rows.ends]
        feed = StreamerFeed(streamer, canvases, job.request.sampler.revises, sendable)
        listeners.append(feed)
    check_flag("return_rollout", return_rollout)
    recording = Recording.of(denoiser, job.request, canvases) if return_rollout else None
    if recording is not None:
        listeners.append(recording.recorder)
    with closing(ProgressFeed(int(canvases.editable.sum()), progress)) as bar:
        if bar.visible:
            listeners.append(bar)
        sampled = run_parts(denoiser, job.request, canvases, batch_size, listeners)
    if feed is not None:
        feed.close()
    output = finish(sampled, rows, job.tokenizer, padding_id(denoiser, job.request.stop_token_ids))
    if recording is not None:
        digest = weights_digest(denoiser)
        output = replace(output, rollout=recording.rollout(sampled.tokens, sampled.nfe, digest))
    if spent is not None:
        output = spent.added(output)
    if (equal := equal_rows(output, job.alike, _kinds(job))) is not None:
        warnings.warn(equal, SamplingWarning, stacklevel=2)
    return output


def _kinds(job: Job) -> list[int]:
    """Return the number of each row's prompt, under a watermark that of the first equal prompt."""
    if job.request.watermark is None:
        return job.numbers
    first: dict[tuple[int, ...], int] = {}
    return [
        first.setdefault(tuple(prompt.ids), number)
        for prompt, number in zip(job.prompts, job.numbers, strict=True)
    ]


def generate_parts(
    job: Job,
    batch_size: int,
    callbacks: Sequence[StepCallback] = (),
    on_halve: Callable[[int], None] | None = None,
    tell: Callable[[str], None] = logger.warning,
) -> Iterator[GenerateOutput]:
    """Generate in parts of `batch_size` rows, and yield the output of each part when it is done.

    The rows of a part are padded to the longest of them.

    Args:
        job: the checked call, from `options.prepare`.
        batch_size: maximum number of rows per part.
        callbacks: called with a `StepEvent` after every step; row numbers count from 0 in each
            part.
        on_halve: called with the new number of rows before a part that does not fit into memory
            is run again in halves; None: such an error is raised.
        tell: called with a warning about the texts, at most once.
    """

    def run(first: int, last: int) -> tuple[TextRows, SampleOutput, Spent | None]:
        part, spent = lengthened(job.part(first, last), None)
        rows = part.rows()
        return rows, run_parts(job.denoiser, job.request, rows.canvases, None, callbacks), spent

    warned, padding = False, padding_id(job.denoiser, job.request.stop_token_ids)
    for first, (rows, sampled, spent) in in_parts(len(job.prompts), batch_size, run, on_halve):
        output = finish(sampled, rows, job.tokenizer, padding)
        output = output if spent is None else spent.added(output)
        kinds = _kinds(job)[first : first + len(output.seeds)]
        equal = None if warned else equal_rows(output, job.alike, kinds)
        if equal is not None:
            tell(equal)
            warned = True
        yield output


def lengthened(job: Job, batch_size: int | None) -> tuple[Job, Spent | None]:
    """Return the call with the lengths that `AutoLength` finds, and the passes that it took.

    A prompt is asked once for all its rows; without `AutoLength` nothing is asked.
    """
    if job.auto is None:
        return job, None
    first = {number: row for row, number in reversed(list(enumerate(job.numbers)))}
    prompts, place = list(first.values()), {number: i for i, number in enumerate(first)}
    asked, stops = [job.prompts[row] for row in prompts], job.request.stop_token_ids
    found = grown(job.auto, job.denoiser, asked, stops, batch_size)
    at = [place[number] for number in job.numbers]
    job = replace(job, new_tokens=[found.lengths[i] for i in at])
    work = [found.columns[i] / n for i, n in zip(at, job.lengths, strict=True)]
    other = [row not in prompts for row in range(len(at))]
    shared = [share * spared for share, spared in zip(work, other, strict=True)]
    return job, Spent([found.passes[i] for i in at], work, shared)


def _check_helpers(
    denoiser: object, streamer: object, callback: object, progress: object, batch_size: object
) -> None:
    """Check the types of the arguments that are no options of the text.

    Raises:
        TypeError: one is of another type.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"denoiser is {named(denoiser)}: must be a Denoiser, such as "
            'AutoDenoiser.from_pretrained("tiny-books") or wrap(network).'
        )
    if streamer is not None and not isinstance(streamer, Streamer):
        raise TypeError(
            f"streamer is {named(streamer)}: must have the methods put(tokens) and "
            "end(), as transformers' TextStreamer has."
        )
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {named(callback)}: must be a function of a StepEvent.")
    check_flag("progress", progress, optional=True)
    check_whole("batch_size", batch_size, optional=True)
