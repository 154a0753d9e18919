"""Run the settings of a comparison in batches, on any number of processes, resumed after any end.

A batch is one line of the journal of its process.  A row draws from its own seed: the samples
depend neither on the batches, which may be others after a start, nor on the number of processes,
nor on how often they were killed.  Times do, and stand in no sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
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
    journal = Journal(journal_of(folder, rank), facts)
    code = code_digest([setting.build() for setting in comparison.settings])
    known = _known(journal, code)
    plan = comparison.batches()
    left = [rest for batch in plan[rank.index :: rank.world] for rest in known.left(*batch)]
    if left:
        warm_up(comparison)
    total = len(comparison.settings) * comparison.samples
    bar = tqdm(
        total=total,
        initial=total - sum(b - a for batch in plan for _, a, b in known.left(*batch)),
        unit="text",
        disable=None if progress is None else not progress,
    )
    with bar:
        for setting, first, last in left:
            bar.set_postfix_str(setting.label, refresh=False)
            found = run_batch(comparison, setting, first, last)
            by = {"code": code} if "refused" in found else {}
            journal.append({"setting": setting.label, **found, **by})
            bar.update(last - first)
    known = _known(journal, code)
    if any(known.left(*batch) for batch in plan):
        return None
    return [known.measured(setting) for setting in comparison.settings]


def journal_of(folder: Path, rank: Rank) -> Path:
    """Return the file of a process's journal."""
    return folder / JOURNALS / f"{rank.index}.jsonl"


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
    """Run one pass, since the first pass of a process is slow; its batch tells why it cannot."""
    prompts, arguments = comparison.task.prompts(0, 1)
    with suppress(ValueError, TypeError):
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


@dataclass
class _Known:
    """Hold what the journals have, by the label of the setting.

    Fields:
        rows: finished rows by their number.
        seconds: wall time of each batch.
        refused: why the sampler did not run.
    """

    rows: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def left(self, setting: Setting, first: int, last: int) -> list[tuple[Setting, int, int]]:
        """Return the parts of a batch that nobody has run."""
        if setting.label in self.refused:
            return []
        done = self.rows.get(setting.label, {})
        found: list[tuple[Setting, int, int]] = []
        for row in range(first, last):
            if row in done:
                continue
            if found and found[-1][2] == row:
                found[-1] = setting, found[-1][1], row + 1
            else:
                found.append((setting, row, row + 1))
        return found

    def measured(self, setting: Setting) -> Measured:
        """Return the outcome of a setting of which nothing is left."""
        if setting.label in self.refused:
            return Measured(setting, (), (), self.refused[setting.label])
        rows = self.rows[setting.label]
        in_order = tuple(rows[row] for row in sorted(rows))
        return Measured(setting, in_order, tuple(self.seconds[setting.label]))


def _known(own: Journal, code: str) -> _Known:
    """Return the finished rows of all processes; journals of other facts are refused.

    What other code refused is not finished: the present code may accept it.
    """
    found = _Known()
    for record in records_of_all(own):
        label = record["setting"]
        if "refused" in record:
            if record["code"] == code:
                found.refused.setdefault(label, record["refused"])
            continue
        rows = found.rows.setdefault(label, {})
        if all(row["row"] in rows for row in record["rows"]):
            continue  # processes with batches of different sizes ran it twice
        rows.update({row["row"]: row for row in record["rows"]})
        found.seconds.setdefault(label, []).append(record["seconds"])
    return found


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
