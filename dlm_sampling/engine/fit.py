"""Check that a sampler supports the noise process of the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.drafts import check_start
from dlm_sampling.engine.early_end import check_early_end
from dlm_sampling.engine.request import Canvases, Request
from dlm_sampling.guidance.base import Guidance
from dlm_sampling.samplers.contract import check_answer
from dlm_sampling.samplers.parts.grid import GridSampler
from dlm_sampling.samplers.parts.revising_grid import RevisingGrid
from dlm_sampling.samplers.registry import available
from dlm_sampling.types import Process, Sampler, TokenLaw
from dlm_sampling.watermark import Watermark

SHOWN = 6
"""Samplers of a list that a message names."""


def check_fit(denoiser: Denoiser, sampler: Sampler[Any], guidance_scale: float) -> Process:
    """Check sampler and denoiser against each other; return the noise process of the canvas.

    Raises:
        TypeError: the sampler names a canvas noise that is none.
        ValueError: the sampler does not support the denoiser's noise, or guidance is requested
            from a denoiser without a mask id.
    """
    kind, name = denoiser.process.name, type(sampler).__name__
    process = sampler.canvas_process(denoiser.process)
    check_answer(sampler, "canvas_process", process)
    if process is None:
        fitting = [n for n, entry in available().items() if kind in entry.runs_on]
        missing = "; pass mask_token_id= if the model has a mask" if kind == "uniform" else ""
        raise ValueError(
            f"sampler: {name} is for {' or '.join(sampler.runs_on)} noise, and this denoiser "
            f"({denoiser.family}) was trained on {kind} noise{missing}. Samplers that fit: "
            f"{shortened(fitting)}."
        )
    if guidance_scale != 0.0 and denoiser.mask_token_id is None:
        raise ValueError(
            f"guidance_scale={guidance_scale}: the unconditional pass puts masks in place of the "
            "prompt, and this denoiser has no mask id; use 0."
        )
    return process


def shortened(names: Sequence[str]) -> str:
    """Return the first names of samplers of a long list, and how to see the others."""
    if len(names) <= SHOWN:
        return ", ".join(names)
    return (
        f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} others; for all with their noise: "
        "dlm-sampling samplers"
    )


def check_guidance(
    denoiser: Denoiser, sampler: Sampler[Any], guidance: Guidance | None, canvases: Canvases
) -> None:
    """Check that a guidance fits denoiser, sampler and canvases.

    Raises:
        ValueError: it compares candidates of a denoiser that carries a state from pass to pass,
            changes a rate that the sampler does not have, or does not fit the rows.
    """
    if guidance is None:
        return
    name = type(guidance).__name__
    if denoiser.carries and guidance.chooses:
        raise ValueError(
            f"guidance={name}: this denoiser ({denoiser.family}) carries a state from one pass to "
            "the next, of which the candidates of a step would share one; use "
            "smc.sample_candidates, where each has its own, or another guidance."
        )
    timed = isinstance(sampler, GridSampler | RevisingGrid)
    if guidance.moves_rates and denoiser.process.mask_token_id is not None and not timed:
        raise ValueError(
            f"guidance={name}: rate_preserving=False changes how likely a mask is to be written, "
            f"and {type(sampler).__name__} decides that without the law; use rate_preserving=True, "
            "or a solver such as 'ancestral' or 'flow-matching'."
        )
    guidance.check(denoiser, sampler, len(canvases.tokens))
    written = canvases.editable.any(1)
    begin, first = (part.long().argmax(1) for part in (canvases.attention, canvases.editable))
    guidance.check_prompts((first - begin)[written])


def check_asked(denoiser: Denoiser, request: Request, process: Process) -> None:
    """Check that a run can begin at a draft, end early and predict beforehand as it is asked to.

    Raises:
        ValueError: the sampler or the network cannot; see `check_start`, `check_early_end` and
            `check_watermark`.
    """
    check_start(request.sampler, request.start, request.times)
    check_early_end(request, process)
    law = request.sampler.law if request.law is None else request.law
    check_watermark(request.watermark, request.sampler, process, law)
    if denoiser.carries and request.speculate > 1:
        raise ValueError(
            f"speculate={request.speculate}: this denoiser ({denoiser.family}) carries a state "
            "from one pass to the next, so that no pass can be made beforehand; use 1."
        )


def check_law(denoiser: Denoiser, law: TokenLaw) -> None:
    """Check that a token law can be applied to the predictions of a denoiser.

    Raises:
        ValueError: it penalises tokens of a canvas of noise, or changes the logits of a network of
            scores.
    """
    penalties = {
        "repetition_penalty": (law.repetition_penalty, 1.0),
        "presence_penalty": (law.presence_penalty, 0.0),
    }
    for name, (value, none) in penalties.items():
        if value != none and denoiser.process.mask_token_id is None:
            raise ValueError(
                f"{name}={value}: under {denoiser.process.name} noise the canvas holds noise, "
                f"which would be penalised like text; use {none:g}, or a denoiser of masks."
            )
    if law.logits_processor is not None and denoiser.kind == "log_score":
        raise ValueError(
            f"logits_processor: this denoiser ({denoiser.family}) predicts ratios of probabilities "
            "and no logits of tokens; leave it out, or use a denoiser that predicts tokens."
        )


def check_watermark(
    watermark: Watermark | None, sampler: Sampler[Any], process: Process, law: TokenLaw
) -> None:
    """Check that a sampler draws each written token once, at places chosen without regard to it.

    Raises:
        ValueError: it does not, or its draws have no chance.
    """
    if watermark is None:
        return
    name = type(sampler).__name__
    written_once = sampler.exact and sampler.constrainable and not sampler.revises
    if process.mask_token_id is None or not written_once:
        raise ValueError(
            f"watermark: {name} on {process.name} noise uses the noise of a place more than once, "
            "so that its law would change: it changes tokens, or chooses places by what is drawn "
            "there. Use masks and one that does neither, such as llada-entropy, llada-margin, "
            "eb-sampler or ancestral."
        )
    if law.temperature == 0.0:
        raise ValueError(
            "watermark: at temperature 0 nothing is left to chance; set temperature=1.0, or "
            "another value above 0."
        )
