"""Prompt files of every form give the same prompts; what is wrong is named with its line."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pyarrow as arrow
import pytest
from pyarrow import parquet

from dlm_sampling.denoisers.checkpoints import reach
from dlm_sampling.errors import UsageError
from dlm_sampling.text.prompt_files import PromptSource, read_prompts, read_stream
from dlm_sampling.text.prompt_items import PromptItem

TEXTS = ["Once, twice", "\u00dcber \U0001f600", '"quoted"', "NA"]
BOM = b"\xef\xbb\xbf"


def records() -> list[dict[str, object]]:
    return [{"prompt": text, "id": f"r{i}"} for i, text in enumerate(TEXTS)]


def as_csv(separator: str) -> bytes:
    rows = [
        f"r{i}{separator}" + json.dumps(text, ensure_ascii=False) for i, text in enumerate(TEXTS)
    ]
    rows[2] = f'r2{separator}"""quoted"""'
    return "\r\n".join([f"id{separator}prompt", *rows]).encode()


def as_parquet() -> bytes:
    sink = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(records()), sink)
    return sink.getvalue()


LINES = "\n\n".join(json.dumps(record) for record in records()).encode()
ARRAY = json.dumps(records(), indent=2).encode()
FORMS = {
    "p.jsonl": LINES,
    "p.ndjson": LINES,
    "lines.json": LINES,
    "array.json": ARRAY,
    "one_line.json": json.dumps(records()).encode(),
    "lines.prompts": LINES,
    "array.prompts": ARRAY,
    "p.csv": as_csv(","),
    "p.tsv": as_csv("\t"),
    "p.parquet": as_parquet(),
}


@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_prompts(name: str, mark: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes((b"" if name.endswith("parquet") else mark) + FORMS[name])
    wanted = [PromptItem(text, f"r{i}") for i, text in enumerate(TEXTS)]
    assert read_prompts(str(path)) == wanted


@pytest.mark.parametrize("name", ["p.txt", "prompts", "p.md"])
def test_lines_of_text(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(BOM + b"[Verse 1]\r\n\n two \nthree")
    assert read_prompts(str(path)) == [PromptItem(t) for t in ("[Verse 1]", " two ", "three")]


def test_standard_input_with_a_mark() -> None:
    assert read_stream(io.BytesIO(BOM + LINES), "standard input")[1].prompt == TEXTS[1]
    assert read_stream(io.BytesIO(BOM + b"Once"), "standard input") == [PromptItem("Once")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.json", b'{"prompt": "a"\n{"prompt": "b"}', "line 1 is not JSON"),
        ("p.json", b'[\n"a",\n"b"', "line 3 is not JSON .Expecting ',' delimiter, column 4"),
        (
            "p.jsonl",
            b'{"prompt"\n{"prompt": "a"}',
            "line 1 is not JSON .Expecting ':'.*, column 10.[.]",
        ),
        ("p.jsonl", b'[\n"a",\n"b"]', "line 1 is not JSON .* belongs in a .json file"),
        ("prompts", b'{"prompt": "a"\n{"prompt": "b"}', "line 1 is not JSON.*need a .txt file"),
        ("prompts", b"[\n", "line 2 is not JSON"),
        ("p.json", b"[" * 100_000, "is not JSON"),
        ("p.csv", b"prompt\n\xff", "is no table in UTF-8"),
        ("p.txt", b"a\n\xff", "p.txt, line 2 is not UTF-8"),
        ("p.parquet", b"PAR1", "is no parquet file"),
        ("p.txt", b"\n \n", "No prompt"),
        ("p.json", b"[]", "No prompt"),
        ("p.jsonl", b'{"prompt": "a", "id": 1}\n' * 2, "1 ids stand twice, such as '1'"),
    ],
)
def test_files_of_another_form_are_refused(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_prompts(str(tmp_path / name))


def test_columns_are_chosen_and_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "a", "n": 1}\n{"question": "b"}', encoding="utf-8")
    read = read_prompts(PromptSource(str(path), column="question"))
    assert [item.prompt for item in read] == ["a", "b"]
    with pytest.raises(UsageError, match=r"line 1 has no column 'qestion'.*'question'"):
        read_prompts(PromptSource(str(path), column="qestion"))
    assert "Try --column question" in str(read_prompts(str(path))[0].error)
    (tmp_path / "p.txt").write_text("a", encoding="utf-8")
    with pytest.raises(UsageError, match="no columns"):
        read_prompts(PromptSource(str(tmp_path / "p.txt"), column="a"))


def test_data_sets_in_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chats too: a table fills the keys that only other messages have with None."""
    import datasets

    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    chat = [{"role": "system", "content": "x"}, {"role": "user", "content": "y", "name": "z"}]
    rows = [{"messages": chat, "id": 4}, {"messages": chat[1:], "id": 5}]
    made = datasets.Dataset.from_list(rows)
    made.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(test=made).save_to_disk(tmp_path / "parts")
    lines = tmp_path / "p.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    wanted = read_prompts(str(lines))
    assert wanted == [PromptItem(chat, 4), PromptItem(chat[1:], 5)]
    assert read_prompts(str(tmp_path / "saved")) == wanted
    assert read_prompts(PromptSource(str(tmp_path / "parts"), split="test")) == wanted
    with pytest.raises(UsageError, match="parts"):
        read_prompts(str(tmp_path / "parts"))


def test_a_seed_that_does_not_fit_is_an_error_of_its_row(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "seed": 2**64 - 1}, {"prompt": "b", "seed": 2**70}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    good, bad = read_prompts(str(tmp_path / "p.jsonl"))
    assert good.seed == 2**64 - 1
    assert "line 2: seed=1180591620717411303424: must fit in 64 bits" in str(bad.error)


def test_cells_without_a_column_in_a_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every row has one, `datasets` would shift all columns and read 1 as the prompt."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "tables"
    folder.mkdir()
    file = folder / "a.csv"
    file.write_text("prompt,id\na,1\nb,2,3\n", encoding="utf-8")
    assert [item.error is None for item in read_prompts(str(folder))] == [True, False]
    with gzip.open(folder / "a.csv.gz", "wt", encoding="utf-8") as packed:
        packed.write("prompt,id\na,1,9\nb,2,3\n")
    file.unlink()
    with pytest.raises(UsageError, match="more cells than its header has columns"):
        read_prompts(str(folder))


@pytest.mark.parametrize("name", ["csv", "text", "json"])
def test_a_folder_with_the_name_of_a_loader_is_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """To the package `datasets` these names alone mean all such files of the working directory."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text("not asked for", encoding="utf-8")
    (tmp_path / name).mkdir()
    (tmp_path / name / "p.txt").write_text("a prompt", encoding="utf-8")
    assert [item.prompt for item in read_prompts(name)] == ["a prompt"]


def test_a_line_that_is_not_json_is_an_error_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt"\n{"prompt": 5, "id": "x"}\n"b"', encoding="utf-8")
    first, broken, number, last = read_prompts(str(path))
    assert [first.prompt, last.prompt] == ["a", "b"]
    assert "line 2 is not JSON" in str(broken.error)
    assert "line 3, id 'x': 'prompt' is of type int: must be a string" in str(number.error)


@pytest.mark.parametrize("name", ["rows.csv", "rows.txt", "rows.jsonl"])
def test_a_file_has_the_same_rows_alone_and_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The package `datasets` would read 007 as 7, NA as nothing, and a blank line as a prompt."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    text = {
        "rows.csv": "id,prompt,seed\n007,1984,\n008,NA,7\n",
        "rows.txt": "1984\n\n\nNA\n",
        "rows.jsonl": '{"prompt": "1984", "id": "007"}\n\n{"prompt": "NA"}\n',
    }[name]
    path = tmp_path / "in" / name
    path.write_text(text, encoding="utf-8")
    (tmp_path / "in" / "README.md").write_text("About these rows.", encoding="utf-8")
    found = read_prompts(str(tmp_path / "in"))
    assert found == read_prompts(str(path))
    assert [item.prompt for item in found] == ["1984", "NA"]
    with pytest.raises(UsageError, match=r"no split 'test'\. Its splits: train"):
        read_prompts(PromptSource(str(tmp_path / "in"), split="test"))


def test_a_missing_file_is_no_name_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_prompts("org/prompts.jsonl")
    with pytest.raises(FileNotFoundError):
        read_prompts(str(tmp_path / "none"))


def test_names_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[object] = []

    def load(*arguments: object, **options: object) -> list[dict[str, str]]:
        asked.extend((arguments, options))
        return [{"prompt": "a"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(reach, "why_out_of_reach", lambda address: None)
    source = PromptSource("org/name@abc", split="test", subset="main")
    assert read_prompts(source) == [PromptItem("a")]
    assert asked == [("org/name", "main"), {"split": "test", "revision": "abc"}]
