"""Rows of files: all columns, whatever their names, and the place of each for messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import PromptSource, Row, read_rows

PAIRS = [{"question": "1 + 1?", "answer": "2"}, {"question": "An é?", "answer": "yes"}]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ""])
def test_every_kind_of_file_has_the_same_rows(tmp_path: Path, suffix: str) -> None:
    import datasets

    path = tmp_path / f"pairs{suffix}"
    table = datasets.Dataset.from_list(PAIRS)
    if suffix == ".csv":
        table.to_csv(path)
    elif suffix == ".parquet":
        table.to_parquet(path)
    elif suffix:
        table.to_json(path, lines=suffix == ".jsonl")
    else:
        table.save_to_disk(path)
    rows = list(read_rows(str(path)))
    assert [row.value for row in rows] == PAIRS
    assert all(row.place.startswith(str(path)) for row in rows)


def test_lines_of_text_have_a_place_and_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("one\n\ntwo\n", encoding="utf-8")
    assert list(read_rows(str(path))) == [
        Row(f"{path}, line 1", "one"),
        Row(f"{path}, line 3", "two"),
    ]
    with pytest.raises(UsageError, match="no columns"):
        list(read_rows(PromptSource(str(path), column="text")))
