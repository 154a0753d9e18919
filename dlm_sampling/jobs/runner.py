"""Run all shards of a job: first the shards of this process, then shards that others have left.

    from dlm_sampling.jobs import GenerateOptions, Job, read_prompts, run_job

    options = GenerateOptions(sampler="remdm-cap", max_new_tokens=64, seed=0)
    job = Job(read_prompts("prompts.jsonl"), "out", model="tiny-books", options=options)
    print(run_job(job))

No process waits for another one.  Launchers only say which process of how many this one is; see
`rank_of`.  Ray Data hands shards to its actors: `ShardRunner.run_shard`, see examples/batch_ray.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from dlm_sampling.denoisers import Denoiser
from dlm_sampling.jobs.files import PARTIAL, SUCCESS, count_errors, publish
from dlm_sampling.jobs.job import Job
from dlm_sampling.jobs.manifest import NAME
from dlm_sampling.jobs.progress import Bar
from dlm_sampling.jobs.rank import Rank
from dlm_sampling.jobs.shard import ShardRunner
from dlm_sampling.text.prompt_rows import Prepared

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.{job.file_format}
---

{report.rows} rows of the model `{job.model}`, {report.errors} of them with an error, written by
`dlm-sampling generate`. `manifest.json` has all options. Rows are in the order of the prompts.
"""


@dataclass(frozen=True)
class JobReport:
    """Say where a job stands: rows in all, rows that failed, and whether all shards are done."""

    rows: int
    errors: int
    done: bool


def run_job(
    job: Job,
    denoiser: Denoiser | None = None,
    *,
    rank: Rank | None = None,
    stop: Callable[[], bool] = lambda: False,
    begun: Callable[[Prepared], None] = lambda prepared: None,
    progress: bool | None = None,
) -> JobReport:
    """Run the rest of a job, and finish its folder if nothing is left.

    Args:
        job: the prompts, the model and the options of the job.
        denoiser: the model; default the one that the job names.
        rank: this process among those that run the job; see `rank_of`.
        stop: asked before every batch; True ends the run, and finished rows stay.
        begun: called with the checked prompts before the first batch.
        progress: show a bar; default on a terminal, in the first process.

    Raises:
        UsageError: the folder holds something else.
        JobMismatchError: the folder holds a job with other options.
        FailedRowsError: more rows failed than `max_errors`.
        DeviceLostError: the device answers no more.
        KeyboardInterrupt: `stop` was True.
        ValueError, TypeError, OSError: an option is out of range, or the disk is full.
    """
    rank = Rank() if rank is None else rank
    runner = ShardRunner.open(job, denoiser, rank)
    begun(runner.prepared)
    shards = job.shards()
    mine = shards[rank.index :: rank.world]
    others = [shard for shard in shards if shard.number % rank.world != rank.index]
    turn = len(others) * rank.index // rank.world
    shown = False if rank.index else progress
    try:
        with closing(Bar(job, shown)) as bar:
            runner.callbacks, runner.on_batch, runner.stop = bar.callbacks, bar.batch, stop
            for shard in mine:
                runner.run_shard(shard)
            for shard in others[turn:] + others[:turn]:
                runner.run_shard(shard, rank.index / rank.world)
    except (ValueError, TypeError):
        if runner.new and not job.rows_done():  # the folder is free for options that are right
            (job.folder / NAME).unlink(missing_ok=True)
        raise
    return finish(job)


def finish(job: Job) -> JobReport:
    """Write the card of the folder once all shards are done; any process may do so, or several.

    Rows that failed are counted once the job is done.
    """
    rows = len(job.prompts) * job.samples
    parts = [job.part(shard) for shard in job.shards()]
    if not all(part.exists() for part in parts):
        return JobReport(rows, 0, False)
    report = JobReport(rows, sum(count_errors(part) for part in parts), True)
    if not (job.folder / SUCCESS).exists():
        (job.folder / PARTIAL).mkdir(exist_ok=True)
        card = CARD.format(job=job, report=report)
        publish(job.folder, "README.md", card.encode())
        publish(job.folder, SUCCESS, f'{{"rows": {rows}, "errors": {report.errors}}}\n'.encode())
    shutil.rmtree(job.folder / PARTIAL, ignore_errors=True)
    return report
