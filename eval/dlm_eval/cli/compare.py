"""Run `dlm-sampling eval compare`: samplers side by side on a model and a task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlm_eval.cli.words import (
    NONE,
    OWN,
    check_judging,
    check_out,
    command_line,
    is_given,
    read_lines,
    refuse_these,
    words_of,
)
from dlm_sampling.errors import UsageError

DEFAULT_MODEL = "tiny-books"
"""Of a preset that runs on any model."""

if TYPE_CHECKING:
    from dlm_eval.comparison.tasks import Task
    from dlm_sampling import Denoiser


def compare(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="Embedded model, folder, or name on the hub.")
    ] = None,
    *,
    samplers: Annotated[str | None, typer.Option(help="Names, separated by commas.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to write; the same command resumes it."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Run comparisons that are planned under this name, in place of --samplers: "
            "claims, samplers, uniform, lsd (embedded models); varied, published (any MODEL); "
            "orders, lsd-laws (exact laws in small worlds, without samples)."
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Of --preset: file of the page; default OUT/README.md.")
    ] = None,
    nfe: Annotated[str, typer.Option(help="Forward passes per text, such as 8,16,32,64.")] = (
        "8,16,32,64"
    ),
    temperature: Annotated[
        str, typer.Option(help="Temperatures, such as 0,0.7,1; own is the law of each sampler.")
    ] = OWN,
    top_p: Annotated[float | None, typer.Option(help="Keep the head with this mass.")] = None,
    crossing: Annotated[
        str | None,
        typer.Option(help="Whether the token that crosses top-p is kept: include or exclude."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SAMPLER.PARAMETER=VALUES",
            help="Sweep a sampler by its own parameter: fast-dllm.threshold=0.9,0.5; repeat for "
            "other samplers or further values.",
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(help="text, sudoku, or a .jsonl file with prompt and answer.")
    ] = "text",
    samples: Annotated[
        int,
        typer.Option(
            "--samples", "-n", min=2, help="Texts per setting; of a preset, in place of its own."
        ),
    ] = 64,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Of task text: file with one prompt per line, or books (passages of the held-out "
            "books, whose continuations become the references)."
        ),
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
        str | None,
        typer.Option(
            help="Of task text: causal language model (own, folder, name on the hub), folder of "
            ".txt books for an n-gram judge, or none; default own."
        ),
    ] = None,
    judge_revision: Annotated[str | None, typer.Option(help="Commit on the hub.")] = None,
    reduction: Annotated[
        str, typer.Option(help="Of the perplexity: corpus (as published) or text (mean).")
    ] = "corpus",
    reference: Annotated[
        str | None,
        typer.Option(
            help="Texts of people: a file, a data set, books (held-out children's books) or none; "
            "default books with the own judge, else none."
        ),
    ] = None,
    reference_column: Annotated[
        str | None, typer.Option(help="Of --reference: column of the text; default text.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Model of MAUVE's features, or none; default gpt2-large, and own with the own "
            "judge."
        ),
    ] = None,
    mauve_seeds: Annotated[int, typer.Option(min=1, help="Seeds of k-means, from 25.")] = 5,
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
    if out is None:
        raise UsageError("--out: name the folder of the results, such as --out runs/compare.")
    check_out(out)
    if page is not None and preset is None:
        raise UsageError("--page goes with --preset.")
    check_judging(context, reference, features)
    from dlm_eval.comparison.part import Part, Weights, write_part
    from dlm_eval.comparison.settings import (
        Law,
        check_names,
        has_nucleus,
        read_crossing,
        settings_of,
        sweeps_of,
    )
    from dlm_eval.text.judging import JudgeOptions
    from dlm_sampling.jobs import rank_of

    judging = JudgeOptions(
        judge=judge or OWN,
        judge_revision=judge_revision,
        reduction=reduction,
        reference=reference,
        reference_column=reference_column,
        features=features,
        mauve_seeds=mauve_seeds,
        device=device,
    )
    if preset is not None:
        from dlm_eval.cli.presets import run_named
        from dlm_eval.comparison.presets import Asked

        given = Asked(
            weights=Weights(model or DEFAULT_MODEL, revision, dtype, device, trust_remote_code),
            judge=judging,
            samples=samples if is_given(context, "samples") else None,
            new_tokens=max_new_tokens if is_given(context, "max_new_tokens") else None,
            batch_rows=batch_size,
            seed=seed,
        )
        run_named(preset, given, out, page, context, quiet=quiet)
        return
    if model is None or samplers is None:
        raise UsageError("Give a MODEL and --samplers A,B, or --preset NAME.")
    budgets = [_whole(word) for word in words_of(nfe)]
    temperatures = [None if word == OWN else _temperature(word) for word in words_of(temperature)]
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"--top-p {top_p:g}: must be in (0, 1]; try 0.9.")
    names = list(filter(None, words_of(samplers)))
    if task != "text" and judge not in (None, NONE):
        raise UsageError("--judge goes with --task text; other tasks have right answers.")
    _check_task(context, task, judge)
    rank = rank_of(os.environ)
    weights = Weights(model, revision, dtype, device, trust_remote_code)
    denoiser = weights.load(rank)
    check_names(names, denoiser.process.name)
    if crossing is not None and top_p is None and not has_nucleus(names):
        read_crossing(crossing)
        raise UsageError("--crossing: goes with --top-p, which none of the samplers has by itself.")
    asked = _task(task, denoiser, samples, prompts, max_new_tokens, clues, answer_pattern)
    laws = [Law(one, top_p, read_crossing(crossing)) for one in temperatures]
    sweeps = sweeps_of(sweep or [], asked.world, names)
    settings = settings_of(names, budgets, laws, sweeps, asked.world)
    part = Part(
        name="",
        weights=weights,
        task=lambda _: asked,
        settings=tuple(settings),
        samples=samples,
        batch_rows=batch_size,
        seed=seed,
        block_length=block_length,
        judge=None if task != "text" or judge == NONE else judging,
    )
    found = write_part(part, denoiser, out, rank, command_line(context), quiet=quiet)
    if quiet:
        return
    if found is None:
        typer.echo(f"{out}: the share of process {rank.index} is done; others are not.")
        return
    for warning in found.results.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    typer.echo(f"{out / 'report.html'}: {len(settings)} settings, {samples} samples each")


OF_JUDGE = (
    "judge_revision", "reduction", "reference", "reference_column", "features", "mauve_seeds",
)  # fmt: skip
OF_FILE, OF_SUDOKU = ("answer_pattern",), ("clues",)


def _check_task(context: typer.Context, task: str, judge: str | None) -> None:
    """Refuse options on the command line that the task does not read.

    Raises:
        UsageError: names the option.
    """
    if task == "text":
        refuse_these(context, OF_FILE, "goes with a task file; a judge reads the texts here.")
        refuse_these(context, OF_SUDOKU, "goes with --task sudoku.")
        if judge == NONE:
            refuse_these(context, OF_JUDGE, "goes with a judge, here --judge none.")
        return
    refuse_these(context, OF_JUDGE, "goes with --task text; other tasks have right answers.")
    if task == "sudoku":
        refuse_these(
            context,
            (*OF_FILE, "max_new_tokens"),
            "does not go with --task sudoku, which fills grids.",
        )
    else:
        refuse_these(context, OF_SUDOKU, "goes with --task sudoku.")


def _task(
    name: str,
    denoiser: Denoiser,
    samples: int,
    prompts: str | None,
    max_new_tokens: int,
    clues: int,
    pattern: str | None,
) -> Task:
    from dlm_eval.comparison.tasks import (
        BOOKS,
        SudokuTask,
        TextTask,
        book_task,
        ends_of,
        read_file_task,
    )
    from dlm_sampling.testing.sudoku import CELLS, MASK

    if name == "text":
        if max_new_tokens == 0:
            raise UsageError("--max-new-tokens 0: task text needs at least 1.")
        if prompts == BOOKS and not Path(BOOKS).exists():
            return book_task(denoiser, samples, max_new_tokens)
        lines = () if prompts is None else tuple(read_lines(prompts, "--prompts"))
        return TextTask(max_new_tokens, lines, ends_of(denoiser))
    if prompts is not None:
        raise UsageError("--prompts goes with --task text; a task file has its own.")
    if name == "sudoku":
        if denoiser.mask_token_id != MASK or denoiser.max_length != CELLS:
            raise UsageError("--task sudoku: is the task of the embedded model sudoku4x4.")
        return SudokuTask(samples, clues)
    return read_file_task(Path(name), samples, max_new_tokens or None, pattern, denoiser)


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
