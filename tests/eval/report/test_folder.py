"""The folder of an evaluation: what is written is read back, and what is not true is refused."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from dlm_eval.cli.app import app
from dlm_eval.report import Metric, Results, compare_folders, read_folder, write_folder
from typer.testing import CliRunner

PERPLEXITY = Metric(
    name="generative perplexity", value=37.25, unit="", n=8, error=1.5, better="smaller"
)
ENTROPY = Metric(name="unigram entropy", value=4.31, unit="nats", n=8, error=0.02)


def results(judge: str = "tiny", metrics: tuple[Metric, ...] = (PERPLEXITY, ENTROPY)) -> Results:
    return Results(
        command="dlm-sampling eval text m --judge tiny",
        subject={"model": "m", "sampler": {"name": "llada", "steps": 8}},
        protocol={"judge": judge, "limits": {"length": 1024}},
        metrics=metrics,
        warnings=("Entropy has collapsed.",),
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    nowhere = Metric(name="mauve", value=math.inf, unit="", n=8, error=math.nan, note="two seeds")
    written = results(metrics=(PERPLEXITY, ENTROPY, nowhere))
    samples = [{"row": 0, "text": "one\n\u2028two \ud800"}, {"row": 1, "text": "", "nfe": 8}]
    write_folder(tmp_path / "a" / "b", written, samples)
    found = read_folder(tmp_path / "a" / "b")
    assert found.results.metrics[:2] == (PERPLEXITY, ENTROPY)
    assert found.results.metrics[2].value == math.inf and math.isnan(found.results.metrics[2].error)
    assert (found.results.command, found.results.warnings) == (written.command, written.warnings)
    assert found.results.subject == written.subject
    assert {"python", "torch", "dlm_sampling"} <= set(found.versions)
    lines = (tmp_path / "a" / "b" / "samples.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [
        {"row": 0, "text": "one\n\u2028two ?"},
        samples[1],
    ]
    # A parser that keeps to the standard of JSON reads it: no Infinity, no NaN.
    raw = (tmp_path / "a" / "b" / "results.json").read_text(encoding="utf-8")
    json.loads(raw, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert sorted(os.listdir(tmp_path / "a" / "b")) == [
        "report.html",
        "results.json",
        "samples.jsonl",
    ]


def test_perplexity_does_not_stand_without_entropy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'unigram entropy'"):
        write_folder(tmp_path, results(metrics=(PERPLEXITY,)), [])
    other = Metric(name="unigram entropy", value=4.0, unit="nats", n=8, group="other")
    with pytest.raises(ValueError, match="of group ''"):
        write_folder(tmp_path, results(metrics=(PERPLEXITY, other)), [])
    alone = Metric(name="length", value=4.0, unit="", n=1, error=0.1)
    with pytest.raises(ValueError, match="'length' has error"):
        write_folder(tmp_path, results(metrics=(alone,)), [])
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_result_or_with_a_changed_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no results\.json"):
        read_folder(tmp_path)
    write_folder(tmp_path, results(), [])
    file = tmp_path / "results.json"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace('"judge": "tiny"', '"judge": "large"'), encoding="utf-8")
    with pytest.raises(ValueError, match="changed by hand"):
        read_folder(tmp_path)
    for broken in (whole[:100], "[]", "{}"):
        file.write_text(broken, encoding="utf-8")
        with pytest.raises(ValueError, match="is no result of an evaluation"):
            read_folder(tmp_path)


def test_results_are_joined_if_protocol_and_n_agree(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_folder(tmp_path / name, results(), [])
    joined, found = compare_folders([tmp_path / "first", tmp_path / "second"])
    assert found == ()
    assert [m.group for m in joined.metrics] == ["first", "first", "second", "second"]
    assert joined.protocol_hash == results().protocol_hash
    assert joined.warnings == ("first: Entropy has collapsed.", "second: Entropy has collapsed.")


def test_results_of_another_protocol_or_n_are_not_joined_in_silence(tmp_path: Path) -> None:
    write_folder(tmp_path / "first", results(), [])
    write_folder(tmp_path / "judge", results(judge="large"), [])
    fewer = tuple(Metric(**{**vars(m), "n": 4}) for m in (PERPLEXITY, ENTROPY))
    write_folder(tmp_path / "fewer", results(metrics=fewer), [])
    for other, message in (
        ("judge", 'first against judge: judge is "tiny" and "large"'),
        (
            "fewer",
            "first against fewer: generative perplexity, unigram entropy have n = 8 and n = 4",
        ),
    ):
        folders = [tmp_path / "first", tmp_path / other]
        with pytest.raises(ValueError, match=message):
            compare_folders(folders)
        joined, found = compare_folders(folders, mixed=True)
        assert message in found[0] and f"Not comparable: {found[0]}" == joined.warnings[0]
        assert joined.protocol_hash != results().protocol_hash
    with pytest.raises(ValueError, match="two or more"):
        compare_folders([tmp_path / "first"])


def test_a_command_sets_folders_side_by_side(tmp_path: Path) -> None:
    samples = [{"row": 0, "text": "one <b>"}, {"row": 1, "text": "two"}]
    few = Metric(name="NFE", value=4.0, unit="passes", n=3, group="b")
    own = tuple(Metric(**{**vars(m), "group": "b"}) for m in (PERPLEXITY, ENTROPY))
    write_folder(tmp_path / "first", results(), samples)
    write_folder(tmp_path / "same", results(), samples)
    write_folder(tmp_path / "other", results("large", (*own, few)), [{"row": 0, "text": "three"}])

    def shown(*words: str) -> tuple[list[str], list[str]]:
        given = ["show", *(word.replace("{}", str(tmp_path)) for word in words)]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout.splitlines(), done.stderr.splitlines()

    out, err = shown("{}/first", "{}/same")
    assert [line.split() for line in out] == [
        ["first", "same"],
        ["generative", "perplexity", *("37.2", "±", "1.5") * 2],
        ["unigram", "entropy", "[nats]", *("4.310", "±", "0.020") * 2],
        ["n", "8", "8"],
    ]
    assert err == [f"Warning: {name}: Entropy has collapsed." for name in ("first", "same")]
    assert len({len(line) for line in out}) == 1  # figures end in one column

    out, err = shown("{}/first", "{}/other", "--out", "{}/both")
    assert out[-1].split() == ["n", "8", "8,", "3"]
    told = 'first against other: judge is "tiny" and "large".'
    assert err[0] == f"Warning: Not comparable: {told}"
    assert err[-1] == f"{tmp_path}/both: results.json, samples.jsonl, report.html"
    both = read_folder(tmp_path / "both")
    assert both.results.warnings[0] == f"Not comparable: {told}"
    assert [m.group for m in both.results.metrics] == ["first", "first", *["other, b"] * 3]
    lines = (tmp_path / "both" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["group"] for line in lines] == ["first", "first", "other"]
    page = (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    assert "<h1>show</h1>" in page and "one &lt;b&gt;" in page and "three" in page
    last = f"dlm-sampling eval show {tmp_path}/first {tmp_path}/other --out {tmp_path}/both"
    assert both.results.command.splitlines() == [results().command, results().command, last]

    for words, message in (
        (("{}/first",), "name two or more"),
        (("{}/none",), "none: holds no results.json"),
        (("{}/first", "{}/same/../first"), "is given twice"),
        (("{}/first", "{}/none"), "none: holds no results.json; pass the folder"),
        (("{}/first", "{}"), "in it are .*/both, .*/first, .*/other, .*/same"),
        (("{}/first", "{}/same", "--out", "{}/same"), "--out .*/same: holds one of the results"),
    ):
        with pytest.raises(ValueError, match=message):
            shown(*words)
