"""Open the output of `dlm-sampling generate`: rows stay once written, and `--resume` goes on.

An output that exists is only added to.  The one thing that is ever taken from it is a last line
without its end, and that only once all lines before it, and what there is of it, have been found
to be what this run would write.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO, cast

from dlm_sampling.errors import JobMismatchError, UsageError
from dlm_sampling.viewers.safe_text import json_line

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

JSON_SUFFIXES = (".jsonl", ".ndjson")


@dataclass
class Output:
    """Hold an open output.

    Fields:
        file: receives the results.
        path: its path, or None for standard output.
        on_disk: whether it keeps what is written, unlike standard output and devices.
        kept: the records that an earlier run has left, with `--resume`.
        torn: start of the next row that an earlier run has left.
    """

    file: TextIO
    path: Path | None = None
    on_disk: bool = False
    kept: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    torn: bytes = b""

    def write(self, text: str) -> None:
        """Add to the output.

        Raises:
            OSError: the disk is full; the error has the name of the file.
        """
        with _naming(self.path):
            self.file.write(text)

    def commit(self) -> None:
        """Write all rows so far to the disk; errors as `write`."""
        with _naming(self.path):
            self.file.flush()
            if self.on_disk:
                os.fsync(self.file.fileno())

    def lines(self) -> int:
        """Count the lines that are in the file."""
        with suppress(OSError):
            self.file.flush()
        return self.path.read_bytes().count(b"\n") if self.path and self.on_disk else 0

    def go_on(self, heads: Sequence[Mapping[str, Any]], facts: Sequence[Mapping[str, Any]]) -> None:
        """Check that this run would write what is there, and make the file end with a whole row.

        Args:
            heads: of every row of this run, the entries that its record begins with.
            facts: of every row, further entries that are known before it is run.

        Raises:
            JobMismatchError: an option or a prompt differs; the message has the difference, and
                the file is as it was.
        """
        if self.path is None or not self.on_disk:
            return
        begun = len(self.kept) + bool(self.torn)
        rows = zip(self.kept, heads, facts, strict=False)
        for number, (record, head, more) in enumerate(rows, start=1):
            for key, value in {**head, **more}.items():
                if record.get(key) != value:
                    raise self._mismatch(f", line {number} {difference(key, record, value)}")
        if begun > len(heads):
            raise self._mismatch(f" has {begun} rows, now {len(heads)} are asked for")
        if self.torn:
            head = json_line(heads[begun - 1])[:-1].encode()  # without the brace at its end
            if self.torn[: len(head)] != head[: len(self.torn)]:
                raise self._mismatch(f", line {begun} is not the beginning of this run's row")
            self.file.truncate(self.path.stat().st_size - len(self.torn))
        elif self.kept and not self.path.read_bytes().endswith(b"\n"):
            self.write("\n")

    def _mismatch(self, found: str) -> JobMismatchError:
        return JobMismatchError(
            f"{self.path}{found}. Give the same prompts and options to go on, or choose another "
            "--output."
        )


def difference(key: str, record: Mapping[str, Any], value: object) -> str:
    """Return what a row has instead of `value`; the digest of all options says what it covers."""
    if key == "options" and key in record:
        return (
            "was made with other options (steps, lengths, temperature, filters, guidance, eos, "
            "stop, parameters of the sampler, dtype) or other weights"
        )
    return f"has {key}={record.get(key)!r}, now {value!r}"


def is_folder(output: str | None) -> bool:
    """Return whether an output names a folder: by a slash at its end, or as it is one."""
    return output is not None and (output.endswith(("/", os.sep)) or Path(output).is_dir())


@contextmanager
def open_output(path: Path | None, *, resume: bool = False) -> Generator[Output]:
    """Open standard output or a file, to whose end rows are added as they are done.

    Raises:
        UsageError: the file holds something, and `resume` is False; or its folder is missing.
        OSError: the file cannot be written; this is checked before any work.
    """
    if path is not None and str(path) != "-" and not path.parent.is_dir():
        raise UsageError(f"--output {path}: there is no folder {path.parent}; make it first.")
    if path is None or str(path) == "-":
        yield Output(sys.stdout)
        sys.stdout.flush()
        return
    if path.exists() and not path.is_file():  # a device, a pipe
        with _open(path, "w") as file:
            yield Output(file, path)
        return
    with _open(path, "a") as file:
        lock(file, path)
        old = path.read_bytes()
        if old and not resume:
            raise UsageError(
                f"--output {path}: has {len(old)} bytes, which stay. --resume goes on with them; "
                "or choose another name."
            )
        try:
            yield Output(file, path, True, *_read(old, path))
        finally:
            with suppress(OSError):
                file.flush()
            if not path.stat().st_size:
                path.unlink()


@contextmanager
def _open(path: Path, mode: Literal["a", "w"]) -> Generator[TextIO]:
    """Open a file; what goes wrong while it is written is not hidden by what closing adds."""
    file = path.open(mode, encoding="utf-8", errors="backslashreplace")
    try:
        yield file
    except BaseException:
        with suppress(OSError):  # a full disk has no room for the buffer either
            file.close()
        raise
    with _naming(path):
        file.close()


@contextmanager
def _naming(path: Path | None) -> Generator[None]:
    """Give errors of writing, which have none, the name of the file."""
    try:
        yield
    except OSError as error:
        if path is not None and error.filename is None:
            error.filename = str(path)
        raise


def lock(file: TextIO, path: Path) -> None:
    """Keep a file for this process until it is closed.

    Raises:
        UsageError: another process has it.
    """
    busy = UsageError(
        f"--output {path}: another process writes it. Several processes need a folder, such as "
        "out/; or choose another name."
    )
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:  # a file system without locks
            return
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        raise busy  # it was just removed, as a run that writes nothing does


def _read(data: bytes, path: Path) -> tuple[list[Mapping[str, Any]], bytes]:
    """Return the records in a file, and a last line that is no whole record.

    Raises:
        UsageError: another line is no record.
    """
    end = data.rfind(b"\n") + 1
    kept = [_record(line, path) for line in data[:end].splitlines()]
    last = data[end:]
    try:
        json.loads(last)
    except ValueError:
        if last and not last.startswith(b"{"):
            raise _not_ours(path) from None
        return kept, last
    return [*kept, _record(last, path)], b""


def _record(line: bytes, path: Path) -> Mapping[str, Any]:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise _not_ours(path) from error
    if not isinstance(value, dict):
        raise _not_ours(path)
    return cast("Mapping[str, Any]", value)


def _not_ours(path: Path) -> UsageError:
    return UsageError(f"--resume: {path} does not hold JSON lines of an earlier run.")
