"""A missing package is named with the command that installs it; a checkpoint appears whole."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from dlm_eval.external.packages import PackageMissing, find_package, write_once


def test_a_missing_package_names_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLM_EXTERNAL", str(tmp_path))
    with pytest.raises(PackageMissing, match=r"pip install --no-deps no-such==1"):
        find_package("no_such_package", "no-such==1")
    (tmp_path / "no_such_package").mkdir()
    assert find_package("no_such_package", "no-such==1") == tmp_path / "no_such_package"


def test_a_failed_conversion_leaves_nothing_but_its_lock(tmp_path: Path) -> None:
    def fail(place: Path) -> None:
        (place / "config.json").write_text("{}", encoding="utf-8")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_once(tmp_path / "model", fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_of_two_that_want_a_checkpoint_one_writes_and_the_other_waits(tmp_path: Path) -> None:
    written: list[Path] = []

    def slow(place: Path) -> None:
        written.append(place)
        time.sleep(0.2)
        (place / "config.json").write_text("{}", encoding="utf-8")

    def get() -> None:
        folder = write_once(tmp_path / "model", slow)
        assert (folder / "config.json").read_text(encoding="utf-8") == "{}"

    both = [threading.Thread(target=get) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(250)
    assert len(written) == 1
