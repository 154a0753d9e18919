"""Run the presets of `eval compare` with the options that go with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dlm_eval.cli.words import command_line, refuse_others
from dlm_sampling.errors import UsageError, unknown_choice

if TYPE_CHECKING:
    from dlm_eval.comparison.presets import Asked

FILES = "results.json, samples.jsonl, report.html"
OF_ALL = ("preset", "out", "page", "quiet")
OF_SAMPLES = ("samples",)
"""Options of a preset that draws samples of models of its own."""
OF_MODEL = (
    "model", "samples", "max_new_tokens", "judge", "judge_revision", "reduction", "reference",
    "reference_column", "features", "mauve_seeds", "seed", "batch_size", "device", "dtype",
    "revision", "trust_remote_code",
)  # fmt: skip
"""Options of a preset that runs on any model."""


def run_named(
    name: str, asked: Asked, out: Path, page: Path | None, context: typer.Context, *, quiet: bool
) -> None:
    """Run what is left of a preset and say where its page is.

    Raises:
        UsageError: no preset has this name, or an option does not go with it.
    """
    from dlm_eval.comparison.presets import PRESETS, Preset, PresetOfLaws, PresetOfModel
    from dlm_eval.comparison.presets.run import PAGE, run_preset
    from dlm_eval.program import check_result
    from dlm_sampling.jobs import rank_of

    if name not in PRESETS:
        raise UsageError(str(unknown_choice("--preset", name, tuple(PRESETS))))
    preset = PRESETS[name]
    fitting = (*OF_ALL, *(OF_SAMPLES if isinstance(preset, Preset) else ()))
    fitting = (*fitting, *(OF_MODEL if isinstance(preset, PresetOfModel) else ()))
    refuse_others(context, fitting, f"does not go with --preset {name}, which has its own.")
    place = out / PAGE if page is None else page
    check_result(place)  # before the work that it is written from
    rank = rank_of(os.environ)
    if isinstance(preset, PresetOfLaws):
        if page is not None and not preset.paged:
            raise UsageError(f"--page: --preset {name} writes none.")
        if rank.index == 0:  # there is nothing to share
            preset.run(out, place, command_line(context))
        if not quiet:
            told = f"{place if preset.paged else out}: written."
            typer.echo(told if rank.index == 0 else f"{out}: is left to process 0.")
            if rank.index == 0:
                typer.echo(f"{out}: {FILES}", err=True)
        return
    if isinstance(preset, PresetOfModel):
        parts = preset.parts(asked)
    else:
        parts = preset.parts(asked.samples)
    done = run_preset(
        parts, preset.page, out, place, rank, command_line(context),
        picture=preset.picture, quiet=quiet,
    )  # fmt: skip
    if not quiet:
        state = "written" if done else f"the share of process {rank.index} is done; others are not"
        typer.echo(f"{place}: {state}.")
        if done:
            typer.echo(f"{out}: {FILES}", err=True)
