"""Open the output of `dlm-sampling generate`: rows stay once written, and `--resume` goes on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast

from dlm_sampling.errors import JobMismatchError, UsageError

JSON_SUFFIXES = (".jsonl", ".ndjson")


@dataclass
class Output:
    """Hold an open output.

    Fields:
        file: receives the results.
        path: its path, or None for standard output and devices.
        kept: the records that an earlier run has left, with `--resume`.
    """

    file: TextIO
    path: Path | None = None
    kept: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])

    def commit(self) -> None:
        """Write all rows so far to the disk."""
        self.file.flush()
        if self.path is not None:
            os.fsync(self.file.fileno())

    def lines(self) -> int:
        """Count the lines that are in the file."""
        with suppress(OSError):
            self.file.flush()
        return 0 if self.path is None else self.path.read_bytes().count(b"\n")

    def check_kept(self, number: int, facts: Mapping[str, Any]) -> None:
        """Check that this run would write a kept row in the same way.

        Raises:
            JobMismatchError: an option or the prompt differs; the message has the difference.
        """
        record = self.kept[number]
        changes = [
            f"{k}={record.get(k)!r}, now {v!r}" for k, v in facts.items() if record.get(k) != v
        ]
        if changes:
            raise JobMismatchError(
                f"{self.path}, line {number + 1} has {changes[0]}. Give the same options to go on, "
                "or choose another --output."
            )


def is_folder(output: str | None) -> bool:
    """Return whether an output names a folder: by a slash at its end, or as it is one."""
    return output is not None and (output.endswith(("/", os.sep)) or Path(output).is_dir())


@contextmanager
def open_output(path: Path | None, *, resume: bool = False) -> Generator[Output]:
    """Open standard output or a file, to whose end rows are added as they are done.

    Raises:
        UsageError: the file holds something, and `resume` is False.
        OSError: the file cannot be written; this is checked before any work.
    """
    if path is None or str(path) == "-":
        yield Output(sys.stdout)
        sys.stdout.flush()
        return
    if path.exists() and not path.is_file():  # a device, a pipe
        with path.open("w", encoding="utf-8") as file:
            yield Output(file)
        return
    old = path.read_bytes() if path.exists() else b""
    if old and not resume:
        raise UsageError(
            f"--output {path}: has {len(old)} bytes, which stay. --resume goes on with them; or "
            "choose another name."
        )
    whole = old[: old.rfind(b"\n") + 1]  # a row that was cut off was not done
    kept = [_record(line, path) for line in whole.splitlines()]
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.truncate(len(whole))
        try:
            yield Output(file, path, kept)
        finally:
            with suppress(OSError):
                file.flush()
            if not path.stat().st_size:
                path.unlink()


def _record(line: bytes, path: Path) -> Mapping[str, Any]:
    problem = f"--resume: {path} does not hold JSON lines of an earlier run."
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(problem) from error
    if not isinstance(value, dict):
        raise UsageError(problem)
    return cast("Mapping[str, Any]", value)
