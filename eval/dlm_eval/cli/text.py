"""Run `dlm-sampling eval text`: generate or read texts, and score them beside references."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlm_eval.cli.words import check_judging, check_out, command_line, is_given, refuse_others
from dlm_sampling.errors import UsageError

if TYPE_CHECKING:
    from dlm_eval.report import Results

SHARD_ROWS = 64
OF_TEXTS = (
    "out", "texts", "column", "samples", "judge", "judge_revision", "reduction", "add_bos",
    "reference", "reference_column", "features", "mauve_seeds", "device",
)  # fmt: skip
"""Options that go with texts of a file."""


def text(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="Embedded model, folder, or name on the hub.")
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the results; the same command resumes it."),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(help="Judge these texts instead of generating: .jsonl, .txt, .csv, .parquet."),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Of --texts: column of the text; default text.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="Name, own one as module:Name, or .json; default the model's own."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Parameter of the sampler; repeat."),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            "-n",
            min=1,
            help="Texts; with prompts, texts per prompt; of --texts the first.",
        ),
    ] = 128,
    prompts: Annotated[
        str | None, typer.Option(help="Prompts to continue, as --input of generate takes them.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Planned steps; default one per new token.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each text.")] = 128,
    block_length: Annotated[
        int | None, typer.Option(help="Write blocks of this length from left to right.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Default the sampler's.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k most likely tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the head with this mass.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Keep tokens above this fraction of the largest.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed repeats the texts.")] = 0,
    judge: Annotated[
        str,
        typer.Option(help="Causal language model that judges: own, folder, or name on the hub."),
    ] = "own",
    judge_revision: Annotated[str | None, typer.Option(help="Commit on the hub.")] = None,
    reduction: Annotated[
        str, typer.Option(help="Of the perplexity: corpus (as published) or text (mean).")
    ] = "corpus",
    add_bos: Annotated[
        bool, typer.Option("--add-bos", help="Put the beginning in front of each text.")
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Texts of people: a file, a data set, books (two held-out children's books) or "
            "none; default books with the own judge, else none."
        ),
    ] = None,
    reference_column: Annotated[
        str | None, typer.Option(help="Of --reference: column of the text; default text.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Model of MAUVE's features: own, folder, name on the hub, or none; default "
            "gpt2-large as published, and own with the own judge."
        ),
    ] = None,
    mauve_seeds: Annotated[int, typer.Option(min=1, help="Seeds of k-means, from 25.")] = 5,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts that run together; no effect on the texts.")
    ] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, auto.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, auto.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Commit of the model on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own Python code.")
    ] = False,
) -> None:
    """Score the texts of a model: perplexity, entropy, MAUVE, repetition, length, NFE.

    Writes results.json, samples.jsonl and report.html.  Several processes (DLM_SHARD=i/n, torchrun,
    accelerate) share the generation and give the texts of one.
    """
    if (model is None) == (texts is None):
        raise UsageError("Give a MODEL that generates, or --texts FILE; one of the two.")
    if out is None:
        raise UsageError("--out: name the folder of the results, such as --out runs/text.")
    check_out(out)
    if texts is not None:
        refuse_others(context, OF_TEXTS, "goes with a MODEL, not with --texts.")
    check_judging(context, reference, features)
    if column is not None and texts is None:
        raise UsageError("--column: goes with --texts.")
    if settings and sampler is None:
        raise UsageError("--set goes with --sampler NAME.")

    from dlm_eval.text.judging import JudgeOptions
    from dlm_eval.text.run import judge_job, judge_texts
    from dlm_sampling.cli import check_model, find_sampler, parse_settings
    from dlm_sampling.jobs import (
        BlockRequest,
        GenerateOptions,
        Job,
        LawOptions,
        PromptItem,
        rank_of,
        read_prompts,
    )

    items = [PromptItem("")] * samples
    if prompts is not None:
        try:
            items = read_prompts(prompts)
        except OSError as error:
            raise UsageError(f"--prompts {prompts}: {error.strerror or error}.") from error
        if wrong := next((item.error for item in items if item.error is not None), None):
            raise UsageError(f"--prompts: {wrong}")
    rank = rank_of(os.environ)
    judging = JudgeOptions(
        judge=judge,
        judge_revision=judge_revision,
        reduction=reduction,
        add_bos=add_bos,
        reference=reference,
        reference_column=reference_column,
        features=features,
        mauve_seeds=mauve_seeds,
        device=device,
    )
    command = command_line(context)
    if texts is not None:
        count = samples if is_given(context, "samples") else None
        results = judge_texts(texts, column, count, judging, out, rank, command)
    else:
        chosen: dict[str, object] = {}
        if sampler is not None:
            chosen = parse_settings(settings or [], find_sampler(sampler).build, sampler)
        options = GenerateOptions(
            sampler=sampler,
            sampler_options=chosen,
            max_new_tokens=max_new_tokens,
            blocks=BlockRequest(block_length, steps),
            seed=seed,
            law=LawOptions(temperature, top_k, top_p, min_p),
            num_return_sequences=1 if prompts is None else samples,
        )
        job = Job(
            items,
            out / "samples",
            check_model(str(model)),
            options,
            shard_rows=SHARD_ROWS,
            batch_rows=batch_size,
            file_format="jsonl",
            max_errors=0,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        results = judge_job(job, max_new_tokens, judging, out, rank, command)
    if results is None:
        typer.echo(f"{out}: the share of process {rank.index} is done; the first process scores.")
        return
    for line in lines_of(results):
        typer.echo(line)
    typer.echo(f"{out}: results.json, samples.jsonl, report.html", err=True)


def lines_of(results: Results) -> list[str]:
    """Return the figures and the warnings as lines for the terminal."""
    lines = [f"protocol {results.protocol_hash}"]
    for metric in results.metrics:
        name = metric.name + (f" of the {metric.group}" if metric.group else "")
        error = "" if metric.error is None else f" +- {metric.error:.3g}"
        unit = f" {metric.unit}" if metric.unit else ""
        note = f" ({metric.note})" if metric.note else ""
        lines.append(f"{name}: {metric.value:.4g}{error}{unit}, n = {metric.n}{note}")
    return lines + [f"Warning: {warning}" for warning in results.warnings]
