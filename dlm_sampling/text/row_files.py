"""Read the rows of files, standard input and data sets.

Lines of text, JSON lines, JSON arrays and CSV are read here, as `import datasets` takes seconds;
parquet needs pyarrow; folders of data sets and names on the hub go through the package `datasets`.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from dlm_sampling.errors import UsageError

TAB = "\t"
LINE_LIMIT = 16 * 2**20
EXTRA = "pip install 'dlm-sampling[jobs]'"
_BOM = b"\xef\xbb\xbf"
# "[Verse 1]" and "[[Link]]" begin a text; '["a"', "[{" and "[[1, 2]" begin an array.
_BEGINS_JSON = re.compile(rb'\{|\[\s*(["{]|$|\[\s*\d)')
_SAVED = ("state.json", "dataset_dict.json")
"""Files in a folder that `save_to_disk` of a data set, and of one with parts, wrote."""
_EXTRA_CELLS = "__index_level_0__"
"""The column that `datasets` makes where every row of a CSV file has a cell without a column."""
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class PromptSource:
    """Name the place of prompts or texts: a file, a folder, or a data set.

    Fields:
        path: file, folder of a data set, or name on the hub as org/name or org/name@revision.
        column: the column that holds the prompt; default "prompt", else "messages".
        split: part of a data set with parts.
        subset: configuration of a data set on the hub.
    """

    path: str
    column: str | None = None
    split: str = "train"
    subset: str | None = None


class Row(NamedTuple):
    """Hold one row of a file: a mapping of columns to values, a line of text, or a JSON value.

    Where a row alone has another form than its file, the value is the `UsageError` that says so.
    """

    place: str  # for messages, such as "prompts.jsonl, line 3"
    value: Any


def read_rows(source: PromptSource | str) -> Iterator[Row]:
    """Read the rows of a file, of a folder of a data set, or of a data set on the hub.

    The suffix says what a file holds: .txt lines of text, .jsonl and .ndjson JSON lines, .json an
    array or JSON lines, .csv, .tsv and .parquet tables.  Other files are JSON if their first line
    begins as JSON does, and else lines of text.  A path that exists wins over a name on the hub.
    No cell is dropped: a row of more cells than columns is bad, see `Row`.

    Raises:
        UsageError: the file has another form, or a name stands twice; the message names the line.
        OSError: the file cannot be read.
    """
    source = PromptSource(source) if isinstance(source, str) else source
    path = Path(source.path)
    kind = path.suffix.lower()
    on_hub = kind not in _READERS and not path.exists() and _HUB_NAME.fullmatch(source.path)
    if not path.is_dir() and not on_hub:
        with path.open("rb") as file:
            yield from rows_of(file, source.path, source.column, kind)
        return
    place = "data set on the hub" if on_hub else "folder of a data set"
    logging.getLogger(__name__).info("%s: %s", source.path, place)
    if on_hub:
        from dlm_sampling.denoisers import hub_in_reach  # which imports torch

        name, _, revision = source.path.partition("@")
        with hub_in_reach() as unreachable:
            try:
                found = _data_set(source, name, revision or None)
            except UsageError as error:
                if unreachable is None:
                    raise
                raise UsageError(f"{source.path}: is no file, and {unreachable}.") from error
        yield from _table(found, source.path)
    elif any((path / file).exists() for file in _SAVED):
        yield from _table(_saved(source), source.path)
    else:
        yield from _folder(source)


def rows_of(file: BinaryIO, name: str, column: str | None = None, kind: str = "") -> Iterable[Row]:
    """Read the rows of an open file, such as standard input.

    Args:
        file: the bytes.
        name: name of the source, for messages.
        column: a column that will be asked for, which lines of text do not have.
        kind: the suffix that says what it holds; see `read_rows`.

    Raises:
        UsageError: the file has another form.
    """
    return _READERS.get(kind, _any_lines)(file, name, column)


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each line that is not blank."""
    number = 0
    while raw := file.readline(LINE_LIMIT + 1):
        number += 1
        if len(raw) > LINE_LIMIT:
            raise UsageError(f"{name}: a line is longer than {LINE_LIMIT >> 20} MiB.")
        raw = raw.removeprefix(_BOM) if number == 1 else raw
        text = _decode(raw, name, number).rstrip("\r\n")
        if text.strip():
            yield f"{name}, line {number}", text


def _decode(raw: bytes, name: str, first: int = 1) -> str:
    """Return the text of bytes, whose first line has this number in the file."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first + raw[: error.start].count(b"\n")
        raise UsageError(f"{name}, line {line} is not UTF-8 text ({error.reason}).") from error


def _text_lines(file: BinaryIO, name: str, column: str | None) -> Iterator[Row]:
    """Read a line of text per row."""
    if column is not None:
        raise UsageError(f"--column {column}: lines of text have no columns; leave it out.")
    return (Row(place, text) for place, text in _lines(file, name))


def _json_lines(file: BinaryIO, name: str, column: str | None) -> Iterator[Row]:
    """Read a JSON value per line; a file whose first line is none has another form."""
    good = False
    for place, text in _lines(file, name):
        try:
            value: Any = _json(text)
        except (ValueError, RecursionError) as error:
            array = " An array over several lines belongs in a .json file."
            hint = array if text.lstrip().startswith("[") else ""
            value = UsageError(f"{place} is not JSON ({_at_column(error)}).{hint}")
            if not good:
                raise value from error
        good = True
        yield Row(place, value)


def _json_file(file: BinaryIO, name: str, column: str | None) -> Iterator[Row]:
    """Read one JSON array or object over any number of lines, or else JSON lines."""
    raw = file.read().removeprefix(_BOM)
    try:
        value: Any = _json(_decode(raw, name))
    except json.JSONDecodeError as error:
        if raw.lstrip().startswith(b"["):
            place = f"{name}, line {error.lineno}"
            raise UsageError(f"{place} is not JSON ({_at_column(error)}).") from error
        yield from _json_lines(io.BytesIO(raw), name, column)
        return
    except UsageError:
        raise
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not JSON ({error}).") from error
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    for number, entry in enumerate(values, start=1):
        yield Row(f"{name}, entry {number}", entry)


def _at_column(error: Exception) -> str:
    """Return what is wrong with JSON, whose line the message has already, with the column."""
    known = isinstance(error, json.JSONDecodeError)
    return f"{error.msg}, column {error.colno}" if known else str(error)


def _json(text: str) -> Any:
    """Read JSON, and refuse an object with a key twice, of which only the last value would stay."""

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError(f"{_twice(key for key, _ in pairs)!r} stands twice in an object")
        return found

    return json.loads(text, object_pairs_hook=made)


def _twice(names: Iterable[str]) -> str | None:
    """Return the first name that stands twice."""
    counts = Counter(names)
    return next((name for name, count in counts.items() if count > 1), None)


def _any_lines(file: BinaryIO, name: str, column: str | None) -> Iterator[Row]:
    """Read JSON if the first line begins as JSON does, else a line of text per row."""
    raw = file.read()
    first = raw.removeprefix(_BOM).lstrip().split(b"\n", 1)[0].strip()
    if _BEGINS_JSON.match(first):
        try:
            yield from _json_file(io.BytesIO(raw), name, column)
        except UsageError as error:
            raise UsageError(f"{error} Lines of text that begin so need a .txt file.") from error
    else:
        yield from _text_lines(io.BytesIO(raw), name, column)


def _delimited(file: BinaryIO, name: str, column: str | None, separator: str) -> Iterator[Row]:
    """Read a table in text, with a header line; an empty cell is no value.

    A mark of quotation that does not close would take all that follows for its cell: it is refused.
    """
    limit = csv.field_size_limit(LINE_LIMIT)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        table = csv.DictReader(text, delimiter=separator, strict=True)
        _check_columns(table.fieldnames or (), name)
        for row in _table(table, name):
            cells = cast("dict[str | None, Any]", row.value)
            if None in cells:  # what is beyond the columns
                columns = len(cells) - 1
                yield row._replace(
                    value=UsageError(
                        f"{row.place} has {columns + len(cells[None])} cells for {columns} "
                        f"column{'s'[: columns != 1]}; quote cells that hold "
                        f"{'tabs' if separator == TAB else 'commas'}."
                    )
                )
                continue
            yield row._replace(value={key: cell or None for key, cell in cells.items()})
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{name} is no table in UTF-8 ({error}).") from error
    finally:
        csv.field_size_limit(limit)
        text.detach()  # the caller closes the file


def _check_columns(names: Iterable[str], place: str) -> None:
    """Refuse columns of one name, of which a row would keep the last; none asks for a blank one."""
    name = _twice(name for name in names if name)
    if name is not None:
        raise UsageError(f"{place} has two columns '{name}'; rename one.")


def _csv(file: BinaryIO, name: str, column: str | None) -> Iterator[Row]:
    return _delimited(file, name, column, ",")


def _tsv(file: BinaryIO, name: str, column: str | None) -> Iterator[Row]:
    return _delimited(file, name, column, TAB)


def _parquet(file: BinaryIO, name: str, column: str | None) -> Iterator[Row]:
    """Read a parquet file."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{name}: parquet needs pyarrow: {EXTRA}") from error
    arrow, reader = cast(tuple[Any, Any], (pyarrow, parquet))
    try:
        table = reader.ParquetFile(file)
        _check_columns(table.schema_arrow.names, name)
        batches = table.iter_batches()
        yield from _table((row for batch in batches for row in batch.to_pylist()), name)
    except arrow.ArrowException as error:
        raise UsageError(f"{name} is no parquet file ({error}).") from error


def _library(source: PromptSource) -> Any:
    """Import the package `datasets`."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError(f"{source.path}: data sets need the package datasets: {EXTRA}") from error
    return datasets


@contextmanager
def _told(source: PromptSource) -> Generator[None]:
    """Turn the errors of the package `datasets` into one line that names the source."""
    try:
        yield
    except (ValueError, OSError, KeyError, _library(source).exceptions.DatasetsError) as error:
        raise UsageError(f"{source.path}: {error.__cause__ or error}") from error


def _data_set(source: PromptSource, name: str, revision: str | None = None) -> Any:
    """Open a data set on the hub, or a folder with files that are not read here."""
    library = _library(source)
    with _told(source):
        return library.load_dataset(name, source.subset, split=source.split, revision=revision)


def _saved(source: PromptSource) -> Iterable[Mapping[str, Any]]:
    """Open a folder that `save_to_disk` wrote."""
    library = _library(source)
    with _told(source):
        found: Any = library.load_from_disk(source.path)
        return found[source.split] if (Path(source.path) / _SAVED[1]).exists() else found


def _folder(source: PromptSource) -> Iterator[Row]:
    """Read a folder of files: which belong to the split is said by `datasets`, rows are read here.

    So a file has the same rows, cell by cell, alone and in a folder.
    """
    folder = Path(source.path).resolve()  # "csv" alone is a loader of all CSV files below
    with _told(source):
        builder: Any = _library(source).load_dataset_builder(str(folder), source.subset)
    splits: Mapping[str, Sequence[str]] = builder.config.data_files or {}
    if source.split not in splits:
        names = ", ".join(map(str, splits)) or "none"
        raise UsageError(f"{source.path} has no split '{source.split}'. Its splits: {names}.")
    files = [Path(file) for file in splits[source.split]]
    if not all(file.suffix.lower() in _READERS for file in files):
        found = _data_set(source, str(folder))
        if builder.name == "csv" and _EXTRA_CELLS in found.column_names:
            raise UsageError(
                f"{source.path}: the rows of a CSV file have more cells than its header has "
                "columns. Give every column a name."
            )
        yield from _table(found, source.path)
        return
    for path in files:
        place = str(Path(source.path) / path.relative_to(folder))
        with path.open("rb") as file:
            yield from rows_of(file, place, source.column, path.suffix.lower())


def _table(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[Row]:
    """Read records with the same columns."""
    return (Row(f"{name}, row {i}", row) for i, row in enumerate(rows, start=1))


_READERS: Mapping[str, Callable[[BinaryIO, str, str | None], Iterable[Row]]] = {
    ".txt": _text_lines,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_file,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
