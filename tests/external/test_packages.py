"""A missing package is named with the command that installs it; a checkpoint appears whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from dlm_eval.external.packages import PackageMissing, find_package, published_whole


def test_a_missing_package_names_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLM_EXTERNAL", str(tmp_path))
    with pytest.raises(PackageMissing, match=r"pip install --no-deps no-such==1"):
        find_package("no_such_package", "no-such==1")
    (tmp_path / "no_such_package").mkdir()
    assert find_package("no_such_package", "no-such==1") == tmp_path / "no_such_package"


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), published_whole(tmp_path / "model") as place:
        (place / "config.json").write_text("{}", encoding="utf-8")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
