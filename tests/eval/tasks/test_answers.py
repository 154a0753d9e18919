"""Answers are computed once: in a run without a journal per question, with one for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from dlm_eval.journal import Journal, SettingsChanged
from dlm_eval.tasks.answers import Answers


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path, asked = tmp_path / "answers.jsonl", []

    def answer() -> list[str]:
        asked.append(1)
        return ["text", "héllo"]

    first = Answers(Journal(path, {"model": "m"}))
    assert first.ask(["prompt", 1], answer) == ["text", "héllo"]
    with path.open("ab") as file:  # what a kill leaves of the next answer
        file.write(b'{"question": "half')
    again = Answers(Journal(path, {"model": "m"}))
    assert again.ask(["prompt", 1], answer) == ["text", "héllo"] and len(asked) == 1
    assert again.ask(["prompt", 2], answer) and len(asked) == 2
    with pytest.raises(SettingsChanged, match="model was"):
        Journal(path, {"model": "other"})
    assert Answers(None).ask(["prompt", 1], answer) and len(asked) == 3
