"""Run a file of prompts as a job: in shards, on any number of processes, resumed after any end."""

from dlm_sampling.engine.batches import in_parts, out_of_memory
from dlm_sampling.engine.request import BlockRequest
from dlm_sampling.jobs.job import Job, Shard
from dlm_sampling.jobs.rank import Rank, rank_of
from dlm_sampling.jobs.runner import JobReport, finish, run_job
from dlm_sampling.jobs.shard import ShardRunner
from dlm_sampling.text.fingerprint import contents_digest
from dlm_sampling.text.generate import generate_parts
from dlm_sampling.text.options import GenerateOptions, LawOptions, fitting_caches, prepare
from dlm_sampling.text.prompt_files import PromptSource, read_prompts
from dlm_sampling.text.prompt_items import PromptItem, to_item
from dlm_sampling.text.prompt_rows import item_seeds
from dlm_sampling.text.row_files import Row, read_rows

__all__ = [
    "BlockRequest",
    "GenerateOptions",
    "Job",
    "JobReport",
    "LawOptions",
    "PromptItem",
    "PromptSource",
    "Rank",
    "Row",
    "Shard",
    "ShardRunner",
    "contents_digest",
    "finish",
    "fitting_caches",
    "generate_parts",
    "in_parts",
    "item_seeds",
    "out_of_memory",
    "prepare",
    "rank_of",
    "read_prompts",
    "read_rows",
    "run_job",
    "to_item",
]
