"""Answers are computed once: in a run without a journal per question, with one for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dlm_eval.journal import SettingsChanged
from dlm_eval.tasks.answers import Answers, OthersAtWork

from dlm_sampling.jobs import Rank

FACTS = {"model": "m"}


@pytest.fixture
def asked() -> list[int]:
    """Numbers of the questions that were computed."""
    return []


def ask(answers: Answers, count: int, asked: list[int], size: int = 1) -> list[Any]:
    """Ask questions in batches."""

    def answer(some: list[int]) -> list[list[str]]:
        asked.extend(some)
        return [[f"text {i}", "héllo"] for i in some]

    batches = [list(range(count))[first : first + size] for first in range(0, count, size)]
    return answers.ask([("prompt", i) for i in range(count)], batches, answer)


WHOLE = [[f"text {i}", "héllo"] for i in range(5)]


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, asked: list[int]) -> None:
    assert ask(Answers(tmp_path, FACTS), 2, asked) == WHOLE[:2]
    with (tmp_path / "0.jsonl").open("ab") as file:  # what a kill leaves of the next answer
        file.write(b'{"question": "half')
    assert ask(Answers(tmp_path, FACTS), 5, asked) == WHOLE
    assert asked == [0, 1, 2, 3, 4]
    with pytest.raises(SettingsChanged, match="model was"):
        Answers(tmp_path, {"model": "other"}, Rank(1, 2))
    ask(Answers(None, FACTS), 1, asked)
    assert asked[5:] == [0]


def test_processes_share_the_questions(tmp_path: Path, asked: list[int]) -> None:
    second = Answers(tmp_path, FACTS, Rank(1, 2), blanks=True)
    assert ask(second, 5, asked) == [None, WHOLE[1], None, WHOLE[3], None]
    assert asked == [1, 3] and second.missing == 3
    first = Answers(tmp_path, FACTS, Rank(0, 2), blanks=True)
    assert ask(first, 5, asked) == WHOLE
    assert asked == [1, 3, 0, 2, 4] and first.missing == 0
    # Fewer or more processes go on with what those two have left.
    assert ask(Answers(tmp_path, FACTS, Rank(2, 3)), 5, asked) == WHOLE
    assert len(asked) == 5


def test_what_others_have_not_answered_is_no_answer(tmp_path: Path, asked: list[int]) -> None:
    with pytest.raises(OthersAtWork, match="process 1 is done; 2 answers"):
        ask(Answers(tmp_path, FACTS, Rank(1, 2)), 3, asked)
    with pytest.raises(ValueError, match="journal=FOLDER"):
        Answers(None, FACTS, Rank(1, 2))


def test_batches_may_be_others_after_a_start(tmp_path: Path, asked: list[int]) -> None:
    ask(Answers(tmp_path, FACTS), 3, asked, size=2)
    assert ask(Answers(tmp_path, FACTS), 5, asked, size=4) == WHOLE
    assert asked == [0, 1, 2, 3, 4]
