"""Run `dlm-sampling eval tasks`: tasks of lm-evaluation-harness, with local data where it ships."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dlm_eval.cli.words import check_out, command_line
from dlm_sampling.errors import UsageError

JOURNALS = "answers"
EXTRA = "pip install 'dlm-sampling[lm-eval]'"


def tasks(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Embedded model, folder, or name on the hub.")],
    *,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            help="Names with commas; sudoku4x4, countdown, gsm8k, humaneval, mbpp are local.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results and report.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Argument of the model dlm, such as sampler=klass, steps=64, block_length=32, "
            "masks=128; repeat.",
        ),
    ] = None,
    fewshot: Annotated[int | None, typer.Option(min=0, help="Examples in the prompt.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the files of the local tasks, as published: gsm8k_test and "
            "gsm8k_train, HumanEval, sanitized-mbpp or mbpp, countdown_cd3_test, 4x4_test_sudoku; "
            "each .jsonl, .json or .csv, also with .gz."
        ),
    ] = None,
    downloads: Annotated[
        bool, typer.Option("--harness-tasks", help="Allow the harness's own tasks (they download).")
    ] = False,
    confirm_run_unsafe_code: Annotated[
        bool,
        typer.Option("--confirm_run_unsafe_code", help="Run programs that the model wrote."),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per forward pass.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed repeats the run.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, auto.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own Python code.")
    ] = False,
) -> None:
    """Run tasks of lm-evaluation-harness with any sampler.

    A killed run goes on when the same command is given again. Several processes share the requests
    with DLM_SHARD=i/n and give the answers of one; the last to finish writes the results.

    In the harness itself, `import dlm_eval.tasks.harness` makes the model "dlm" known to
    simple_evaluate, and its DiffusionLM(denoiser) is an instance; the command lm_eval with that
    import is: python -m dlm_eval.tasks.harness --model dlm --model_args pretrained=tiny-books.
    """
    check_out(out)
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UsageError(f"eval tasks needs lm-evaluation-harness: {EXTRA}") from error
    from dlm_eval.report import Metric, Results, write_folder
    from dlm_eval.report.intervals import variance, wilson_note
    from dlm_eval.tasks.harness import DiffusionLM
    from dlm_eval.tasks.local.rules import DATA
    from dlm_eval.text.read import digest
    from dlm_sampling.denoisers import hub_in_reach
    from dlm_sampling.jobs import rank_of

    given: dict[str, Any] = {}
    for text in settings or []:
        name, separator, value = text.partition("=")
        if not separator:
            raise UsageError(f"--set {text}: write NAME=VALUE.")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    if data is not None and not data.is_dir():
        raise UsageError(f"--data {data}: there is no such folder.")
    # The harness tells whoever runs a task of one's own how to write one.
    logging.getLogger("lm_eval.api.task").addFilter(
        lambda record: "Custom kwargs can be passed" not in record.getMessage()
    )
    manager = TaskManager(
        include_path=str(DATA.parent),
        include_defaults=downloads,
        metadata={} if data is None else {"folder": str(data.resolve())},
    )
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    missing = [name for name in names if name not in manager.all_tasks]
    if missing or not names:
        local = ", ".join(sorted(path.stem for path in DATA.parent.glob("*.yaml")))
        raise UsageError(f"--tasks {tasks}: {missing or 'none'} not known; local are {local}.")
    try:
        language_model = DiffusionLM(
            model, batch_size=batch_size, seed=seed, device=device,
            trust_remote_code=trust_remote_code, journal=out / JOURNALS, blanks=True, **given,
        )  # fmt: skip
    except TypeError as error:
        raise UsageError(f"--set: {error}") from error
    rank = rank_of(os.environ)
    # The harness gives results to the first process of a machine alone; any may be the last here.
    os.environ.pop("LOCAL_RANK", None)

    def evaluated(*, answers_only: bool) -> dict[str, Any]:
        unreachable: str | None = None
        try:
            with _no_git(), hub_in_reach(asked=downloads) as unreachable:
                found = lm_eval.simple_evaluate(
                    model=language_model, tasks=names, num_fewshot=fewshot, limit=limit,
                    task_manager=manager, confirm_run_unsafe_code=confirm_run_unsafe_code,
                    bootstrap_iters=0, predict_only=answers_only,
                )  # fmt: skip
        except ValueError as error:
            if "unsafe" in str(error):
                raise UsageError(f"{error} Here: --confirm_run_unsafe_code.") from error
            raise
        except ConnectionError as error:  # the data is not in the cache either
            if unreachable is None:
                raise
            raise UsageError(f"--tasks {tasks}: {error}; {unreachable}.") from error
        assert found is not None
        return found

    if rank.world > 1:
        evaluated(answers_only=True)
        if language_model.missing:
            typer.echo(f"{out}: the share of process {rank.index} is done; others are not.")
            return
    found = evaluated(answers_only=False)
    figures = []
    for name, row in found["results"].items():
        count = found["n-samples"][name]["effective"]
        for key, value in row.items():
            metric, _, rule = key.partition(",")
            if isinstance(value, float) and rule and "_stderr" not in metric:
                # The standard error of a mean of 0 and 1, as all of these are but "cells".
                error = variance(round(value * count), count) ** 0.5
                chance = 0 <= value <= 1 and metric != "cells"
                label = metric if rule == "none" else f"{metric} ({rule})"
                figures.append(
                    Metric(
                        name=label,
                        value=value,
                        unit="",
                        n=count,
                        better="larger",
                        group=name,
                        error=error if chance and count > 1 else None,
                        note=wilson_note(value * count, count) if chance else "",
                    )
                )
    samples: dict[tuple[str, int], dict[str, Any]] = {}
    documents: dict[tuple[str, int], str] = {}
    for name, rows in found["samples"].items():
        for sample in rows:  # once for every filter of the task
            place = name, sample["doc_id"]
            documents[place] = json.dumps(sample["doc"], sort_keys=True, default=str)
            row = samples.setdefault(
                place,
                {
                    "group": name,
                    "row": sample["doc_id"],
                    "prompt": str(sample["arguments"][0][0]),
                    "text": str(sample["resps"][0][0]),
                    "reference": str(sample["target"]),
                },
            )
            rule = "" if sample["filter"] == "none" else f" ({sample['filter']})"
            row |= {f"{metric}{rule}": sample[metric] for metric in sample["metrics"]}
    results = Results(
        command=command_line(context),
        subject={
            "model": model,
            **language_model.weights,
            "seed": seed,
            **language_model.resolved(),
        },
        protocol={
            "harness": lm_eval.__version__,
            "tasks": names,
            "fewshot": fewshot,
            "limit": limit,
            "versions": {name: str(v) for name, v in found["versions"].items()},
            "max_new_tokens": language_model.max_new_tokens,
            "bound": asdict(language_model.protocol),
            "greedy": language_model.greedy,
            "documents": digest(list(documents.values())),
        },
        metrics=tuple(figures),
    )
    write_folder(out, results, samples.values())
    for metric in figures:
        error = "" if metric.error is None else f" ± {metric.error:.3f}"
        typer.echo(f"{metric.group} {metric.name}: {metric.value:.3f}{error} (n = {metric.n})")
    typer.echo(f"{out}: results.json, samples.jsonl, report.html", err=True)


@contextmanager
def _no_git() -> Generator[None]:
    """Keep the harness from asking git for a commit, which complains on the terminal elsewhere."""
    from lm_eval import evaluator

    asks = evaluator.get_git_commit_hash
    evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = asks
