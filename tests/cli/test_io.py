"""Prompts in, results out: files, standard input, values of `--set`, names of models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlm_sampling.cli.io import check_model, parse_template, parse_value
from dlm_sampling.errors import UsageError
from tests.cli.process import SHORT, Command, assert_one_line


def test_prompts_from_standard_input_and_text_files(
    command: Command, tiny: str, tmp_path: Path
) -> None:
    source = tmp_path / "prompts.txt"
    source.write_bytes(b"Once\nTwice\r\n")
    piped = command("generate", "--model", tiny, *SHORT, stdin=source.read_bytes())
    read = command("generate", "--model", tiny, *SHORT, "--input", str(source))
    both = command("generate", "Once", "Twice", "--model", tiny, *SHORT)
    assert piped.code == 0
    assert piped.out == read.out == both.out
    assert both.out.startswith("Once")
    assert "\n---\nTwice" in both.out


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt"', ("line 2", "JSON")),
        ("p.jsonl", b'{"text": "a"}', ("line 1", "prompt")),
        ("p.txt", b"\xff\xfe", ("UTF-8",)),
        ("p.txt", b"\n \n", ("No prompt",)),
    ],
)
def test_wrong_input(
    command: Command, tmp_path: Path, name: str, content: bytes, words: tuple[str, ...]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert_one_line(command("generate", "-i", str(tmp_path / name)), 2, *words)


def test_missing_input(command: Command, tmp_path: Path) -> None:
    result = command("generate", "--input", str(tmp_path / "none.txt"))
    assert_one_line(result, 2, "--input", "none.txt: no such file")
    assert_one_line(command("generate"), 2, "No prompt")
    assert_one_line(command("generate", "x", "-i", "y"), 2, "twice")


@pytest.mark.parametrize("option", ["--json-schema", "--grammar", "--config"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone", "gone: no such file."),
        ("tset", "tset: no such file. Did you mean '{tmp}/test'?"),
        ("folder", "folder: is a folder; name a file."),
        ("bytes", "bytes, line 2, byte 3: is no text in UTF-8."),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_option(
    command: Command, tmp_path: Path, option: str, name: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "test").write_text("")
    (tmp_path / "bytes").write_bytes(b"a\n12\xff")
    wrong = command("generate", "x", option, str(tmp_path / name))
    assert_one_line(wrong, 2, f"Error: {option} {tmp_path}/{said.format(tmp=tmp_path)}")


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        ("--json-schema", '{\n"type" 3}', ", line 2, column 8: is no JSON (Expecting ':' delimi"),
        (
            "--json-schema",
            '{"properties": {"a": {"minimum": 3}}}',
            ": json_schema.properties.a: 'minimum' ",
        ),
        ("--json-schema", "[]", ": json_schema is a list: must be a mapping"),
        ("--grammar", 'start: "a', ", line 1, column 8: '\"' begins a text that does not end"),
        ("--grammar", "start: x", ": Rule 'x' used but not defined"),
        ("--config", "steps = 3\nseed = = 3", ", line 2, column 8: is not TOML (Invalid value)."),
        ("--config", "steps = 3\nseed =", ", line 2, at its end: is not TOML (Invalid value)."),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_the_file_and_the_place(
    command: Command, tmp_path: Path, option: str, content: str, said: str
) -> None:
    """Before a model is loaded: there is none of this name."""
    file = tmp_path / "file"
    file.write_text(content)
    wrong = command("generate", "x", option, str(file), "--model", str(tmp_path / "none"))
    assert_one_line(wrong, 2, f"Error: {option} {file}{said}")


def test_a_malformed_expression_is_told_before_the_model_is_loaded(command: Command) -> None:
    wrong = command("generate", "x", "--regex", "a(b", "--model", "none/none")
    assert_one_line(wrong, 2, "regex='a(b': '(' at position 1 is not closed")


def test_control_codes_of_a_model_do_not_reach_the_terminal(command: Command, tiny: str) -> None:
    options = ("generate", "a\x1b", "--model", tiny, "--sampler", "ancestral", "-n", "4")
    text, records = command(*options), command(*options, "--json")
    written = "".join(json.loads(line)["text"] for line in records.out.splitlines())
    assert {"\x1b", "\u202e"} <= set(written), (
        "the model must try both for this test to mean anything"
    )
    for shown in (text.out, records.out):
        assert not set("\x1b\u202e") & set(shown)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        ("none", int | None, None),
        ("2.5", int | float, 2.5),
        ("true", bool, True),
        ("1,2", tuple[int, ...], (1, 2)),
        ("word", str, "word"),
    ],
)
def test_parse_value(text: str, hint: object, value: object) -> None:
    assert parse_value(text, hint, "name") == value


def test_model_names_are_folders_or_hub_names(tmp_path: Path) -> None:
    assert check_model(str(tmp_path)) == str(tmp_path)
    assert check_model("org/model") == "org/model"
    assert check_model("sudoku4x4") == "sudoku4x4"
    with pytest.raises(UsageError, match="Did you mean 'sudoku4x4'"):
        check_model("sudoku_4x4")


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ([], None),
        (["think=False"], {"think": False}),
        (["a=1", "b=none", "c=TRUE"], {"a": 1, "b": None, "c": True}),
        (["tools=[1, 2]", "date=2 May = now"], {"tools": [1, 2], "date": "2 May = now"}),
    ],
)
def test_template_arguments(pairs: list[str], wanted: dict[str, object] | None) -> None:
    assert parse_template(pairs) == wanted


@pytest.mark.parametrize("pair", ["think", "=x"])
def test_a_template_argument_needs_name_and_value(pair: str) -> None:
    with pytest.raises(UsageError, match=f"--template {pair}: write name=value"):
        parse_template([pair])
