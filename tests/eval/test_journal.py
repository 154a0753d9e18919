"""The journal of measurements: whole lines only, and one set of settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from dlm_eval.journal import Journal, SettingsChanged, records_of_all

from dlm_sampling.cli.exits import verdict


def test_a_cut_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journal(path, {"a": (1, 2)}).append({"x": 1})
    path.write_bytes(path.read_bytes() + b'{"x": 2')
    journal = Journal(path, {"a": [1, 2]})
    journal.append({"x": 3})
    assert Journal(path, {"a": [1, 2]}).records == [{"x": 1}, {"x": 3}]


def test_other_settings_are_named(tmp_path: Path) -> None:
    Journal(tmp_path / "new" / "0.jsonl", {"model": 1})
    assert not (tmp_path / "new").exists()  # without a record the settings may still be others
    Journal(tmp_path / "0.jsonl", {"model": {"name": "a", "seed": 0}}).append({"x": 1})
    with pytest.raises(SettingsChanged, match=r"model: seed was 0 and is now 1") as told:
        Journal(tmp_path / "0.jsonl", {"model": {"name": "a", "seed": 1}})
    other = Journal(tmp_path / "1.jsonl", {"model": {"name": "b", "seed": 0}})
    with pytest.raises(SettingsChanged, match=r"0\.jsonl: model: name was .a. and is now .b."):
        records_of_all(other)
    assert verdict(told.value)[0] == 4  # as for any output that was begun with other options
