"""Judge texts of a file or of a job, and write the folder of the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dlm_eval.report import Results, write_folder
from dlm_eval.report.results import Json
from dlm_eval.text.judging import Judgement, JudgeOptions, load_judgement
from dlm_eval.text.read import read_texts
from dlm_eval.text.samples import Sample, describe, run_samples
from dlm_eval.text.score import score_samples
from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import Job, Rank

CHARACTERS_PER_TOKEN = 4


def judge_texts(
    path: str,
    column: str | None,
    count: int | None,
    judging: JudgeOptions,
    out: Path,
    rank: Rank,
    command: str,
) -> Results | None:
    """Judge the texts of a file, or the first `count` of them; see `read_texts`.

    Returns:
        None in every process but the first.

    Raises:
        UsageError: the texts cannot be read, or an option of the judge is wrong.
    """
    if rank.index:
        return None
    found = [Sample(text) for text in read_texts(path, "--texts", column, count)]
    if count is not None and len(found) < count:
        raise UsageError(f"--samples {count}: --texts {path} holds {len(found)}.")
    length = sum(len(sample.text) for sample in found) // len(found)
    judgement = load_judgement(judging, len(found), length)
    return _write(out, found, judgement, {"texts": path}, {}, command)


def judge_job(
    job: Job, new_tokens: int, judging: JudgeOptions, out: Path, rank: Rank, command: str
) -> Results | None:
    """Generate what is left of a job, and judge its texts in the first process.

    Judge and references are loaded first, so that a wrong option is told before the work begins.

    Returns:
        None in every other process, and while others are at work.

    Raises:
        UsageError: an option of the judge is wrong; and see `run_samples`.
    """
    count = len(job.items) * job.samples
    judgement = load_judgement(judging, count, CHARACTERS_PER_TOKEN * new_tokens)
    found = run_samples(job, rank)
    if found is None or rank.index:
        return None
    subject, asked = describe(job)
    return _write(out, found, judgement, subject, asked, command)


def _write(
    out: Path,
    samples: list[Sample],
    judgement: Judgement,
    subject: Mapping[str, Json],
    asked: Mapping[str, Json],
    command: str,
) -> Results:
    scored = score_samples(samples, judgement.protocol)
    results = Results(
        command=command,
        subject={**subject, **judgement.protocol.named()},
        protocol={"task": "text", **asked, **judgement.protocol.facts()},
        metrics=scored.metrics,
        warnings=(*scored.warnings, *judgement.told(scored.metrics)),
    )
    write_folder(out, results, scored.rows)
    return results
