"""Generate the texts of an evaluation as a job, which any number of processes share and resume."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from dlm_eval.report.results import Json
from dlm_eval.text.read import digest
from dlm_sampling import Denoiser
from dlm_sampling.jobs import Job, Rank, run_job


@dataclass(frozen=True)
class Sample:
    """Hold a text to be judged.

    Fields:
        text: the text, without its prompt.
        prompt: what it continues, "" for nothing.
        nfe: forward passes, None for a text that was read.
        seed: seed of its random numbers, None likewise.
    """

    text: str
    prompt: str = ""
    nfe: int | None = None
    seed: int | None = None


def run_samples(
    job: Job, rank: Rank, denoiser: Denoiser | None = None, *, progress: bool | None = None
) -> list[Sample] | None:
    """Generate what is left of a job, and return all its texts in the order of the prompts.

    The texts do not depend on the number of processes, nor on how often they were killed.

    Returns:
        The texts; None in a process that finds others still at work.

    Raises:
        See `run_job`; no row may fail.
    """
    if not run_job(job, denoiser, rank=rank, progress=progress).done:
        return None
    rows: list[dict[str, Any]] = []
    for shard in job.shards():
        lines = job.part(shard).read_bytes().splitlines()
        rows += [json.loads(line) for line in lines]
    return [Sample(row["text"], str(row["prompt"]), row["nfe"], row["row_seed"]) for row in rows]


def describe(job: Job) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return the subject of an evaluation, and its share of the protocol.

    The subject is what is measured: model and weights, sampler with its fields, seed.  The protocol
    says what texts were asked for: their length and their prompts.
    """
    manifest: dict[str, Any] = json.loads(
        (job.folder / "manifest.json").read_text(encoding="utf-8")
    )
    asked = ("max_new_tokens", "prompts", "samples", "eos", "stop")
    storage = ("format", "input", "shard_rows", "file_format", "stop_token_ids")
    subject = {k: v for k, v in manifest.items() if k not in (*asked, *storage) and v is not None}
    texts = [item.prompt if isinstance(item.prompt, str) else "" for item in job.items]
    protocol: dict[str, Json] = {key: manifest[key] for key in asked}
    protocol["prompts"] = digest(texts) if any(texts) else "none"
    protocol["judged"] = "text without its prompt"
    return subject, protocol
