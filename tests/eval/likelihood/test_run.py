"""Bounds of documents: windows, pairs, resuming, ratios; equal to `elbo` called directly."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dlm_eval.journal import SettingsChanged
from dlm_eval.likelihood import run
from dlm_eval.likelihood.documents import Columns, Document, read_documents
from dlm_eval.likelihood.protocols import Protocol
from dlm_eval.likelihood.windows import cut, encode_pair

from dlm_sampling import elbo
from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import PromptSource, Rank
from dlm_sampling.ops import row_seeds
from tests.samplers.small import small_toy


class Letters:
    """One token per letter a to d, white space with the next letter; 4 ends a text."""

    eos_token_id = 4

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": ["abcd".index(letter) for letter in text.replace(" ", "")]}


TEXTS = [Document("1", "abcdabc"), Document("2", "dcb"), Document("3", "ba", prompt="cd")]


def test_windows_cover_every_token_once() -> None:
    parts = cut(TEXTS, Letters(), Protocol(length=4))
    assert [w.ids for w in parts] == [(0, 1, 2, 3), (0, 1, 2, 4), (3, 2, 1, 4), (2, 3, 1, 0)]
    assert [w.scored for w in parts] == [(0, 4), (0, 4), (0, 4), (2, 4)]
    assert [w.characters for w in parts] == [3.5, 3.5, 3, 2]
    joint = cut(TEXTS, Letters(), Protocol(length=4, score="both"))[-1]
    assert joint.scored == (0, 4) and joint.characters == 4
    assert cut(TEXTS, Letters(), Protocol(length=4, score="prompt"))[-1].scored == (0, 2)
    packed = cut(TEXTS, Letters(), Protocol(length=5, packed=True))
    assert [w.ids for w in packed] == [(0, 1, 2, 3, 0), (1, 2, 4, 3, 2), (1, 4, 2, 3, 1)]
    assert cut([TEXTS[2]], Letters(), Protocol(length=3))[0].ids == (3, 1, 0)
    assert encode_pair(Letters(), "ab ", "cd") == ([0, 1], [2, 3])


def test_a_pair_that_does_not_fit_counts_the_characters_that_are_scored() -> None:
    """Else its bits per character would be too few, and no bound."""
    pair = [Document("1", "abcdabcd", prompt="cd")]
    short = cut(pair, Letters(), Protocol(length=4))[0]
    assert (short.ids, short.scored, short.characters) == ((0, 1, 2, 3), (0, 4), 4.0)
    assert short.left_out == 6
    both = cut(pair, Letters(), Protocol(length=5, score="both"))[0]
    assert (both.scored, both.characters, both.left_out) == ((0, 5), 5.0, 5)
    prompt = cut(pair, Letters(), Protocol(length=9, score="prompt"))[0]
    assert (prompt.scored, prompt.characters, prompt.left_out) == ((0, 1), 1.0, 1)
    whole = cut(pair, Letters(), Protocol(length=10))[0]
    assert (whole.characters, whole.left_out) == (8.0, 0)


def test_the_scores_are_those_of_elbo_and_a_killed_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, protocol = small_toy(length=4, vocab_size=6), Protocol(length=4, masks=4)
    windows = cut(TEXTS, Letters(), protocol)
    options: dict[str, Any] = {"seed": 3, "subject": {"model": "toy"}}
    alone: dict[str, Any] = {**options, "batch": 2, "rank": Rank()}
    whole = run.score(toy, windows, protocol, folder=tmp_path / "a", **alone)
    assert whole is not None
    seeds = row_seeds(3, len(windows))
    for window, seed, found in zip(windows, seeds, whole, strict=True):
        editable = torch.zeros(1, 4, dtype=torch.bool)
        editable[:, slice(*window.scored)] = True
        direct = elbo(
            toy, torch.tensor([window.ids]), editable=editable, scheme="stratified", n=4,
            seed=[seed],
        )  # fmt: skip
        assert abs(found.nats + float(direct.value)) <= 1e-12
        assert found.nfe == 4

    true, calls = run.nats_of, 0

    def killed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return true(*arguments)

    monkeypatch.setattr(run, "nats_of", killed)
    with pytest.raises(KeyboardInterrupt):
        run.score(toy, windows, protocol, folder=tmp_path / "b", **alone)
    again = run.score(toy, windows, protocol, folder=tmp_path / "b", **alone)
    assert again == whole and calls == 3  # the first batch was not computed again
    with pytest.raises(SettingsChanged, match="masks was 4 and is now 2"):
        run.score(toy, windows, replace(protocol, masks=2), folder=tmp_path / "b", **alone)

    # Two processes share the windows; a batch that does not fit into memory is halved.
    def small(toy: Any, tokens: torch.Tensor, *rest: Any) -> Any:
        if len(tokens) > 1:
            raise MemoryError("does not fit")
        return true(toy, tokens, *rest)

    monkeypatch.setattr(run, "nats_of", small)
    shared: dict[str, Any] = {**options, "batch": 4, "folder": tmp_path / "c"}
    assert run.score(toy, windows, protocol, rank=Rank(1, 2), **shared) is None
    assert run.score(toy, windows, protocol, rank=Rank(0, 2), **shared) == whole
    assert len((tmp_path / "c" / "1.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_ratio_has_the_error_of_repeated_samples() -> None:
    draws = torch.Generator().manual_seed(0)
    y = torch.randint(1, 9, (400, 50), generator=draws).double()
    x = 2.0 * y + torch.randn(400, 50, generator=draws, dtype=torch.float64) * y.sqrt()
    found = [run.ratio(a.tolist(), b.tolist()) for a, b in zip(x, y, strict=True)]
    values = torch.tensor([value for value, _ in found])
    errors = torch.tensor([error for _, error in found if error is not None])
    assert 0.9 < float(values.std() / errors.square().mean().sqrt()) < 1.1
    assert run.ratio([3.0], [2.0]) == (1.5, None)
    windows = cut(TEXTS[:1], Letters(), Protocol(length=4))
    nats, bits, perplexity = run.metrics(windows, [run.Scored(2.0, 1), run.Scored(4.0, 1)])
    assert nats.value == 6 / 8 and perplexity.value == math.exp(6 / 8)
    assert math.isclose(bits.value, 6 / 7 / math.log(2))
    # Residuals -1 and 1 over 8 tokens or 7 characters; that of exp(x) is exp(x) times that of x.
    errors = [2 / 8, 2 / 7 / math.log(2), math.exp(6 / 8) * 2 / 8]
    assert [m.error for m in (nats, bits, perplexity)] == pytest.approx(errors)
    nats, bits, _ = run.metrics(windows, [run.Scored(2.0, 1), run.Scored(4.0, 1)], texts=1)
    assert (nats.n, nats.error, bits.n, bits.error) == (2, pytest.approx(errors[0]), 1, None)
    assert bits.note.endswith(f"; its 2 windows would give {errors[1]:.4g}")


@pytest.mark.parametrize(
    ("scheme", "masks", "groups"), [("count", 2, 1), ("stratified", 8, 4), ("coupled", 8, 2)]
)
def test_one_window_has_the_error_of_its_own_masks(scheme: str, masks: int, groups: int) -> None:
    toy = small_toy()
    tokens = torch.tensor([[0, 1, 2]]).expand(600, -1)
    editable = torch.ones_like(tokens, dtype=torch.bool)
    protocol = Protocol(length=3, scheme=scheme, masks=masks, groups=4)
    assert protocol.drawn_groups == groups
    found = run.nats_of(toy, tokens, editable, protocol, range(600))
    assert max(one.nfe for one in found) == masks  # an empty mask costs none
    values = torch.tensor([one.nats for one in found], dtype=torch.float64)
    errors = torch.tensor([one.error or 0.0 for one in found], dtype=torch.float64)
    assert float(errors.square().mean() / values.var()) == pytest.approx(1, abs=0.15)
    alike = replace(protocol, scheme="stratified", masks=4)  # groups may draw the same masks
    errors = {one.error for one in run.nats_of(toy, tokens, editable, alike, range(600))}
    assert None in errors and 0.0 not in errors
    alone = editable & (torch.arange(3) == 1)
    assert {one.error for one in run.nats_of(toy, tokens[:1], alone[:1], alike, [0])} == {0.0}
    windows = cut(TEXTS[1:2], Letters(), Protocol(length=4))
    nats, bits, perplexity = run.metrics(windows, [run.Scored(2.0, 2, 0.5)])
    wanted = [0.5 / 4, 0.5 / math.log(2) / 3, math.exp(2 / 4) * 0.5 / 4]
    for metric, error in zip((nats, bits, perplexity), wanted, strict=True):
        assert (metric.n, metric.error) == (1, None)  # n = 1 has no error; the note has its masks'
        assert metric.note.startswith("one text has no standard error; its masks alone")
        assert metric.note.endswith(f"would give {error:.4g}")
    drawn_together = replace(protocol, scheme="stratified", groups=1)
    assert run.nats_of(toy, tokens[:1], editable[:1], drawn_together, [0])[0].error is None


def test_groups_of_masks_are_of_one_size() -> None:
    groups = {n: Protocol(masks=n, groups=4).drawn_groups for n in (1, 2, 3, 4, 6, 7, 8, 128)}
    assert groups == {1: 1, 2: 1, 3: 1, 4: 2, 6: 3, 7: 1, 8: 4, 128: 4}
    assert Protocol(masks=6, groups=4, scheme="coupled").drawn_groups == 1
    assert "masks" not in Protocol(scheme="enumerate").facts(uniform=False, pairs=True)
    assert {"steps", "score"} & set(Protocol().facts(uniform=False, pairs=False)) == set()
    uniform = Protocol().facts(uniform=True, pairs=True)
    assert uniform == {
        "masks": 8, "length": 1024, "score": "answer", "packed": False, "end": True, "steps": 1000,
    }  # fmt: skip


class Words:
    """One token per word; "time" is a word, and so are "ti" and "me"."""

    eos_token_id = None

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        known = ("a", "ti", "me", "time")
        return {"input_ids": [known.index(word) for word in text.split()]}


def test_a_pair_that_merges_is_split_where_the_prompt_ends() -> None:
    assert encode_pair(Words(), "a ti", "me") == ([0, 1], [2])
    assert encode_pair(Words(), "a ti", " me") == ([0, 1], [2])
    texts = [
        Document("1", "me", prompt="ti"), Document("2", "", prompt="a "), Document("3", " "),
    ]  # fmt: skip
    parts = cut(texts, Words(), Protocol(length=4))
    assert [(w.document, w.ids, w.scored) for w in parts] == [(0, (1, 2), (1, 2))]
    parts = cut(texts, Words(), Protocol(length=4, score="prompt"))
    assert [(w.document, w.scored) for w in parts] == [(0, (0, 1)), (1, (0, 1))]


def test_documents_of_files(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a\nb", encoding="utf-8")
    assert read_documents(PromptSource(str(tmp_path)), Columns()) == [Document("one", "a\nb")]
    rows = [{"id": "x", "prompt": "1+1=", "answer": "2"}, {"text": "ab"}]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pair, plain = read_documents(PromptSource(str(lines)), Columns())
    assert (pair, plain) == (Document("x", "2", "1+1="), Document("2", "ab"))
    with pytest.raises(UsageError, match="line 1 has no column 'texts'"):
        read_documents(PromptSource(str(lines)), Columns(text="texts"))
    lines.write_text('{"text": "ab"}\n\n{"txt": "ab"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r"rows\.jsonl, line 3 has no column 'text'. Did you mean"):
        read_documents(PromptSource(str(lines)), Columns())
    lines.write_text('{"text": 3}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="column 'text' is an int, not a text"):
        read_documents(PromptSource(str(lines)), Columns())
    lines.write_text('{"text": " "}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="there is no text in it"):
        read_documents(PromptSource(str(lines)), Columns())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"--data .*empty: the folder is empty"):
        read_documents(PromptSource(str(tmp_path / "empty")), Columns())
    table = tmp_path / "c.csv"
    table.write_text("text\na, b\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"c\.csv, row 1 has 2 cells for 1 column"):
        read_documents(PromptSource(str(table)), Columns())
