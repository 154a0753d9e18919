"""Refuse, before anything is drawn, texts that the likelihood of a trainer cannot score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.text.options import choose_sampler
from dlm_sampling.trl.likelihoods import (
    CoupledLikelihood,
    MeanFieldLikelihood,
    RunLikelihood,
    TokenLikelihood,
)


def check_scored(
    likelihood: TokenLikelihood, denoiser: Denoiser, generation: Mapping[str, Any]
) -> None:
    """Check that a likelihood scores what `generate` draws; one of your own is not checked.

    Raises:
        ValueError: it does not; the message names the trainer's arguments.
    """
    noise = denoiser.process.name
    if isinstance(likelihood, MeanFieldLikelihood | CoupledLikelihood) and noise != "absorbing":
        raise ValueError(
            f"likelihood={likelihood}: masks tokens, and denoiser ({denoiser.family}) was trained "
            f"on {noise} noise; leave likelihood out, or use RunLikelihood()."
        )
    if not isinstance(likelihood, RunLikelihood):
        return
    for name in ("constraint", "guidance"):
        kept = name == "guidance" and likelihood.law == "model"
        if generation.get(name) is not None and not kept:
            raise ValueError(
                f"generation[{name!r}]: no record tells the laws that such texts are drawn from, "
                "which RunLikelihood trains; use likelihood=MeanFieldLikelihood() or leave it out."
            )
    sampler, _ = choose_sampler(
        denoiser, generation.get("sampler"), generation.get("sampler_options")
    )
    canvas = sampler.canvas_process(denoiser.process) or denoiser.process
    if canvas.name in sampler.scored_on:
        return
    # On masks a token is scored in the law of its canvas, if the step's only draw there gave it.
    alone = sampler.passes_per_step == 1 and (sampler.exact or sampler.revises)
    by_canvas = not sampler.unscored or (alone and sampler.constrainable)
    if canvas.name == "absorbing" and by_canvas:
        return
    why = sampler.unscored or "its steps draw from laws that do not follow from the record"
    good = "'llada-random' or 'ancestral'" if noise == "absorbing" else "'ancestral'"
    raise ValueError(
        f"generation['sampler'] is {type(sampler).__name__}, whose texts RunLikelihood cannot "
        f"score: {why}. Use {good}."
    )
