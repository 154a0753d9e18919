"""The texts and the judge that come with the evaluation."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from dlm_eval.data import FOLDER, JUDGE, held_out_books, passages
from dlm_eval.judges.causal import CausalJudge

from dlm_sampling.embedded import embedded_path


def test_no_book_of_the_judge_is_one_of_the_models_or_held_out() -> None:
    judge = json.loads((JUDGE / "training.json").read_text(encoding="utf-8"))
    models = [
        json.loads((embedded_path(name) / "training.json").read_text(encoding="utf-8"))
        for name in ("tiny-books", "tiny-books-uniform")
    ]
    seen = {book for model in models for book in (*model["train_books"], *model["held_out_books"])}
    assert len(seen) == 14
    assert not seen & set(judge["train_books"])
    assert set(held_out_books()) == set(models[0]["held_out_books"]) == set(judge["held_out"])


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 12e6
    assert sum(path.stat().st_size for path in JUDGE.rglob("*")) < 10e6


def test_passages_are_of_the_books_and_do_not_overlap() -> None:
    books = held_out_books()
    found = passages(40, 300)
    places = [(b, t.index(p)) for p in found for b, t in books.items() if p in t]
    assert len(found) == len(places) == 40
    for (book, start), (after, later) in pairwise(places):
        assert book != after or later >= start + 200
    assert all(250 < len(p) <= 300 and p == p.strip() for p in found)
    assert {book for book, _ in places} == set(books)
    with pytest.raises(ValueError, match="the held-out books hold"):
        passages(10**4, 300)
    with pytest.raises(ValueError, match="at least 20"):
        passages(3, 3)


def test_the_perplexity_of_the_readme_is_measured() -> None:
    """The first windows of a book, read as the training script reads them."""
    judge = CausalJudge.from_pretrained("own")
    record = json.loads((JUDGE / "training.json").read_text(encoding="utf-8"))
    for name, text in held_out_books().items():
        found = judge.score(passages_of(text), progress=False).perplexity()
        assert found == pytest.approx(record["held_out"][name]["perplexity"], rel=0.15)


def passages_of(text: str) -> list[str]:
    return [text[start : start + 1500] for start in range(0, len(text) - 1500, len(text) // 8)]
