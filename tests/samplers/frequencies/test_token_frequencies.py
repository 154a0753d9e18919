"""Token frequencies: files, lookups, and counting that survives being killed."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_sampling.samplers import TokenFrequencies, count_tokens
from dlm_sampling.samplers.frequencies.token_frequencies import read_frequencies
from tests.forks import Forks

ROOT = Path(__file__).parents[3]
VOCAB = 128


def tokenizer(texts: list[str], add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
    """One token per character; a special token 0 in front unless told otherwise."""
    start = [0] if add_special_tokens else []
    return {"input_ids": [start + [ord(c) for c in text] for text in texts]}


class Corpus:
    """Rows that can be read again; kills its process at a row, if told to."""

    def __init__(self, rows: int, kill_at: int | None = None) -> None:
        self.rows, self.kill_at = rows, kill_at

    def row(self, i: int) -> dict[str, Any]:
        return {
            "text": f"row {i} " + "abc"[i % 3] * (i % 7),
            "number": i,
            "title": None if i % 2 else "T",
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for i in range(self.rows):
            if i == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield self.row(i)


def expected(rows: int, columns: tuple[str, ...] = ("text",)) -> torch.Tensor:
    found: Counter[int] = Counter()
    for i in range(rows):
        found.update(ord(c) for column in columns for c in Corpus(1).row(i)[column] or "")
    return torch.tensor([found[v] for v in range(VOCAB)])


def count(corpus: Any, output: Path, **options: Any) -> TokenFrequencies:
    options = {"vocab_size": VOCAB, "progress": False, "save_every": 50, **options}
    return count_tokens(corpus, tokenizer, output, **options)


def test_counts_are_those_of_the_corpus(tmp_path: Path) -> None:
    got = count(Corpus(321), tmp_path / "f.json", columns=("text", "title"))
    assert torch.equal(got.counts, expected(321, ("text", "title")))
    assert got.total == int(got.counts.sum())
    assert TokenFrequencies.load(tmp_path / "f.json", VOCAB) == got


def count_hundreds(corpus: Corpus, output: Path) -> TokenFrequencies:
    return count(corpus, output, save_every=100)


def test_a_killed_counting_goes_on_where_it_was(forks: Forks, tmp_path: Path) -> None:
    """Killed twice by SIGKILL between saves; nothing is lost and nothing counted twice."""
    output, seen = tmp_path / "f.json", []
    for kill_at in (333, 690):
        process = forks.call(count_hundreds, Corpus(700, kill_at), output)
        assert process.wait() == -signal.SIGKILL
        seen.append(json.loads(output.read_text())["metadata"]["rows"])
        with pytest.raises(ValueError, match="interrupted"):
            TokenFrequencies.load(output)
    assert seen == [300, 600]
    got = count_hundreds(Corpus(700), output)
    assert torch.equal(got.counts, expected(700))
    assert torch.equal(TokenFrequencies.load(output, VOCAB).counts, expected(700))


def test_a_finished_counting_is_not_done_again(tmp_path: Path) -> None:
    first = count(Corpus(120), tmp_path / "f.json")
    stamp = (tmp_path / "f.json").stat().st_mtime_ns
    assert count(Corpus(120), tmp_path / "f.json") == first
    assert (tmp_path / "f.json").stat().st_mtime_ns == stamp


def test_more_rows_of_the_same_corpus(tmp_path: Path) -> None:
    for rows in (1, 49, 50, 51, 300, 1000):
        got = count(Corpus(400), tmp_path / "f.json", max_rows=rows)
        assert torch.equal(got.counts, expected(min(rows, 400)))
        assert TokenFrequencies.load(tmp_path / "f.json", VOCAB) == got


def test_another_corpus_is_refused(tmp_path: Path) -> None:
    class Other(Corpus):
        def row(self, i: int) -> dict[str, Any]:
            return {"text": f"other {i}"}

    count(Corpus(200), tmp_path / "f.json", max_rows=100)
    with pytest.raises(ValueError, match="row 99 of the corpus is not the one that was counted"):
        count(Other(200), tmp_path / "f.json")
    with pytest.raises(ValueError, match="row 99"):
        count(Corpus(50), tmp_path / "f.json")
    with pytest.raises(ValueError, match="counted with columns="):
        count(Corpus(200), tmp_path / "f.json", columns=("title",))
    with pytest.raises(ValueError, match="counted with vocab_size=128"):
        count(Corpus(200), tmp_path / "f.json", vocab_size=200)


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"columns=.'body'.*number, ?'text|'number', 'text'"):
        count(Corpus(5), tmp_path / "a.json", columns=("body",))
    with pytest.raises(ValueError, match="iterator"):
        count(iter(Corpus(5)), tmp_path / "b.json")
    with pytest.raises(ValueError, match=r"vocab_size=60.*id 1"):
        count(Corpus(5), tmp_path / "c.json", vocab_size=60)
    with pytest.raises(ValueError, match="save_every=0"):
        count(Corpus(5), tmp_path / "d.json", save_every=0)
    with pytest.raises(ValueError, match="max_rows=0"):
        count(Corpus(5), tmp_path / "e.json", max_rows=0)
    with pytest.raises(ValueError, match=r"no text in columns .'number'"):
        count(Corpus(5), tmp_path / "g.json", columns=("number",))


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_are_read(tmp_path: Path, streaming: bool) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [Corpus(1).row(i) for i in range(230)]
    data = datasets.Dataset.from_list(rows)
    data = data.to_iterable_dataset(num_shards=3) if streaming else data
    for stop in (77, 150, None):
        got = count(data, tmp_path / "f.json", max_rows=stop)
        assert torch.equal(got.counts, expected(stop or 230))


def test_files_are_read(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    lines = "".join(json.dumps(Corpus(1).row(i)) + "\n" for i in range(60))
    (tmp_path / "corpus.jsonl").write_text(lines)
    got = count(str(tmp_path / "corpus.jsonl"), tmp_path / "f.json")
    assert torch.equal(got.counts, expected(60))


@pytest.mark.parametrize("key", ["p_baseline_dict", "token_frequency_dict"])
def test_count_files_of_the_authors_and_of_their_builder(tmp_path: Path, key: str) -> None:
    path = tmp_path / "corpus.json"
    path.write_text(json.dumps({"num_token": 1000, key: {"3": 70, "0": 500, "7": 1}}))
    got = TokenFrequencies.load(path, 10)
    assert got.counts.tolist() == [500, 0, 0, 70, 0, 0, 0, 1, 0, 0]
    assert got.total == 1000
    assert TokenFrequencies.load(path).counts.shape == (8,)
    assert got.to_config() == {"path": str(path)}
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        TokenFrequencies.load(path, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no JSON"),
        ("null", "p_baseline_dict, token_frequency_dict"),
        ('{"num_token": 3}', "p_baseline_dict, token_frequency_dict"),
        ('{"num_token": 3, "p_baseline_dict": {"a": 1}}', "a token id is 'a'"),
        ('{"num_token": 3, "p_baseline_dict": {"1": 1.5}}', "count of token 1 is 1.5"),
        ('{"num_token": 3, "p_baseline_dict": 7}', "mapping from token id to count, found 7"),
        ('{"num_token": null, "p_baseline_dict": {"1": 1}}', "num_token is None"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        TokenFrequencies.load(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"frequencies='.*y.json': cannot be read"):
        TokenFrequencies.load(tmp_path / "y.json")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "has no counts, total, vocab_size"),
        ({"counts": {}, "vocab_size": 3, "total": -1}, "total is -1"),
        ({"counts": [1], "vocab_size": 3, "total": 1}, "counts: must be a mapping"),
    ],
)
def test_a_wrong_dictionary_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenFrequencies.from_config(config)


def test_lookups() -> None:
    table = TokenFrequencies(torch.tensor([6, 0, 4]), 10)
    tokens = torch.tensor([[0, 1], [2, 99]])
    frequency = torch.tensor([[0.6, 0.1], [0.4, 0.1]], dtype=torch.float64)
    assert torch.allclose(table.log_frequency(tokens), (frequency + 1e-9).log(), atol=1e-15)
    assert TokenFrequencies.from_config(json.loads(json.dumps(table.to_config()))) == table
    assert table != TokenFrequencies(torch.tensor([6, 0, 4]), 11)
    assert hash(table) == hash(TokenFrequencies(torch.tensor([6, 0, 4]), 10))


@pytest.mark.parametrize(
    ("counts", "total", "message"),
    [
        (torch.tensor([1.0]), 1, "whole numbers"),
        (torch.tensor([[1]]), 1, "whole numbers"),
        (torch.tensor([-1, 2]), 5, "smallest is -1"),
        (torch.tensor([1, 7]), 6, "total=6"),
        (torch.tensor([0, 0]), 0, "total=0"),
    ],
)
def test_bad_tables_are_refused(counts: torch.Tensor, total: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenFrequencies(counts, total)


def test_frequencies_come_from_a_table_a_file_a_dictionary_or_nowhere(tmp_path: Path) -> None:
    table = TokenFrequencies(torch.tensor([3, 0, 1]), 4)
    path = tmp_path / "counts.json"
    table.save(path)
    assert read_frequencies(None) is None
    assert read_frequencies(table) is table
    for given in (table.to_config(), path, str(path)):
        found = read_frequencies(given)
        assert found == table
    for wrong in (3, 0.5, [1, 2], b"counts"):
        with pytest.raises(TypeError, match=r"frequencies=.*: must be a TokenFrequencies"):
            read_frequencies(wrong)
