"""Write and read the files of a job: each appears under its name complete, or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from dlm_sampling.errors import UsageError
from dlm_sampling.viewers.safe_text import json_line

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

Record = dict[str, Any]
PARTIAL = "partial"
SUCCESS = "_SUCCESS"
REMEDY = "restore this file, or choose another folder."
COLUMNS = {
    "id": "string", "index": "int64", "sample": "int64", "prompt": "string", "text": "string",
    "token_ids": "list", "finish_reason": "string", "logprob": "float64", "nfe": "int64",
    "work": "float64", "steps": "int64", "row_seed": "int64", "error": "error",
}  # fmt: skip


def publish(folder: Path, name: str, data: bytes) -> None:
    """Write a file in `folder` under another name, and rename it once it is on the disk.

    Nothing is written once another process has finished the job.

    Raises:
        OSError: the disk is full or the folder read-only; what was there before stays.
    """
    temporary = folder / PARTIAL / f"{uuid4().hex}.tmp"
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and (folder / SUCCESS).exists():
            return  # and has removed `partial/`
        raise type(error)(error.errno, error.strerror, str(folder / name)) from error


def append_line(path: Path, value: Record) -> None:
    """Append a line of JSON, whole or not at all, in the place of a line that was cut off.

    Lines of several processes stay whole.

    Raises:
        OSError: the disk is full or the file read-only; what was there before stays.
    """
    data = f"{json_line(value)}\n".encode()
    with path.open("a+b", buffering=0) as file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        before = file.seek(0, os.SEEK_END)
        if before:
            file.seek(0)
            before = file.readall().rfind(b"\n") + 1
            file.truncate(before)
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):  # a device
                file.truncate(before)
            error.filename = str(path)
            raise


def read_lines(path: Path) -> list[Record]:
    """Read lines of JSON; a last line that was cut off does not count.

    Raises:
        UsageError: another line is damaged.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [
        read_object(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.endswith(b"\n")
    ]


def read_object(data: bytes, place: str) -> Record:
    """Read an object of JSON that a job has written; `place` says where, for the message.

    Raises:
        UsageError: it is damaged.
    """
    try:
        value: Any = json.loads(data)
    except ValueError as error:
        raise UsageError(f"{place} is damaged ({error}); {REMEDY}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{place} is damaged (no object); {REMEDY}")
    return cast("Record", value)


def encode(records: Sequence[Record], file_format: str) -> bytes:
    """Return records as the content of a file of this format."""
    if file_format == "jsonl":
        blank = dict.fromkeys(COLUMNS)
        return "".join(f"{json_line(blank | record)}\n" for record in records).encode()
    arrow, parquet = pyarrow_modules()
    text = arrow.string()
    types = {"list": arrow.list_(arrow.int64())}
    types["error"] = arrow.struct({"code": text, "message": text})
    columns = {
        name: types[kind] if kind in types else arrow.type_for_alias(kind)
        for name, kind in COLUMNS.items()
    }
    sink = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(records, arrow.schema(columns)), sink)
    return sink.getvalue()


def count_errors(path: Path) -> int:
    """Count the records of a part that have an error."""
    if path.suffix == ".jsonl":
        return sum(record["error"] is not None for record in read_lines(path))
    arrow, parquet = pyarrow_modules()
    try:
        errors = parquet.read_table(path, columns=["error"])["error"]
    except arrow.ArrowException as error:
        raise UsageError(f"{path} is damaged ({error}); {REMEDY}") from error
    return len(errors) - errors.null_count


def pyarrow_modules() -> tuple[Any, Any]:
    """Import pyarrow, which has no types."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(
            "parquet needs pyarrow: pip install 'dlm-sampling[jobs]', or take --format jsonl."
        ) from error
    return pyarrow, parquet
