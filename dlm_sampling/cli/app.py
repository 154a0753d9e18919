"""Define the command `dlm-sampling` and its subcommands.

The result goes to standard output, everything else to standard error.  Exit codes: 0 success,
1 failure, 2 wrong usage (an option, a prompt or a model that cannot be used), 3 rows of a job
failed, 4 the output was begun with other options, 70 the device is lost, 130 interrupted.  A
failure is one line; `--debug` adds the traceback.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, cast

import typer
from typer.main import get_command

from dlm_sampling.cli.checkup import bench, doctor
from dlm_sampling.cli.config import prompts_of, read_config, write_config
from dlm_sampling.cli.evaluate import PASSED_ON, evaluate
from dlm_sampling.cli.exits import end, note
from dlm_sampling.cli.io import (
    check_model,
    collect_prompts,
    parse_cache,
    parse_settings,
    parse_template,
    parse_times,
    read_constraint,
    refuse_bad,
    refuse_settings,
)
from dlm_sampling.cli.learn import learn
from dlm_sampling.cli.origin import told_at_its_place
from dlm_sampling.cli.output import JSON_SUFFIXES, is_folder, open_output
from dlm_sampling.cli.own_sampler import find_sampler
from dlm_sampling.errors import UsageError
from dlm_sampling.text.prompt_files import PromptSource
from dlm_sampling.viewers.safe_text import json_line

if TYPE_CHECKING:
    from dlm_sampling.text.rows import Eos

PROGRAM = "dlm-sampling"
DEFAULT_MODEL = "tiny-books"
BATCH_ROWS = 16

app = typer.Typer(
    name=PROGRAM,
    help="Samplers for diffusion language models: exact, batched, importable.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from dlm_sampling import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a failure (anywhere).")
    ] = False,
) -> None:
    """Samplers for diffusion language models: exact, batched, importable."""


@app.command()
def generate(
    context: typer.Context,
    *,
    prompt: Annotated[
        list[str] | None, typer.Argument(help='Prompts; "" generates without one.')
    ] = None,
    model: Annotated[
        str, typer.Option(help="Embedded model, folder of a checkpoint, or name on the hub.")
    ] = DEFAULT_MODEL,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Name (see: dlm-sampling samplers), your own as module:Name or file.py:Name, or "
            ".json file of dlm-sampling learn; default the model's own."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Parameter of the sampler; repeat."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Planned steps; default one per new token.")
    ] = None,
    max_nfe: Annotated[int | None, typer.Option(help="Most forward passes of a text.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens to append to each prompt; default 128.")
    ] = None,
    block_length: Annotated[
        int | None, typer.Option(help="Write blocks of this length from left to right.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="0 is argmax, 1 the model's own law; default the sampler's."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k most likely tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the head with this mass.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Keep tokens above this fraction of the largest.")
    ] = None,
    typical_p: Annotated[
        float | None, typer.Option(help="Keep the most typical tokens of this mass.")
    ] = None,
    eta_cutoff: Annotated[
        float | None, typer.Option(help="Keep tokens above a bound that falls with the entropy.")
    ] = None,
    top_n_sigma: Annotated[
        float | None, typer.Option(help="Keep logits within n deviations of the largest.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Divide the logits of tokens of the row; 1 is none.")
    ] = None,
    presence_penalty: Annotated[
        float | None, typer.Option(help="Subtract from the logits of written tokens; 0 is none.")
    ] = None,
    guidance_scale: Annotated[
        float, typer.Option(help="Classifier-free guidance; 0 is none.")
    ] = 0.0,
    start: Annotated[
        str | None, typer.Option(help="A draft to refine in place of noise, for all prompts.")
    ] = None,
    t_start: Annotated[
        float | None, typer.Option(help="Noise the draft to this time, and begin there.")
    ] = None,
    renoise: Annotated[
        bool, typer.Option("--renoise/--no-renoise", help="Or take it as it is at --t-start.")
    ] = True,
    times: Annotated[
        str | None, typer.Option(help="Times of the steps, falling: 1,0.6,0.3,0.")
    ] = None,
    eos: Annotated[str, typer.Option(help="End-of-text: keep, cut, stop, fill or auto.")] = "auto",
    stop: Annotated[
        list[str] | None, typer.Option(help="End a text before this string; repeat.")
    ] = None,
    regex: Annotated[str | None, typer.Option(help="Expression that every text matches.")] = None,
    json_schema: Annotated[Path | None, typer.Option(help="File of every text's schema.")] = None,
    grammar: Annotated[Path | None, typer.Option(help="File of every text's grammar.")] = None,
    grammar_depth: Annotated[
        int | None, typer.Option(help="Parts of the grammar inside each other; default 4.")
    ] = None,
    banned: Annotated[list[str] | None, typer.Option(help="Words of no text; repeat.")] = None,
    required: Annotated[list[str] | None, typer.Option(help="Words of every text; repeat.")] = None,
    watermark: Annotated[int | None, typer.Option(help="Secret key of a watermark.")] = None,
    add_special_tokens: Annotated[
        bool | None,
        typer.Option(
            "--add-special-tokens/--no-add-special-tokens",
            help="Encode prompts with the tokenizer's special tokens, or without; default with, "
            "but no second begin token.",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Argument of the chat template; repeat."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed repeats the run.")] = 0,
    samples: Annotated[
        int, typer.Option("--num-return-sequences", "-n", min=1, help="Texts per prompt.")
    ] = 1,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            "-i",
            help="Prompts: .txt, .jsonl, .json, .csv, .parquet, a data set's folder or name on "
            "the hub (org/name@revision); - is stdin.",
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of the prompt; default prompt, else messages.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a data set.")] = "train",
    subset: Annotated[str | None, typer.Option(help="Configuration of a data set.")] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="File for the results, or a folder (end it with /) for a job that the same "
            "command resumes, on any number of processes; default stdout.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the JSON lines of --output.")
    ] = False,
    shard_rows: Annotated[int, typer.Option(help="Of a job: prompts per file.")] = 256,
    file_format: Annotated[
        str, typer.Option("--format", help="Of a job: parquet or jsonl.")
    ] = "parquet",
    max_errors: Annotated[
        str, typer.Option(help="Of a job: rows that may fail, as a number or a share.")
    ] = "1%",
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines: text, ids, NFE, seed.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Show the canvas while it is denoised.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Rows that run together; no effect on the text.")
    ] = BATCH_ROWS,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, auto; default a GPU if there is one.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, auto.")] = "auto",
    quantize: Annotated[
        str | None,
        typer.Option(
            help="Quantise the linear layers: int8, int8-dynamic, int4 (torchao); llm-int8, nf4 "
            "(bitsandbytes)."
        ),
    ] = None,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="On a GPU: record a step and replay it.")
    ] = False,
    cache: Annotated[
        str,
        typer.Option(
            metavar="NAME[:FIELD=VALUE,...]",
            help="Keys and values of earlier passes: auto (exact), none, block; approximate: "
            "prefix, dual, vicinity, dkv, dpad, adaptive, dllm, such as dkv:every=4.",
        ),
    ] = "auto",
    speculate: Annotated[int, typer.Option(help="Canvases of a row in one pass. Same text.")] = 1,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own Python code.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Commit on the hub.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No closing line.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(callback=read_config, is_eager=True, help="TOML file with options."),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the options in force as TOML, and stop.")
    ] = False,
) -> None:
    """Write text with a diffusion language model."""
    if print_config:
        print(write_config(context))
        return
    prompt, source = prompts_of(context)
    given = None if source is None else PromptSource(source, column, split, subset)
    items = collect_prompts(prompt, given)
    as_json = as_json or (output or "").endswith(JSON_SUFFIXES)
    as_job = is_folder(output)
    if as_job and live:
        raise UsageError("--live shows one run; a job in a folder has a progress bar.")
    if resume and not (as_json or as_job):
        raise UsageError("--resume goes on with JSON lines: --json, or --output NAME.jsonl.")
    if not as_job:
        refuse_bad(items)
    constraint = read_constraint(regex, json_schema, grammar, grammar_depth, banned, required)
    path = None if as_job or output is None else Path(output)
    if as_job:
        from dlm_sampling.jobs.manifest import make_folder

        make_folder(Path(output or ""))
    with open_output(path, resume=resume) as sink:
        from dlm_sampling import AutoDenoiser
        from dlm_sampling.engine.request import BlockRequest
        from dlm_sampling.jobs.rank import rank_of
        from dlm_sampling.text.options import GenerateOptions, LawOptions, default_sampler

        if sampler is not None:
            refuse_settings(prompt, find_sampler(sampler))
        rank = rank_of(os.environ)
        if rank.world > 1 and not as_job:
            raise UsageError(
                f"By the environment this is process {rank.index} of {rank.world}, and each would "
                "write all rows: give a folder as --output, such as out/, or set DLM_SHARD=0/1 if "
                "this process is to write them alone."
            )
        denoiser = AutoDenoiser.from_pretrained(
            check_model(model),
            dtype=dtype,
            device_map=rank.device(device) if as_job else device,
            trust_remote_code=trust_remote_code,
            revision=revision,
            quantize=quantize,
        )
        name = sampler or default_sampler(denoiser)
        options = GenerateOptions(
            # None keeps the checkpoint's own defaults in force; any name would replace them.
            sampler=sampler,
            sampler_options=parse_settings(settings or [], find_sampler(name).build, name),
            max_new_tokens=max_new_tokens,
            blocks=BlockRequest(block_length, steps),
            seed=seed,
            law=LawOptions(
                temperature,
                top_k,
                top_p,
                min_p,
                typical_p=typical_p,
                eta_cutoff=eta_cutoff,
                top_n_sigma=top_n_sigma,
                repetition_penalty=repetition_penalty,
                presence_penalty=presence_penalty,
            ),
            guidance_scale=guidance_scale,
            num_return_sequences=samples,
            eos=cast("Eos", eos),  # `prepare` checks it
            stop=stop or None,
            add_special_tokens=add_special_tokens,
            chat_template_kwargs=parse_template(template or []),
            cuda_graph=cuda_graph,
            cache=parse_cache(cache),
            max_nfe=max_nfe,
            speculate=speculate,
            start=start,
            t_start=t_start,
            renoise=renoise,
            times=parse_times(times),
            constraint=constraint,
            watermark=watermark,
        )
        begun = time.monotonic()
        if as_job:
            from dlm_sampling.cli.job import error_limit, run_folder
            from dlm_sampling.jobs import Job

            job = Job(
                items,
                output or "",
                model,
                options,
                shard_rows=shard_rows,
                batch_rows=batch_size,
                file_format=cast("Literal['parquet', 'jsonl']", file_format),  # `Job` checks it
                max_errors=error_limit(max_errors, items, samples),
                revision=revision,
                quantize=quantize,
            )
            closing, machine = run_folder(job, denoiser, rank)
        else:
            from dlm_sampling.cli.generate import Run, open_live

            canvas = open_live(denoiser) if live else None
            run = Run(denoiser, options, as_json, model, name, canvas)
            run.run(items, batch_size, sink)
            closing = run.closing
            machine = run.machine
    if not quiet:
        note(f"{name}, seed {seed}, {closing}, {time.monotonic() - begun:.1f} s {machine}")


@app.command()
def samplers(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON.")] = False,
) -> None:
    """List every sampler with its paper, parameters and defaults."""
    from dlm_sampling.cli.samplers import as_record, describe
    from dlm_sampling.samplers import available

    entries = list(available().values()) if name is None else [find_sampler(name)]
    if as_json:
        print(json_line([as_record(entry) for entry in entries]))
        return
    for entry in entries:
        print(describe(entry, whole=name is not None))


app.command()(doctor)
app.add_typer(bench, name="bench")
app.command()(learn)
app.command("eval", add_help_option=False, context_settings=PASSED_ON)(evaluate)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command, and turn its result or error into an exit code and at most one line."""
    end(run, list(sys.argv[1:] if arguments is None else arguments))


def run(words: list[str]) -> None:
    """Parse the arguments and run the subcommand, without typer's own error handling."""
    command = get_command(app)
    with command.make_context(PROGRAM, words) as context, told_at_its_place(context, words):
        command.invoke(context)
