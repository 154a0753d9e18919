"""Run `dlm-sampling eval compare`: samplers side by side on a model and a task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlm_eval.cli.words import command_line
from dlm_sampling.errors import UsageError

if TYPE_CHECKING:
    from dlm_eval.comparison.tasks import Task
    from dlm_eval.report.results import Json
    from dlm_sampling import Denoiser

OWN = "own"


def compare(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Embedded model, folder, or name on the hub.")],
    samplers: Annotated[str, typer.Option(help="Names, separated by commas.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write; the same command resumes it.")
    ],
    nfe: Annotated[str, typer.Option(help="Forward passes per text, such as 8,16,32,64.")] = (
        "8,16,32,64"
    ),
    temperature: Annotated[
        str, typer.Option(help="Temperatures, such as 0,0.7,1; own is the law of each sampler.")
    ] = OWN,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SAMPLER.PARAMETER=VALUES",
            help="Sweep a sampler by its own parameter: fast-dllm.threshold=0.9,0.5; repeat.",
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(help="text, sudoku, or a .jsonl file with prompt and answer.")
    ] = "text",
    samples: Annotated[int, typer.Option("--samples", "-n", min=2, help="Texts per setting.")] = 64,
    prompts: Annotated[
        Path | None, typer.Option(help="Of task text: file with one prompt per line.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens of each text; 0 fills the masks of the prompts.")
    ] = 64,
    clues: Annotated[int, typer.Option(min=0, max=16, help="Of task sudoku: given cells.")] = 0,
    answer_pattern: Annotated[
        str | None, typer.Option(help="Of a task file: regular expression of the answer.")
    ] = None,
    block_length: Annotated[int | None, typer.Option(help="Write blocks of this length.")] = None,
    judge: Annotated[
        Path | None, typer.Option(help="Of task text: folder of .txt books of an n-gram judge.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Row i draws from seed + i.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts that run together.")] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, auto.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, auto.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Commit of the model on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own Python code.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no closing line.")] = (
        False
    ),
) -> None:
    """Compare samplers on a model: quality, NFE, tokens per forward, seconds, order of writing.

    Writes results.json, samples.jsonl and report.html. A sampler that sets its own pace is swept by
    its own parameter instead of --nfe. Several processes share the work with DLM_SHARD=i/n and
    give the samples of one; the same command goes on after any end.
    """
    budgets = [_whole(word) for word in nfe.split(",")]
    temperatures = [None if word == OWN else _temperature(word) for word in temperature.split(",")]
    names = list(filter(None, samplers.split(",")))
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; name a folder.")

    from dlm_eval.comparison.figures import figures_of
    from dlm_eval.comparison.journal import SettingsChanged
    from dlm_eval.comparison.judging import load_ngram
    from dlm_eval.comparison.run import Comparison, run, samples_of
    from dlm_eval.comparison.settings import check_names, settings_of, sweeps_of
    from dlm_eval.report import Results, write_folder
    from dlm_sampling import AutoDenoiser
    from dlm_sampling.jobs import rank_of

    rank = rank_of(os.environ)
    denoiser = AutoDenoiser.from_pretrained(
        model,
        dtype=dtype,
        device_map=rank.device(device),
        trust_remote_code=trust_remote_code,
        revision=revision,
    )
    check_names(names, denoiser.process.name)
    asked = _task(task, denoiser, samples, prompts, max_new_tokens, clues, answer_pattern)
    sweeps = sweeps_of(sweep or [], asked.world)
    settings = settings_of(names, budgets, temperatures, sweeps, asked.world)
    if judge is not None and task != "text":
        raise UsageError("--judge goes with --task text; other tasks have right answers.")
    judged = None if judge is None else load_ngram(judge, denoiser)
    arguments = {} if block_length is None else {"block_length": block_length}
    comparison = Comparison(denoiser, asked, tuple(settings), samples, batch_size, seed, arguments)
    protocol: dict[str, Json] = {**asked.facts(), **(judged.facts if judged else {"judge": "none"})}
    subject: dict[str, Json] = {
        "model": model,
        "revision": revision or "",
        "dtype": str(denoiser.dtype),
        "samples": samples,
        "first_seed": seed,
        "block_length": block_length,
        "settings": {one.label: one.facts() for one in settings},
    }
    facts: dict[str, Json] = {"subject": subject, "protocol": protocol, "batch": batch_size}
    try:
        measured = run(comparison, out, facts, rank, progress=False if quiet else None)
    except SettingsChanged as error:
        raise UsageError(str(error)) from error
    if measured is None:
        if not quiet:
            typer.echo(f"{out}: the share of process {rank.index} is done; others are not.")
        return
    found = figures_of(asked, measured, judged.score if judged else None)
    results = Results(
        command=command_line(context),
        subject=subject,
        protocol=protocol,
        metrics=found.metrics,
        warnings=found.warnings,
    )
    write_folder(out, results, samples_of(asked, measured), plots=found.plots)
    if not quiet:
        for warning in found.warnings:
            typer.echo(f"Warning: {warning}", err=True)
        typer.echo(f"{out / 'report.html'}: {len(measured)} settings, {samples} samples each")


def _task(
    name: str,
    denoiser: Denoiser,
    samples: int,
    prompts: Path | None,
    max_new_tokens: int,
    clues: int,
    pattern: str | None,
) -> Task:
    from dlm_eval.comparison.tasks import SudokuTask, TextTask, read_file_task
    from dlm_sampling.testing.sudoku import CELLS, MASK

    if name == "text":
        if max_new_tokens == 0:
            raise UsageError("--max-new-tokens 0: task text needs at least 1.")
        lines = [] if prompts is None else prompts.read_text(encoding="utf-8").splitlines()
        ends = (denoiser.eos_token_id, denoiser.pad_token_id)
        suppress = tuple(dict.fromkeys(i for i in ends if i is not None))
        return TextTask(max_new_tokens, tuple(filter(str.strip, lines)), suppress)
    if prompts is not None:
        raise UsageError("--prompts goes with --task text; a task file has its own.")
    if name == "sudoku":
        if denoiser.mask_token_id != MASK or denoiser.max_length != CELLS:
            raise UsageError("--task sudoku: is the task of the embedded model sudoku4x4.")
        return SudokuTask(samples, clues)
    return read_file_task(Path(name), samples, max_new_tokens or None, pattern)


def _whole(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= 100_000:
        raise UsageError(f"--nfe {word}: must be whole numbers from 1, such as 8,16,32.")
    return int(word)


def _temperature(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"--temperature {word}: must be numbers from 0, such as 0,0.7,1, or own.")
    return value
