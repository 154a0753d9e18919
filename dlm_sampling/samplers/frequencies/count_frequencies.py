"""Count the tokens of a corpus for `TokenFrequencies`: streaming, resumable."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.samplers.frequencies.token_frequencies import TokenFrequencies

Row = Mapping[str, Any]
Tokenizer = Callable[..., Mapping[str, Any]]
"""texts, add_special_tokens=False -> {"input_ids": [[id, ...], ...]}, as in transformers."""

_BATCH = 256
_LOADERS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".txt": "text",
}


class _Counted(NamedTuple):
    """Hold counts and rows read so far; both are saved together, so they cannot disagree."""

    counts: Tensor  # int64 [V]
    rows: int
    digest: str  # of the last counted row
    exhausted: bool


@dataclass(frozen=True)
class _Job:
    """Everything that must be the same when a counting is taken up again."""

    tokenizer: Tokenizer
    columns: tuple[str, ...]
    vocab_size: int

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings that are stored with the counts and compared on resuming."""
        return {
            "columns": list(self.columns),
            "tokenizer": str(
                getattr(self.tokenizer, "name_or_path", type(self.tokenizer).__name__)
            ),
            "vocab_size": self.vocab_size,
        }

    def add(self, done: _Counted, rows: Sequence[Row]) -> _Counted:
        """Count a batch of rows."""
        texts = [text for row in rows for text in self.texts(row)]
        ids: list[list[int]] = []
        if texts:
            ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        flat = torch.tensor([i for row_ids in ids for i in row_ids], dtype=torch.int64)
        if len(flat) and int(flat.max()) >= self.vocab_size:
            raise ValueError(
                f"vocab_size={self.vocab_size}: the tokenizer gave id {int(flat.max())}; "
                "pass the number of columns of the model's logits."
            )
        counts = done.counts + torch.bincount(flat, minlength=self.vocab_size)
        return _Counted(counts, done.rows + len(rows), self.digest(rows[-1]), False)

    def texts(self, row: Row) -> list[str]:
        """Return the row's texts; entries that are no strings are left out."""
        if not any(column in row for column in self.columns):
            raise ValueError(
                f"columns={list(self.columns)}: not in the corpus, which has {sorted(row)}."
            )
        values = (row.get(column) for column in self.columns)
        return [value for value in values if isinstance(value, str)]

    def digest(self, row: Row) -> str:
        """Return a digest that tells whether a row is the one that was counted."""
        text = json.dumps(self.texts(row), ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def count_tokens(
    corpus: str | os.PathLike[str] | Iterable[Row],
    tokenizer: Tokenizer,
    output: str | os.PathLike[str],
    *,
    columns: Sequence[str] = ("text",),
    vocab_size: int | None = None,
    name: str | None = None,
    split: str = "train",
    max_rows: int | None = None,
    save_every: int = 10_000,
    progress: bool = True,
) -> TokenFrequencies:
    """Count how often each token occurs in a corpus, and save the counts as they grow.

    Counts and position in the corpus are written together, in one piece, every `save_every` rows.
    After a kill the same call goes on from there: no row is lost and none is counted twice.  It
    reads over the rows that are done without tokenizing them, so their order must be the same,
    which is checked at the last of them.

    Args:
        corpus: name of a dataset on the hub, a .txt, .csv, .json, .jsonl or .parquet file (both
            read by `datasets`, streaming), or any iterable of rows, such as a `datasets` object;
            not an iterator, which could not be read again.
        tokenizer: a transformers tokenizer; special tokens are not added.
        output: the count file, which `TokenFrequencies.load` reads.
        columns: the columns with text; each is tokenized on its own.
        vocab_size: columns of the table; None asks the tokenizer for its length.
        name: configuration of a hub dataset.
        split: split of a hub dataset.
        max_rows: stop after so many rows, or None for all.
        save_every: rows between two saves.
        progress: show a progress bar on standard error.

    Returns:
        The counts of the rows so far: all of them, or `max_rows`.

    Raises:
        ValueError: the output was counted with other settings or from another corpus, a column does
            not exist, or there is no text.
        ImportError: `datasets` is needed and not installed.
    """
    size = vocab_size if vocab_size is not None else len(tokenizer)  # pyright: ignore[reportArgumentType]
    job, path = _Job(tokenizer, tuple(columns), size), Path(output)
    _check_counts(max_rows, save_every)
    done = saved = _resume(job, path)
    rows = _remaining(_open(corpus, name, split), job, done, path)
    with _bar(corpus, done.rows, max_rows, progress) as bar:
        while not _complete(done, max_rows):
            batch = list(islice(rows, _batch_size(done, max_rows, save_every)))
            done = job.add(done, batch) if batch else done._replace(exhausted=True)
            bar.update(len(batch))
            if _complete(done, max_rows) or done.rows >= saved.rows + save_every:
                _save(job, path, done, max_rows)
                saved = done
    return TokenFrequencies(done.counts, _total(job, done), str(path))


def _check_counts(max_rows: int | None, save_every: int) -> None:
    if save_every < 1:
        raise ValueError(f"save_every={save_every}: must be at least 1; try 10000.")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows={max_rows}: must be at least 1, or None for the whole corpus.")


def _complete(done: _Counted, max_rows: int | None) -> bool:
    return done.exhausted or (max_rows is not None and done.rows >= max_rows)


def _batch_size(done: _Counted, max_rows: int | None, save_every: int) -> int:
    left = _BATCH if max_rows is None else max_rows - done.rows
    return min(_BATCH, save_every, left)


def _open(
    corpus: str | os.PathLike[str] | Iterable[Row], name: str | None, split: str
) -> Iterable[Row]:
    """Return the rows of a corpus that is given by name, path or as it is."""
    if isinstance(corpus, Iterator):
        raise ValueError("corpus is an iterator, which cannot be read again; pass the iterable.")
    if not isinstance(corpus, (str, os.PathLike)):
        return corpus
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(
            "A corpus by name or path needs `datasets`: pip install datasets"
        ) from error
    loader = _LOADERS.get(Path(corpus).suffix)
    if loader is not None and Path(corpus).is_file():
        return datasets.load_dataset(loader, data_files=str(corpus), split="train", streaming=True)
    return datasets.load_dataset(os.fspath(corpus), name, split=split, streaming=True)


def _remaining(corpus: Iterable[Row], job: _Job, done: _Counted, path: Path) -> Iterator[Row]:
    """Return the rows after those that are done; the last of them is read again and compared."""
    if done.rows == 0 or done.exhausted:
        return iter(corpus)
    seek: Any = getattr(corpus, "skip", None)
    before = done.rows - 1
    rows = iter(seek(before)) if seek is not None else islice(iter(corpus), before, None)
    last = next(rows, None)
    if last is None or job.digest(last) != done.digest:
        raise ValueError(
            f"{path}: row {before} of the corpus is not the one that was counted; "
            "give the same corpus in the same order, or another output."
        )
    return rows


def _resume(job: _Job, path: Path) -> _Counted:
    """Read the counts of the output file, or zeros if there is none."""
    empty = torch.zeros(job.vocab_size, dtype=torch.int64)
    if not path.exists():
        return _Counted(empty, 0, "", False)
    data: Any = json.loads(path.read_text(encoding="utf-8"))
    stored: dict[str, Any] = data.get("metadata", {})
    for key, value in job.identity.items():
        if stored.get(key) != value:
            raise ValueError(
                f"{path}: counted with {key}={stored.get(key)!r}, now {value!r}; "
                "choose another output."
            )
    table = TokenFrequencies.from_config(
        {
            "counts": data["token_frequency_dict"],
            "vocab_size": job.vocab_size,
            "total": data["num_token"],
        }
    )
    return _Counted(table.counts, stored["rows"], stored["last_row"], stored["exhausted"])


def _save(job: _Job, path: Path, done: _Counted, max_rows: int | None) -> None:
    state = {
        "rows": done.rows,
        "last_row": done.digest,
        "exhausted": done.exhausted,
        "complete": _complete(done, max_rows),
    }
    TokenFrequencies(done.counts, max(1, int(done.counts.sum()))).save(
        path, {**job.identity, **state}
    )


def _total(job: _Job, done: _Counted) -> int:
    """Return the number of tokens, at least 1."""
    total = int(done.counts.sum())
    if total == 0:
        raise ValueError(f"corpus: no text in columns {list(job.columns)} of its {done.rows} rows.")
    return total


def _bar(corpus: Any, done: int, max_rows: int | None, progress: bool) -> Any:
    tqdm: Any = importlib.import_module("tqdm").tqdm
    total = len(corpus) if hasattr(corpus, "__len__") and not isinstance(corpus, str) else None
    if max_rows is not None:
        total = max_rows if total is None else min(total, max_rows)
    return tqdm(
        total=total, initial=done, unit=" rows", desc="counting tokens", disable=not progress
    )
