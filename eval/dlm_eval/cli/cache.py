"""Run `dlm-sampling eval cache`: how far cache policies move the laws and the texts of a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlm_eval.cli.words import BOOKS, check_out, command_line, read_lines
from dlm_sampling.errors import UsageError, unknown_choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlm_eval.report.results import Metric
    from dlm_sampling.caches import AnyPolicy

JOURNAL = "journal/cache.jsonl"
PROMPT_CHARACTERS = 48
SHOWN = {
    "tokens that differ": "differ %",
    "equal texts": "equal %",
    "NFE": "NFE",
    "work": "work",
    "KL, mean": "KL, nats",
    "drawn tokens that differ": "drawn %",
}
LEGEND = (
    "differ, equal: tokens and whole texts, against those of the exact run",
    "KL, drawn: laws, and tokens drawn from them, against the exact law of the step",
)


def cache(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Embedded model, folder, or name on the hub.")],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the results; the same command resumes.")
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="NAME[:FIELD=VALUE,...]",
            help="block, prefix, dual, vicinity, dkv, dpad, adaptive, dllm, such as dkv:every=4; "
            "repeat. Default: all that the model and the sampler allow.",
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="Name, own one as module:Name, or .json; default llada.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Parameter of the sampler; repeat."),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(help="File of lines to continue; books: passages of the held-out books."),
    ] = BOOKS,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Texts.")] = 16,
    steps: Annotated[
        int | None, typer.Option(help="Planned steps; default one per new token.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each text.")] = 64,
    block_length: Annotated[
        int | None, typer.Option(min=1, help="Of the blocks; default the model's own, or 32.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Default the sampler's.")] = None,
    audit: Annotated[
        float, typer.Option(help="Share of passes that are audited, 0 < share <= 1.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(help="Text i draws from seed + i.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts that run, and are audited, together.")
    ] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, auto.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, auto.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Commit of the model on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own Python code.")
    ] = False,
) -> None:
    """Measure cache policies: KL and flips against the exact law, and the tokens that differ.

    Every policy draws with the random numbers of the exact run.  Audits compare the law of a pass
    with the exact one on the same canvas; the exact run is repeated one text at a time, which shows
    what rounding alone changes.  Writes results.json, samples.jsonl and report.html.  Of several
    processes the first measures, as times and audits do not divide.
    """
    check_out(out)
    if settings and sampler is None:
        raise UsageError("--set goes with --sampler NAME.")
    if not 0.0 < audit <= 1.0:
        raise UsageError(f"--audit {audit}: must be a share in (0, 1].")
    from_books = prompts == BOOKS and not Path(BOOKS).exists()
    lines = None if from_books else read_lines(prompts, "--prompts")

    from dlm_sampling.jobs import rank_of

    if rank_of(os.environ).index:
        typer.echo(f"{out}: is left to process 0.")
        return

    from tqdm import tqdm

    from dlm_eval.caches.meter import Asked, collected, figures, measure
    from dlm_eval.data import passages
    from dlm_eval.journal import Journal
    from dlm_eval.report import Results, write_folder
    from dlm_eval.text.read import digest
    from dlm_sampling import AutoDenoiser
    from dlm_sampling.caches import POLICIES
    from dlm_sampling.cli import check_model, find_sampler, parse_settings
    from dlm_sampling.jobs import BlockRequest, GenerateOptions, LawOptions, fitting_caches

    tried = dict(_policy(text) for text in policy or ())
    chosen: dict[str, object] = {}
    if sampler is not None:
        chosen = parse_settings(settings or [], find_sampler(sampler).build, sampler)
    denoiser = AutoDenoiser.from_pretrained(
        check_model(model), dtype=dtype, device_map=device, trust_remote_code=trust_remote_code,
        revision=revision,
    )  # fmt: skip
    if block_length is None and denoiser.block_length is None and denoiser.canvas_length is None:
        block_length = 32
    given = passages(samples, PROMPT_CHARACTERS) if lines is None else lines
    options = GenerateOptions(
        sampler=sampler,
        sampler_options=chosen,
        max_new_tokens=max_new_tokens,
        blocks=BlockRequest(block_length, steps),
        law=LawOptions(temperature),
    )
    asked = Asked([given[i % len(given)] for i in range(samples)], options, seed, audit, batch_size)
    legal = fitting_caches(denoiser, list(asked.prompts), options, [*tried.values()])
    tried = tried or {name: POLICIES[name]() for name in legal[1:]}
    if not tried:
        raise UsageError(f"{model}: no cache fits this model with this sampler; see --policy.")
    subject = {
        "model": model,
        "revision": revision,
        "dtype": str(denoiser.dtype),
        "sampler": sampler or "default",
        **{f"sampler.{name}": str(value) for name, value in chosen.items()},
        "policies": {name: repr(one) for name, one in tried.items()},
        "seed": seed,
    }
    protocol = {
        "task": "cache",
        "prompts": digest(list(asked.prompts)),
        "texts": samples,
        "max_new_tokens": max_new_tokens,
        "block_length": block_length,
        "steps": steps,
        "temperature": temperature,
        "audit": audit,
        "eos": "keep",
    }
    facts = {"subject": subject, "protocol": protocol, "batch_size": batch_size}
    journal = Journal(out / JOURNAL, facts)  # the texts of a batch are audited together
    with tqdm(total=(2 + len(tried)) * samples, unit="text", disable=None) as bar:
        for done in measure(denoiser, asked, tried, journal):
            bar.update(done - bar.n)
    found = collected(journal.records)
    metrics = figures(found)
    rows = [
        {"group": name, "row": i, "prompt": asked.prompts[i], "text": decoded}
        for name, one in found.items()
        for i, decoded in enumerate(denoiser.tokenizer.batch_decode(one.tokens))
    ]
    results = Results(
        command=command_line(context), subject=subject, protocol=protocol, metrics=tuple(metrics)
    )
    write_folder(out, results, rows)
    for line in table(metrics):
        typer.echo(line)
    typer.echo(f"{out}: results.json, samples.jsonl, report.html", err=True)


def table(metrics: Sequence[Metric]) -> list[str]:
    """Return the lines that a terminal shows, at most 80 wide: a setting in each."""
    groups = list(dict.fromkeys(metric.group for metric in metrics))
    found = {(metric.group, metric.name): f"{metric.value:.3g}" for metric in metrics}
    width = max(map(len, groups))
    lines = [" " * width + "".join(f"{words:>9}" for words in SHOWN.values())]
    for group in groups:
        cells = (found.get((group, name), "") for name in SHOWN)
        lines.append(f"{group:<{width}}" + "".join(f"{cell:>9}" for cell in cells))
    return [*(line.rstrip() for line in lines), *LEGEND]


def _policy(text: str) -> tuple[str, AnyPolicy]:
    """Read "name:field=value,..." and return it with its policy.

    Raises:
        UsageError: there is no such policy or field, or the value is wrong.
    """
    from dlm_sampling.caches import POLICIES
    from dlm_sampling.cli import parse_cache

    found = parse_cache(text, "--policy")
    if not isinstance(found, str):
        return text, found
    if found not in POLICIES:
        raise UsageError(str(unknown_choice("--policy", found, POLICIES)))
    return text, POLICIES[found]()
