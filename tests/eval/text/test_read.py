"""Texts from every kind of file, and one line for what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dlm_eval.text import read
from dlm_eval.text.read import digest, read_texts

from dlm_sampling.errors import UsageError

TEXTS = ["one, two", "three", "four five"]


def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    (tmp_path / "a.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    Dataset.from_list(rows).to_csv(str(tmp_path / "a.csv"))
    Dataset.from_list(rows).to_parquet(str(tmp_path / "a.parquet"))
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "set"))
    for name in ("a.txt", "a.jsonl", "a.csv", "a.parquet", "set"):
        assert read_texts(str(tmp_path / name), "--texts") == TEXTS, name


def test_a_column_is_chosen_or_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "yes", "story": "once"}\n', encoding="utf-8")
    assert read_texts(str(path), "--texts") == ["yes"]
    assert read_texts(str(path), "--texts", "story") == ["once"]
    with pytest.raises(UsageError, match="stor"):
        read_texts(str(path), "--texts", "stor")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jsonl", None, "there is no such file"),
        ("empty.txt", "", "holds no text"),
        ("number.jsonl", '{"text": 3}\n', "text"),
        ("other.jsonl", '{"a": "b"}\n', "text"),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message) as error:
        read_texts(str(tmp_path / name), "--reference")
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--texts .*: the folder is empty"):
        read_texts(str(tmp_path), "--texts")


def test_the_digest_sees_order_and_borders() -> None:
    known = {digest(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"])}
    assert len(known) == 4


def test_a_count_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\nno JSON\n', encoding="utf-8")
    assert read_texts(str(path), "--texts", count=2) == ["one", "two"]
    with pytest.raises(UsageError, match="line 3"):
        read_texts(str(path), "--texts", count=3)


def test_too_much_is_refused_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\nthree\n", encoding="utf-8")
    monkeypatch.setattr(read, "MOST_TEXTS", 2)
    with pytest.raises(UsageError, match=r"more than 2 texts .* --samples N"):
        read_texts(str(path), "--texts")
    assert len(read_texts(str(path), "--texts", count=3)) == 3
    monkeypatch.setattr(read, "MOST_TEXTS", 3)
    assert len(read_texts(str(path), "--texts")) == 3
    monkeypatch.setattr(read, "MOST_CHARACTERS", 10)
    with pytest.raises(UsageError, match="million characters"):
        read_texts(str(path), "--texts")
    monkeypatch.setattr(read, "MOST_BYTES", 13)
    with pytest.raises(UsageError, match="the folder holds more than"):
        read_texts(str(tmp_path), "--texts")
