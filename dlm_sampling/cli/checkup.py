"""Run `dlm-sampling doctor` and `dlm-sampling bench`: check a model, measure the arithmetic."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlm_sampling.cli.io import check_model
from dlm_sampling.cli.own_sampler import find_sampler
from dlm_sampling.errors import UsageError
from dlm_sampling.viewers.safe_text import json_line, one_line, printable

if TYPE_CHECKING:
    from rich.table import Table

    from dlm_sampling.checkup.bench import BenchReport
    from dlm_sampling.checkup.bench_loop import LoopReport


def doctor(
    model: Annotated[str, typer.Argument(help="Embedded model, folder, or name on the hub.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON.")] = False,
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
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own Python code.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Commit on the hub.")] = None,
) -> None:
    """Check whether a model behaves as a denoiser must."""
    from dlm_sampling.checkup.doctor import diagnose

    report = diagnose(
        check_model(model),
        dtype=dtype,
        device_map=device,
        trust_remote_code=trust_remote_code,
        revision=revision,
        quantize=quantize,
    )
    if as_json:
        print(json_line(report.to_dict()))
    else:
        print(printable(f"{report.model} ({report.family})"))
        for check in report.checks:
            remedy = f"; {check.remedy}" if check.remedy and check.remedy != check.detail else ""
            print(f"  {check.status:<4}  {check.name:<17}  {one_line(check.detail + remedy)}")
    failed = [check.name for check in report.checks if check.status == "fail"]
    if failed:
        raise RuntimeError(f"'{model}' failed: {', '.join(failed)}. The report has the remedies.")


bench = typer.Typer(rich_markup_mode=None)


@bench.callback(invoke_without_command=True)
def arithmetic(
    context: typer.Context,
    rows: Annotated[int, typer.Option(help="Positions to sample.")] = 256,
    vocab: Annotated[int, typer.Option(help="Columns of the logits.")] = 126464,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16.")] = "float32",
    temperature: Annotated[float, typer.Option(help="0 is argmax.")] = 1.0,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    repeats: Annotated[int, typer.Option(help="Rounds that are counted.")] = 5,
    fused: Annotated[
        bool, typer.Option("--fused", help="Also the pass compiled by DLM_FUSED_CPU=on.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON.")] = False,
) -> None:
    """Measure the sampling arithmetic beside published ones; `bench loop` measures the loop."""
    if context.invoked_subcommand is not None:
        return
    from dlm_sampling.checkup.bench import run_bench

    report = run_bench(rows, vocab, dtype, temperature, threads, repeats, compiled=fused)
    _show(report, [report.table(), *report.law_tables()], as_json)


@bench.command()
def loop(
    sampler: Annotated[
        list[str] | None, typer.Option(help="Sampler to measure; repeat. Default all.")
    ] = None,
    rows: Annotated[list[int] | None, typer.Option(help="Rows; repeat. Default 1.")] = None,
    length: Annotated[
        list[int] | None, typer.Option(help="Positions of a row; repeat. Default 64 and 256.")
    ] = None,
    vocab: Annotated[int, typer.Option(help="Columns of the logits.")] = 1000,
    steps: Annotated[int, typer.Option(help="Planned steps of a run.")] = 32,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    repeats: Annotated[int, typer.Option(help="Rounds that are counted.")] = 3,
    seconds: Annotated[
        float, typer.Option(help="Processor time after which a sampler gets no further round.")
    ] = 1.0,
    *,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Sampler of which is also said in which functions its time goes; repeat."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Result file (JSON), written after each sampler; the same command resumes.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON.")] = False,
) -> None:
    """Measure a step outside of the network, by sampler, beside loops written by hand."""
    from tqdm import tqdm

    from dlm_sampling.checkup.bench_loop import LoopReport, run_bench_loop

    settings = [(count, long) for count in rows or (1,) for long in length or (64, 256)]
    settings = list(dict.fromkeys(settings))
    names = list(dict.fromkeys(find_sampler(name).name for name in sampler or ()))
    begun = None
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise UsageError(f"--out {out}: must be a file in a folder that exists.")
    if out is not None and out.exists():
        try:
            begun = LoopReport.of(json.loads(out.read_bytes()))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"--out {out}: is no result of this command; remove it, or choose another file."
            ) from error
    with tqdm(disable=None, leave=False, bar_format="{n} measured [{elapsed}] {postfix}") as bar:

        def watch(name: str, report: LoopReport) -> None:
            if out is not None:
                _write(report, out)
            bar.update(len(report.loops) - bar.n)
            bar.set_postfix_str(name)

        report = run_bench_loop(
            names, settings, vocab, steps, threads, repeats,
            [find_sampler(name).name for name in profile or ()],
            seconds=seconds, begun=begun, watch=watch,
        )  # fmt: skip
    if out is not None:
        _write(report, out)
    _show(report, report.tables(), as_json)


def _write(report: LoopReport, out: Path) -> None:
    """Write a report to a file, which holds a whole one at any time."""
    made = out.with_name(f"{out.name}.partial")
    made.write_text(json_line(_record(report)) + "\n", encoding="utf-8")
    made.replace(out)


def _record(report: BenchReport | LoopReport) -> dict[str, object]:
    """Return a report with the command that made it."""
    return {"command": shlex.join(["dlm-sampling", *sys.argv[1:]]), **asdict(report)}


def _show(report: BenchReport | LoopReport, tables: list[Table], as_json: bool) -> None:
    """Print a report as one line of JSON that names its command, or as tables."""
    if as_json:
        print(json_line(_record(report)))
        return
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table, width=None if console.is_terminal else 120)
