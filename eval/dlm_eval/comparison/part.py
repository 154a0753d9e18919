"""Define one comparison with all that its figures depend on, run it, and write its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dlm_eval.comparison.figures import Figures, figures_of
from dlm_eval.comparison.run import Comparison, Measured, journal_of, run, samples_of
from dlm_eval.comparison.settings import Setting
from dlm_eval.comparison.tasks import Task, TextTask
from dlm_eval.report import Results, write_folder
from dlm_eval.report.results import Json
from dlm_eval.text.judging import JudgeOptions, load_judgement
from dlm_sampling import AutoDenoiser, Denoiser
from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import Rank, contents_digest


@dataclass(frozen=True)
class Weights:
    """Hold how a model is loaded; see `AutoDenoiser.from_pretrained`."""

    name: str
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    trust_remote_code: bool = False

    def load(self, rank: Rank) -> Denoiser:
        """Load the model on the device of this process."""
        return AutoDenoiser.from_pretrained(
            self.name,
            dtype=self.dtype,
            device_map=rank.device(self.device),
            trust_remote_code=self.trust_remote_code,
            revision=self.revision,
        )


@dataclass(frozen=True)
class Part:
    """Hold one comparison: settings of samplers on a model and a task.

    Fields:
        name: names its folder in a preset.
        weights: the model.
        task: returns what is asked of the model.
        settings: samplers, budgets and laws.
        samples: rows of each setting.
        batch_rows: rows that run together.
        seed: row i draws from seed + i.
        block_length: length of blocks, None for one block.
        judge: how the texts of a `TextTask` are judged; None for no judge.
    """

    name: str
    weights: Weights
    task: Callable[[Denoiser], Task]
    settings: tuple[Setting, ...]
    samples: int
    batch_rows: int = 16
    seed: int = 0
    block_length: int | None = None
    judge: JudgeOptions | None = None

    def subject(self, denoiser: Denoiser) -> dict[str, Json]:
        """Return what is measured, for results."""
        return {
            "model": self.weights.name,
            "revision": self.weights.revision or "",
            "dtype": str(denoiser.dtype),
            "samples": self.samples,
            "first_seed": self.seed,
            "block_length": self.block_length,
            "settings": {one.label: one.facts() for one in self.settings},
        }

    def run(
        self,
        denoiser: Denoiser,
        task: Task,
        folder: Path,
        rank: Rank,
        *,
        progress: bool | None = None,
    ) -> list[Measured] | None:
        """Run what no process has run yet; see `run`.

        Raises:
            SettingsChanged: the folder belongs to another comparison.
        """
        arguments = {} if self.block_length is None else {"block_length": self.block_length}
        comparison = Comparison(
            denoiser, task, self.settings, self.samples, self.batch_rows, self.seed, arguments
        )
        facts: Mapping[str, Json] = {
            "subject": self.subject(denoiser),
            "weights": contents_digest(denoiser),
            "task": task.facts(),
        }
        return run(comparison, folder, dict(facts), rank, progress=progress)


@dataclass(frozen=True)
class Written:
    """Hold a comparison that is done.

    Fields:
        part: what was asked.
        measured: the samples by setting.
        figures: with points and judge's scores.
        results: what results.json holds.
    """

    part: Part
    measured: tuple[Measured, ...]
    figures: Figures
    results: Results


def write_part(
    part: Part, denoiser: Denoiser, folder: Path, rank: Rank, command: str, *, quiet: bool = False
) -> Written | None:
    """Run what is left of a comparison, judge it, and write its folder.

    Args:
        part: the comparison.
        denoiser: its model, loaded.
        folder: results.json, samples.jsonl, report.html and the journals.
        rank: this process among all; the last to finish judges.
        command: repeats it.
        quiet: show no bar.

    Returns:
        None in a process that finds others still at work.

    Raises:
        SettingsChanged: the folder belongs to another comparison.
        UsageError: an option of the judge is wrong, or no sampler ran.
    """
    task = part.task(denoiser)
    judgement = None
    if part.judge is not None and isinstance(task, TextTask):
        judgement = load_judgement(
            part.judge, part.samples, task.characters, denoiser, task.continuations
        )
    measured = part.run(denoiser, task, folder, rank, progress=False if quiet else None)
    if measured is None:
        return None
    if all(cell.refused for cell in measured):
        if rank.world == 1:  # nothing was measured that could be gone on with
            journal_of(folder, rank).unlink()
        raise UsageError(f"No sampler ran. {measured[0].setting.label}: {measured[0].refused}")
    protocol = None if judgement is None else judgement.protocol
    found = figures_of(task, measured, protocol)
    judged: dict[str, Json] = {"judge": "none"} if protocol is None else protocol.facts()
    warnings = (
        found.warnings if judgement is None else (*found.warnings, *judgement.told(found.metrics))
    )
    results = Results(
        command=command,
        subject={**part.subject(denoiser), **({} if protocol is None else protocol.named())},
        protocol={**task.facts(), **judged, "judged": "text without its prompt"},
        metrics=found.metrics,
        warnings=warnings,
    )
    rows = samples_of(task, measured, found.scores)
    write_folder(folder, results, rows, plots=found.plots)
    return Written(part, tuple(measured), found, results)
