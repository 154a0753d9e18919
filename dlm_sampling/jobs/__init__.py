"""Run a file of prompts as a job: in shards, on any number of processes, resumed after any end.

A job is a list of prompts, a model, options and an output folder.  Its prompts are cut into shards
of `shard_rows`, a shard into batches by length; both follow from the job alone.  A batch is written
to `partial/` when it is done and a shard to `data/` when all its batches are, each under its name
at once or not at all.  So every process may end at any time, and whoever runs the job again finds
what is done and computes the rest: the bytes of `data/` depend on the job, the hardware and the
versions of the libraries, not on how often it was killed or on how many processes it ran.

    rows  ->  shards (what a process takes)  ->  batches (what is kept)  ->  data/part-*.parquet

Files, one task each: `job` (what is to be done), `manifest` (options of the folder), `shard` (one
shard), `runner` (all shards of a process), `progress` (the bar), `files` (writing), `rank` (which
process of how many).  Prompts are read and checked in `dlm_sampling.text`.

    from dlm_sampling.jobs import GenerateOptions, Job, read_prompts, run_job

    options = GenerateOptions(sampler="remdm-cap", max_new_tokens=64, seed=0)
    job = Job(read_prompts("prompts.jsonl"), "out", model="tiny-books", options=options)
    print(run_job(job))

Launchers only say which process of how many it is (`rank`): `DLM_SHARD=0/4`, torchrun and
accelerate (RANK, WORLD_SIZE), SLURM.  No process waits for another one.  Ray Data hands shards to
its actors: `ShardRunner.run_shard`, see examples/batch_ray.py.

`load_dataset("out")` of the package `datasets` reads the folder, rows in the order of the prompts.
"""

from dlm_sampling.engine.request import BlockRequest
from dlm_sampling.jobs.job import Job, Shard
from dlm_sampling.jobs.rank import Rank, rank_of
from dlm_sampling.jobs.runner import JobReport, finish, run_job
from dlm_sampling.jobs.shard import ShardRunner
from dlm_sampling.text.options import GenerateOptions, LawOptions
from dlm_sampling.text.prompt_files import PromptSource, read_prompts
from dlm_sampling.text.prompt_items import PromptItem
from dlm_sampling.text.prompt_rows import item_seeds

__all__ = [
    "BlockRequest",
    "GenerateOptions",
    "Job",
    "JobReport",
    "LawOptions",
    "PromptItem",
    "PromptSource",
    "Rank",
    "Shard",
    "ShardRunner",
    "finish",
    "item_seeds",
    "rank_of",
    "read_prompts",
    "run_job",
]
