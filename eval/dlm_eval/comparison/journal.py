"""A journal of finished measurements: a killed run loses nothing and repeats nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast


class SettingsChanged(ValueError):
    """A journal was written with other settings."""


class Journal:
    """Records under the settings they were measured with, in a file of JSON lines.

    The first line holds the settings.  A last line without its end is what a killed run left; it is
    dropped.

    Raises:
        SettingsChanged: the file holds other settings; the message names the first that differs.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Open or begin the journal."""
        self.path = path
        settings = _plain(settings)
        lines = _whole_lines(path)
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_line(path, settings)
            lines = [settings]
        self._compare(lines[0], settings)
        self.settings = lines[0]
        self.records = lines[1:]

    def append(self, record: dict[str, Any]) -> None:
        """Write one record to the disk, in one piece."""
        record = _plain(record)
        _write_line(self.path, record)
        self.records.append(record)

    def _compare(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        before, now = dict(_flat(old)), dict(_flat(new))
        for name in (*before, *now):
            if before.get(name) != now.get(name):
                raise SettingsChanged(
                    f"{self.path}: {name} was {_short(before.get(name))} and is now "
                    f"{_short(now.get(name))}; use the old value, another --out, or delete the "
                    "journal to measure again."
                )


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As it is read back: tuples become lists."""
    return cast("dict[str, Any]", json.loads(json.dumps(value)))


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(cast("dict[str, Any]", value), f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", value


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of the file; an unfinished last one is cut off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)
    return [cast("dict[str, Any]", json.loads(line)) for line in data[:end].splitlines()]


def _write_line(path: Path, value: dict[str, Any]) -> None:
    with path.open("ab") as file:
        file.write(json.dumps(value).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
