"""What is said above the figures of a judgement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dlm_eval.report import Metric
from dlm_eval.text import judging
from dlm_eval.text.judging import JudgeOptions, load_judgement, read_references

from dlm_sampling.errors import UsageError


class Named:
    """A judge of which only the name is read."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize(
    ("judge", "features", "warned"),
    [
        ("own", None, "'own'"),
        ("gpt2", "gpt2-medium", "'gpt2-medium'"),
        ("openai-community/gpt2-large", None, None),
        ("gpt2", None, None),
        ("own", "gpt2-large", None),
        ("own", "none", None),
    ],
)
def test_features_that_are_not_the_published_ones_are_told(
    judge: str, features: str | None, warned: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(name: str, *_: Any, **__: Any) -> Named:
        return Named(name)

    monkeypatch.setattr(judging, "CausalJudge", Named)
    monkeypatch.setattr(Named, "from_pretrained", staticmethod(named), raising=False)
    options = JudgeOptions(judge=judge, features=features, reference="books")
    judgement = load_judgement(options, 20, 40)
    assert judgement.told([]) == ()  # they are told where there is a MAUVE
    warnings = judgement.told([Metric(name="MAUVE", value=0.5, unit="", n=20)])
    assert [f"features are those of {warned}, " in warning for warning in warnings] == (
        [] if warned is None else [True]
    )


def test_a_model_of_the_features_that_is_not_there_is_told_with_what_to_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str, *_: Any, **__: Any) -> Named:
        if name == "gpt2-large":
            raise UsageError("'gpt2-large' is not there.")
        return Named(name)

    monkeypatch.setattr(judging, "CausalJudge", Named)
    monkeypatch.setattr(Named, "from_pretrained", staticmethod(missing), raising=False)
    with pytest.raises(UsageError, match=r"--features gpt2-large \(the default.*--features small"):
        load_judgement(JudgeOptions(judge="small", reference="books"), 20, 40)


def test_passages_of_books_are_never_shorter_than_the_shortest() -> None:
    assert read_references("books", None, 2, 16) == read_references("books", None, 2, 20)


def test_a_wrong_model_of_the_features_is_named_as_such(tmp_path: Path) -> None:
    options = JudgeOptions(features=str(tmp_path), reference="books")
    with pytest.raises(UsageError, match=r"^--features .*config\.json"):
        load_judgement(options, 20, 40)
