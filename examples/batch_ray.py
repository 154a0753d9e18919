"""Run a batch job on a Ray cluster: actors take shards and write the files of any other launcher.

pip install "dlm-sampling[ray]"
python examples/batch_ray.py prompts.jsonl out --model tiny-books --actors 2

A shard is a range of prompts that does not depend on the cluster, so autoscaling, retries and lost
nodes change nothing in the output; the folder must be visible to all nodes.  The same command
resumes.  Without Ray the same job runs by `dlm-sampling generate --input ... --output out/`.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from dlm_sampling.jobs import GenerateOptions, Job, ShardRunner, finish, read_prompts


class ShardWorker:
    """Run shards in an actor, which loads the model once."""

    def __init__(self, job: Job) -> None:
        self.runner = ShardRunner.open(job)
        self.shards = job.shards()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run the shards of a block of numbers."""
        for number in batch["item"]:
            self.runner.run_shard(self.shards[int(number)])
        return {"shard": batch["item"]}


def run(job: Job, actors: int) -> None:
    """Run what is left of a job on up to `actors` actors, one GPU each where there are GPUs."""
    import ray

    todo = [shard.number for shard in job.shards() if not job.part(shard).exists()]
    if todo:
        # Two one-CPU actors on two CPUs starve the reader without a word: keep one CPU free.
        ray.init(ignore_reinit_error=True, num_cpus=actors + 2, include_dashboard=False)
        numbers = ray.data.from_items(todo, override_num_blocks=len(todo))
        done = numbers.map_batches(
            ShardWorker,
            fn_constructor_kwargs={"job": job},
            batch_size=1,
            num_gpus=1 if torch.cuda.is_available() else 0,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        )
        for _ in done.iter_rows():
            pass
    print(finish(job))


def main() -> None:
    """Read the command line and run the job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts")
    parser.add_argument("output")
    parser.add_argument("--model", default="tiny-books")
    parser.add_argument("--sampler", default=None)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--shard-rows", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--local", action="store_true", help="Run the shards here, without Ray.")
    options = parser.parse_args()
    job = Job(
        read_prompts(options.prompts),
        options.output,
        options.model,
        GenerateOptions(
            sampler=options.sampler, max_new_tokens=options.max_new_tokens, seed=options.seed
        ),
        shard_rows=options.shard_rows,
    )
    if options.local:
        ShardWorker(job)({"item": [shard.number for shard in job.shards()]})
        print(finish(job))
    else:
        run(job, options.actors)
    sys.exit(0)


if __name__ == "__main__":
    main()
