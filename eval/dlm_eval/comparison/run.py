"""Run the settings of a comparison in batches, on any number of processes, resumed after any end.

A batch is one line of the journal of its process.  Which rows share a batch follows from the
comparison alone, and a row draws from its own seed: the samples depend neither on the number of
processes nor on how often they were killed.  Times do, and stand in no sample.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dlm_eval.comparison.code import code_digest
from dlm_eval.comparison.settings import Setting
from dlm_eval.comparison.tasks import Task
from dlm_eval.journal import Journal, records_of_all
from dlm_eval.judges.scores import TextScores
from dlm_eval.report.results import Json
from dlm_eval.text.score import columns_of
from dlm_sampling import Denoiser, StepEvent, generate
from dlm_sampling.jobs import Rank, in_parts

JOURNALS = "journal"


@dataclass(frozen=True)
class Comparison:
    """Hold all that decides the samples of a comparison.

    Fields:
        denoiser: the model.
        task: what it is asked.
        settings: samplers, budgets and laws.
        samples: rows of each setting.
        batch_rows: rows that run together.
        seed: row i draws from seed + i in every setting.
        arguments: further arguments of `generate`, such as block_length.
    """

    denoiser: Denoiser
    task: Task
    settings: tuple[Setting, ...]
    samples: int
    batch_rows: int
    seed: int
    arguments: dict[str, Any]

    def batches(self) -> list[tuple[Setting, int, int]]:
        """Return every batch: its setting, its first row, and the row behind its last."""
        starts = range(0, self.samples, self.batch_rows)
        return [
            (setting, first, min(first + self.batch_rows, self.samples))
            for setting in self.settings
            for first in starts
        ]


@dataclass(frozen=True)
class Measured:
    """Hold the outcome of one setting.

    Fields:
        setting: what was run.
        rows: one mapping for each sample, in order.
        seconds: wall time of each batch.
        refused: why the sampler did not run, or "".
    """

    setting: Setting
    rows: tuple[dict[str, Any], ...]
    seconds: tuple[float, ...]
    refused: str = ""


def run(
    comparison: Comparison,
    folder: Path,
    facts: dict[str, Json],
    rank: Rank,
    *,
    progress: bool | None = None,
) -> list[Measured] | None:
    """Run what no process has run yet, and return all of it.

    Args:
        comparison: what is run.
        folder: holds the journals.
        facts: all that the samples depend on; a journal with other facts is refused.
        rank: this process among all.
        progress: show a bar with the time left; default on a terminal.

    Returns:
        The settings in order; None in a process that finds others still at work.

    Raises:
        SettingsChanged: the folder belongs to another comparison.
    """
    folder = folder / JOURNALS
    journal = Journal(folder / f"{rank.index}.jsonl", facts)
    code = code_digest([setting.build() for setting in comparison.settings])
    plan = {_key(*batch): batch for batch in comparison.batches()}
    known = _known(journal, code)
    mine = [key for i, key in enumerate(plan) if i % rank.world == rank.index and key not in known]
    if mine:
        warm_up(comparison)
    bar = tqdm(
        total=len(plan),
        initial=len(plan) - len(mine) if rank.world == 1 else len(known),
        unit="batch",
        disable=None if progress is None else not progress,
    )
    with bar:
        for key in mine:
            setting, first, last = plan[key]
            bar.set_postfix_str(setting.label, refresh=False)
            found = run_batch(comparison, setting, first, last)
            by = {"code": code} if "refused" in found else {}
            journal.append({"batch": key, **found, **by})
            bar.update()
    known = _known(journal, code)
    if not known.keys() >= plan.keys():
        return None
    return [_collect(setting, plan, known) for setting in comparison.settings]


def run_batch(comparison: Comparison, setting: Setting, first: int, last: int) -> dict[str, Any]:
    """Run one batch, in halves where it does not fit into memory; ready for JSON.

    A sampler that the model does not suit is recorded as refused, with the reason.
    """
    before = time.perf_counter()
    try:
        rows = _rows(comparison, setting, first, last)
    except (ValueError, TypeError) as error:
        return {"refused": str(error)}
    return {"rows": rows, "seconds": round(time.perf_counter() - before, 4)}


def warm_up(comparison: Comparison) -> None:
    """Run one pass, since the first pass of a process is slow."""
    prompts, arguments = comparison.task.prompts(0, 1)
    generate(
        comparison.denoiser, prompts, **{**comparison.arguments, **arguments},
        sampler=comparison.settings[0].build(), steps=1, seed=0, progress=False,
    )  # fmt: skip


def written_at(rows_of_batch: int) -> tuple[Callable[[StepEvent], None], Callable[[], Tensor]]:
    """Return a callback of `generate`, and a function that returns when positions were written.

    The latter gives int64 [B, L] of the canvas: the number of the pass, from 1, behind which a
    position was last written; 0 where it was not.
    """
    found: list[Tensor] = []

    def hear(event: StepEvent) -> None:
        rows = event.rows.cpu()
        if not found:
            found.append(torch.zeros(rows_of_batch, event.tokens.shape[1], dtype=torch.int64))
        old = found[0][rows]
        found[0][rows] = torch.where(event.written.cpu(), event.nfe.cpu()[:, None], old)

    return hear, lambda: found[0]


def _rows(comparison: Comparison, setting: Setting, first: int, last: int) -> list[dict[str, Any]]:
    def some(begin: int, end: int) -> list[dict[str, Any]]:
        return _run(comparison, setting, first + begin, first + end)

    halved = in_parts(last - first, None, some, lambda _: None)
    return [row for _, rows in halved for row in rows]


def _run(comparison: Comparison, setting: Setting, first: int, last: int) -> list[dict[str, Any]]:
    prompts, arguments = comparison.task.prompts(first, last)
    hear, times = written_at(last - first)
    out = generate(
        comparison.denoiser, prompts, **{**comparison.arguments, **arguments},
        sampler=setting.build(), steps=setting.steps,
        **setting.law.arguments(), callback=hear, progress=False,
        seed=list(range(comparison.seed + first, comparison.seed + last)),
    )  # fmt: skip
    new = arguments.get("max_new_tokens")
    when = times() if new is None else times()[:, -new:]
    texts = out.texts or [" ".join(map(str, ids)) for ids in out.token_ids]
    return [
        {
            "row": first + i,
            "seed": comparison.seed + first + i,
            "text": texts[i],
            "ids": out.token_ids[i],
            "nfe": int(out.nfe[i]),
            "written": when[i].tolist(),
        }
        for i in range(last - first)
    ]


def _key(setting: Setting, first: int, last: int) -> str:
    return json.dumps([setting.label, first, last])


def _known(own: Journal, code: str) -> dict[str, dict[str, Any]]:
    """Return the finished batches of all processes; journals of other facts are refused.

    A batch that other code refused is not finished: the present code may accept it.
    """
    return {
        record["batch"]: record
        for record in records_of_all(own)
        if "refused" not in record or record["code"] == code
    }


def _collect(
    setting: Setting,
    plan: dict[str, tuple[Setting, int, int]],
    known: dict[str, dict[str, Any]],
) -> Measured:
    records = [known[key] for key, (owner, _, _) in plan.items() if owner == setting]
    refused = next((record["refused"] for record in records if "refused" in record), "")
    if refused:
        return Measured(setting, (), (), refused)
    rows = tuple(row for record in records for row in record["rows"])
    return Measured(setting, rows, tuple(record["seconds"] for record in records))


def samples_of(
    task: Task, measured: Sequence[Measured], scores: Mapping[str, TextScores]
) -> Iterator[dict[str, Json]]:
    """Yield the samples for samples.jsonl and the report, in order.

    Args:
        task: what was asked.
        measured: see `run`.
        scores: what a judge says of the texts, by the label of their setting; {} for no judge.
    """
    for cell in measured:
        judged = scores.get(cell.setting.label)
        columns = columns_of(judged) if judged is not None else [{} for _ in cell.rows]
        for row, of_judge in zip(cell.rows, columns, strict=True):
            right = task.right(row["row"], row["text"], row["ids"])
            answer: dict[str, Json] = {} if right is None else {"right": right}
            own = {"group": cell.setting.label, **task.words(row["row"])}
            yield {**own, **answer, **of_judge, **row}
