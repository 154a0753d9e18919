"""A journal of finished measurements: a killed run loses nothing and repeats nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from dlm_sampling.errors import JobMismatchError


class SettingsChanged(JobMismatchError):
    """Signal that a journal was begun with other settings; exit code 4, as for any output."""


class Journal:
    """Records under the settings they were measured with, in a file of JSON lines.

    The first line holds the settings, and is written with the first record: a start that fails
    before leaves no file.  A last line without its end is what a killed run left; it is dropped.

    Raises:
        SettingsChanged: the file holds other settings; the message names the first that differs.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Open the journal."""
        self.path = path
        self.settings = _plain(settings)
        cut_unfinished(path)
        lines = whole_lines(path)
        self.begun = bool(lines)
        if lines:
            self.compare(lines[0], path)
        self.records = lines[1:]

    def append(self, record: dict[str, Any]) -> None:
        """Write one record to the disk, in one piece."""
        record = _plain(record)
        if not self.begun:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write_line(self.path, self.settings)
            self.begun = True
        _write_line(self.path, record)
        self.records.append(record)

    def compare(self, settings: dict[str, Any], path: Path) -> None:
        """Refuse the settings of a file if they are not those of this journal.

        Raises:
            SettingsChanged: names the first that differs.
        """
        before, now = dict(_flat(settings)), dict(_flat(self.settings))
        for name in (*before, *now):
            if before.get(name) != now.get(name):
                raise SettingsChanged(
                    f"{path}: {name} was {_short(before.get(name))} and is now "
                    f"{_short(now.get(name))}; use the old value, another --out, or delete the "
                    "journal to measure again."
                )


def records_of_all(own: Journal) -> list[dict[str, Any]]:
    """Return the finished records of all journals in the folder of this one, its own included.

    Raises:
        SettingsChanged: another journal was begun with other settings.
    """
    records: list[dict[str, Any]] = []
    for path in sorted(own.path.parent.glob("*.jsonl")):
        lines = whole_lines(path)
        if lines:
            own.compare(lines[0], path)
        records += lines[1:]
    return records


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As it is read back: tuples become lists."""
    return cast("dict[str, Any]", json.loads(json.dumps(value)))


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(cast("dict[str, Any]", value), f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", value


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the finished lines of a file, which another process may be writing."""
    if not path.exists():
        return []
    data = path.read_bytes()
    finished = data[: data.rfind(b"\n") + 1]
    return [cast("dict[str, Any]", json.loads(line)) for line in finished.splitlines()]


def cut_unfinished(path: Path) -> None:
    """Cut off the last line if it has no end: a killed run left it."""
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)


def _write_line(path: Path, value: dict[str, Any]) -> None:
    with path.open("ab") as file:
        file.write(json.dumps(value).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
