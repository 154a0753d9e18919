"""Define a job: prompts, model, options and output folder, and its division into shards.

Prompts are cut into shards of `shard_rows`, a shard into batches by length; both follow from the
job alone.  A batch is written to `partial/` when it is done and a shard to `data/` when all its
batches are, each under its name at once or not at all.  So every process may end at any time, and
whoever runs the job again finds the finished batches and computes the rest: the bytes of `data/`
depend on the job, the hardware and the versions of the libraries, not on how often it was killed or
on how many processes it ran.  It may go on with another `batch_rows`, which moves last bits only.

    rows  ->  shards (taken by a process)  ->  batches (kept when done)  ->  data/part-*.parquet

`load_dataset("out")` of the package `datasets` reads the folder, rows in the order of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dlm_sampling.denoisers import AutoDenoiser, Denoiser
from dlm_sampling.errors import check_whole, unknown_choice
from dlm_sampling.jobs.files import PARTIAL
from dlm_sampling.jobs.rank import Rank
from dlm_sampling.text.options import GenerateOptions
from dlm_sampling.text.prompt_items import PromptItem


@dataclass(frozen=True)
class Shard:
    """Hold the prompts `first` to `last` - 1 of a job, number `number` of `count` such ranges."""

    number: int
    count: int
    first: int
    last: int


@dataclass(frozen=True)
class Job:
    """Hold all that decides the output of a job; plain values, so that it can be pickled.

    Fields:
        prompts: from `read_prompts`, or strings.
        output: folder to write; new, empty, or of this job.
        model: embedded model, folder of a checkpoint, or name on the hub.
        options: the arguments of `generate`; its seed must be one int.
        shard_rows: prompts per shard.
        batch_rows: rows that run together at most.
        file_format: of the parts; "parquet" needs pyarrow, "jsonl" nothing.
        max_errors: rows that may fail before the job stops; None is 1% of them, at least one.
        dtype, device, revision, trust_remote_code, quantize: see `AutoDenoiser.from_pretrained`.
    """

    prompts: Sequence[PromptItem | str]
    output: Path | str
    model: str = "tiny-books"
    options: GenerateOptions = field(default_factory=lambda: GenerateOptions(seed=0))
    shard_rows: int = 256
    batch_rows: int = 16
    file_format: Literal["parquet", "jsonl"] = "parquet"
    max_errors: int | None = None
    dtype: str = "auto"
    device: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    quantize: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("shard_rows", self.shard_rows), ("batch_rows", self.batch_rows)):
            check_whole(name, value)
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1; try 16.")
        check_whole("max_errors", self.max_errors, optional=True)
        if self.file_format not in ("parquet", "jsonl"):
            raise unknown_choice("file_format", self.file_format, ("parquet", "jsonl"))
        if not isinstance(self.options.seed, int):
            raise ValueError(
                f"seed={self.options.seed}: a job needs one whole number, to go on where it was."
            )
        if self.options.cache_audit is not None:
            raise ValueError(
                f"cache_audit={self.options.cache_audit!r}: a job keeps rows, and nothing of what "
                "audits find; leave it out, and measure a cache by `dlm-sampling eval cache`."
            )
        if not self.prompts:
            raise ValueError("prompts=[]: give at least one.")

    @property
    def items(self) -> list[PromptItem]:
        """Return the prompts as items."""
        return [PromptItem(p) if isinstance(p, str) else p for p in self.prompts]

    @property
    def folder(self) -> Path:
        """Return the output folder."""
        return Path(self.output)

    @property
    def samples(self) -> int:
        """Return the rows per prompt."""
        return self.options.num_return_sequences

    def shards(self) -> list[Shard]:
        """Cut the prompts into shards."""
        total = len(self.prompts)
        starts = range(0, total, self.shard_rows)
        return [
            Shard(number, len(starts), first, min(first + self.shard_rows, total))
            for number, first in enumerate(starts)
        ]

    def part(self, shard: Shard) -> Path:
        """Return the file of a shard, which exists once the shard is done."""
        name = f"part-{shard.number:05d}-of-{shard.count:05d}.{self.file_format}"
        return self.folder / "data" / name

    def rows_done(self) -> int:
        """Count the rows in the files of shards and batches, by the names of the files."""
        sizes = {self.part(s).name: (s.last - s.first) * self.samples for s in self.shards()}
        parts = (sizes.get(path.name, 0) for path in (self.folder / "data").glob("part-*"))
        pieces = (self.folder / PARTIAL).glob("*-*-*.jsonl")
        return sum(parts) + sum(int(path.stem.split("-")[2]) for path in pieces)

    def load(self, rank: Rank) -> Denoiser:
        """Load the model on the device of a process."""
        return AutoDenoiser.from_pretrained(
            self.model,
            dtype=self.dtype,
            device_map=rank.device(self.device),
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            quantize=self.quantize,
        )
