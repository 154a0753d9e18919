"""Run `dlm-sampling eval bound`: the likelihood bound of texts under a model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from dlm_eval.cli.words import BOOKS, check_out, command_line
from dlm_sampling.errors import UsageError, unknown_choice

JOURNALS = "journal"
MOST_NAMES = 20  # rows that a warning names
MOST_GROUPS = 50  # documents with a table row of their own
SHOWN = 300  # characters of a text in the report


def bound(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Embedded model, folder, or name on the hub.")],
    *,
    data: Annotated[
        str,
        typer.Option(
            help="Texts: .txt, .jsonl, .json, .csv, .parquet, a folder of .txt files, a data "
            "set's folder or its name on the hub (org/name@revision), or books: the held-out "
            "books that ship with the evaluation."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results and report.")],
    protocol: Annotated[
        str, typer.Option(help="default, mdlm, llada or dream; see dlm_eval.likelihood.protocols.")
    ] = "default",
    scheme: Annotated[
        str | None,
        typer.Option(
            help="Masks: stratified, count, bernoulli, coupled, enumerate; mean_field and "
            "leave_one_out are no bounds."
        ),
    ] = None,
    masks: Annotated[int | None, typer.Option(help="Masks per window, forward passes.")] = None,
    length: Annotated[int | None, typer.Option(help="Maximum tokens per window.")] = None,
    log_type: Annotated[
        str | None,
        typer.Option(
            help="Of pairs: ftb answer | prompt (default), btf prompt | answer, union both."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Of uniform noise: steps of the sampler; default 1000.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the text; default text.")] = None,
    prompt_column: Annotated[
        str | None, typer.Option(help="Column of the prompt; default prompt.")
    ] = None,
    answer_column: Annotated[
        str | None, typer.Option(help="Column of the answer; default answer.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a data set.")] = "train",
    subset: Annotated[str | None, typer.Option(help="Configuration of a data set.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first documents.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed repeats the masks.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Windows per forward pass; no effect on the masks.")
    ] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, auto.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, auto.")] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own Python code.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Commit on the hub.")] = None,
) -> None:
    """Bound the negative log-likelihood of texts: nats per token, bits per character, perplexity.

    Rows with a text are cut into windows that are scored by themselves; of rows with "prompt" and
    "answer" the answer is scored.  A killed run goes on when the same command is given again.
    """
    from dlm_eval.data import held_out_books
    from dlm_eval.likelihood.documents import Columns, Document, digest_of, read_documents
    from dlm_eval.likelihood.protocols import DRAWN, LOG_TYPES, NOT_BOUNDS, PROTOCOLS, SCHEMES
    from dlm_eval.likelihood.run import digest, metrics, score
    from dlm_eval.likelihood.windows import cut, has_text
    from dlm_eval.report import Results, write_folder
    from dlm_sampling import AutoDenoiser
    from dlm_sampling.jobs import PromptSource, contents_digest, rank_of

    for option, value, known in (
        ("--protocol", protocol, PROTOCOLS),
        ("--log-type", log_type, LOG_TYPES),
        ("--scheme", scheme, SCHEMES),
    ):
        if value is not None and value not in known:
            raise UsageError(str(unknown_choice(option, value, known)))
    for option, number in (("--masks", masks), ("--length", length), ("--steps", steps)):
        if number is not None and number < 1:
            raise UsageError(f"{option} {number}: must be at least 1.")
    if log_type is not None and PROTOCOLS[protocol].packed:
        raise UsageError(
            f"--log-type {log_type}: --protocol {protocol} joins all texts and scores every token."
        )
    columns = Columns(column, prompt_column, answer_column)
    check_out(out)
    documents = (
        [Document(name, text) for name, text in held_out_books().items()]
        if data == BOOKS and not Path(BOOKS).exists()
        else read_documents(PromptSource(data, column, split, subset), columns)
    )[:limit]
    pairs = all(document.prompt is not None for document in documents)
    if log_type is not None and not pairs:
        raise UsageError(f"--log-type {log_type}: goes with pairs of prompt and answer only.")
    rank = rank_of(os.environ)
    denoiser = AutoDenoiser.from_pretrained(
        model, dtype=dtype, device_map=rank.device(device), trust_remote_code=trust_remote_code,
        revision=revision,
    )  # fmt: skip
    if denoiser.tokenizer is None:
        raise UsageError(f"'{model}' has no tokenizer: add its files to the folder.")
    uniform = denoiser.process.name == "uniform"
    if steps is not None and not uniform:
        raise UsageError(f"--steps {steps}: goes with models of uniform noise; {model} has masks.")
    if masks is not None and not uniform and scheme is not None and scheme not in DRAWN:
        raise UsageError(f"--masks {masks}: --scheme {scheme} draws no masks.")
    chosen = PROTOCOLS[protocol]
    chosen = replace(
        chosen,
        scheme=scheme or chosen.scheme,
        masks=masks or chosen.masks,
        length=length or min(chosen.length, denoiser.max_length or chosen.length),
        steps=steps or chosen.steps,
        score=LOG_TYPES[log_type or "ftb"],
    )
    if denoiser.max_length is not None and chosen.length > denoiser.max_length:
        raise UsageError(
            f"--length {chosen.length}: {model} reads at most {denoiser.max_length} tokens."
        )
    windows = cut(documents, denoiser.tokenizer, chosen)
    if not windows:
        raise UsageError(
            f"--data {data}: no window of {chosen.length} tokens; try --length."
            if chosen.packed
            else f"--data {data}: no row has a token to score."
        )
    for window in windows:
        if not uniform and denoiser.mask_token_id in window.ids[slice(*window.scored)]:
            name = "" if chosen.packed else f", '{documents[window.document].name}'"
            raise UsageError(
                f"--data {data}{name}: the tokenizer of {model} has "
                "no tokens for this text; it gives the mask, which has no likelihood."
            )
    subject = {
        "model": model,
        "revision": revision,
        "weights": contents_digest(denoiser),
        "dtype": str(denoiser.dtype),
        "noise": denoiser.process.name,
        "seed": seed,
    }
    scored = score(
        denoiser, windows, chosen, seed=seed, batch=batch_size, folder=out / JOURNALS,
        subject=subject, rank=rank,
    )  # fmt: skip
    if scored is None:
        typer.echo(f"{out}: the share of process {rank.index} is done; others are not.")
        return
    cut_short = sum(window.left_out > 0 for window in windows)
    tokens = digest(windows)
    # Where a tokenizer decides which part of the texts is scored, only its own tokens are the same.
    own_part = chosen.packed or cut_short > 0
    basis = "" if own_part else f"tokens {tokens}"
    kept = {window.document for window in windows}
    figures = metrics(windows, scored, texts=None if own_part else len(kept), basis=basis)
    samples = []
    for index, document in enumerate(documents):
        own = [i for i, window in enumerate(windows) if window.document == index]
        if chosen.packed or not own:
            continue
        part = metrics(
            [windows[i] for i in own], [scored[i] for i in own], texts=None if own_part else 1,
            group=document.name, basis=basis,
        )  # fmt: skip
        if 1 < len(documents) <= MOST_GROUPS:
            figures += part
        samples.append(
            {
                "name": document.name,
                "prompt": document.prompt,
                "text": document.text[:SHOWN],
                "tokens": sum(windows[i].tokens for i in own),
                "nats": sum(scored[i].nats for i in own),
                "nfe": sum(scored[i].nfe for i in own),
            }
        )
    warnings = []
    if lost := [
        document.name
        for i, document in enumerate(documents)
        if not (has_text(document, chosen) if chosen.packed else i in kept)
    ]:
        names = ", ".join(lost[:MOST_NAMES]) + (", ..." if len(lost) > MOST_NAMES else "")
        warnings.append(
            f"{len(lost)} of {len(documents)} rows have no token to score or are blank ({names})."
        )
    if chosen.scheme in NOT_BOUNDS and not uniform:
        warnings.append(f"--scheme {chosen.scheme} is no bound of the likelihood.")
    if uniform and scheme is not None:
        warnings.append("--scheme has no effect on a model of uniform noise.")
    if cut_short:
        warnings.append(
            f"{cut_short} of {len(windows)} pairs are longer than --length {chosen.length}: their "
            "first tokens are left out, of the context and, where more is too long, of what is "
            "scored."
        )
    results = Results(
        command=command_line(context),
        subject={**subject, "data": data, "nfe": sum(value.nfe for value in scored)},
        protocol={
            "bound": f"ancestral sampler of {chosen.steps} steps" if uniform else "any order",
            "name": protocol,
            **chosen.facts(uniform=uniform, pairs=any(d.prompt is not None for d in documents)),
            "end": chosen.end and denoiser.tokenizer.eos_token_id is not None,
            **({"tokens": tokens} if own_part else {"texts": digest_of(documents)}),
        },
        metrics=tuple(figures),
        warnings=tuple(warnings),
    )
    write_folder(out, results, samples)
    for warning in warnings:
        typer.echo(f"Warning: {warning}", err=True)
    told = "at most "
    if uniform or chosen.scheme in DRAWN:
        told = "estimate of an upper bound: "
    elif chosen.scheme in NOT_BOUNDS:
        told = ""
    for metric in figures[:3]:
        error = "" if metric.error is None else f" ± {metric.error:.4f}"
        value = f"{told}{metric.value:.4f}{error} {metric.unit}".rstrip()
        why = f" ({metric.note})" if metric.n == 1 else ""
        typer.echo(f"{metric.name}: {value}, n = {metric.n}{why}")
    typer.echo(f"{out}: results.json, samples.jsonl, report.html", err=True)
