"""Rows of files: all columns, whatever their names, and the place of each for messages."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as arrow
import pytest
from pyarrow import parquet

from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import PromptItem, PromptSource, Row, read_prompts, read_rows
from dlm_sampling.text.prompt_files import read_stream

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


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        (
            "c.csv",
            "prompt\nHello Dorothy, said the Lion, and\n",
            "c.csv, row 1 has 3 cells for 1 column; quote cells that hold commas.",
        ),
        (
            "c.csv",
            'id,prompt\n1,"a, b"\n2,c,\n3,d\n',
            "c.csv, row 2 has 3 cells for 2 columns; quote cells that hold commas.",
        ),
        (
            "c.tsv",
            "id\tprompt\n1\ta\n2\tb\tc\n",
            "c.tsv, row 2 has 3 cells for 2 columns; quote cells that hold tabs.",
        ),
    ],
)
def test_a_row_with_more_cells_than_columns_is_bad(
    tmp_path: Path, name: str, content: str, error: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    rows = list(read_rows(str(path)))
    bad = [row for row in rows if isinstance(row.value, UsageError)]
    assert [str(row.value) for row in bad] == [f"{tmp_path}/{error}"]
    assert len(rows) == content.count("\n") - 1, "the other rows are read"
    prompts = read_prompts(str(path))
    assert [item.error for item in prompts if item.error] == [f"{tmp_path}/{error}"]
    assert [item.prompt for item in prompts if not item.error] == [
        row.value["prompt"] for row in rows if row not in bad
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.csv", b"prompt,id,prompt\na,1,b\n", "has two columns 'prompt'; rename one"),
        ("c.tsv", b"prompt\tprompt\na\tb\n", "has two columns 'prompt'"),
        ("c.csv", b'prompt\n"Once\ntwice\n', "is no table"),
        ("c.csv", b'prompt\n"Once" he said\n', "is no table"),
        ("p.jsonl", b'{"prompt": "a", "prompt": "b"}\n"a"', "line 1 is not JSON .'prompt' stands"),
        ("p.json", b'[{"prompt": "a",\n"prompt": "b"}]', "is not JSON .'prompt' stands twice"),
        ("p", b'{"messages": [{"role": "a", "role": "b"}]}', "is not JSON .'role' stands twice"),
    ],
)
def test_a_file_that_would_lose_cells_is_refused(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"{name}.* {words}"):
        list(read_rows(str(tmp_path / name)))


def test_columns_of_a_parquet_file_that_have_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    cells = [arrow.array(["a"]), arrow.array(["b"])]
    parquet.write_table(arrow.table(cells, names=["prompt", "prompt"]), path)
    with pytest.raises(UsageError, match=r"p\.parquet has two columns 'prompt'"):
        list(read_rows(str(path)))


def test_blank_columns_and_short_rows_lose_nothing(tmp_path: Path) -> None:
    """Spreadsheets write blank columns at the end."""
    path = tmp_path / "c.csv"
    path.write_text("prompt,id,,\na,1,,\nb\n", encoding="utf-8")
    assert read_prompts(str(path)) == [PromptItem("a", "1"), PromptItem("b")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (' [ {"prompt": "a"} ]', ["a"]),
        ('[\t{"prompt": "a"}, "b"]', ["a", "b"]),
        ('[ "a", "b" ]', ["a", "b"]),
        ("[[1, 2], [3]]", [[1, 2], [3]]),
        ("[ [ 1, 2 ], [3]]", [[1, 2], [3]]),
        ("[Verse 1]\n[ ]", ["[Verse 1]", "[ ]"]),
        ("[ Verse 1 ]", ["[ Verse 1 ]"]),
        ("[[Link]]", ["[[Link]]"]),
        ("[1] A note", ["[1] A note"]),
    ],
)
def test_what_begins_as_json_is_json_wherever_its_spaces_are(
    text: str, wanted: list[object]
) -> None:
    assert [item.prompt for item in read_stream(io.BytesIO(text.encode()), "pipe")] == wanted
