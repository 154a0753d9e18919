"""Keep the answers to the questions of a harness, which any number of processes share and resume.

Process i of n answers batches i, i + n, ... of questions, and every answer is kept by its question:
the answers depend neither on the batches, which may be others after a start, nor on the number of
processes, nor on how often they were killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dlm_eval.journal import Journal, records_of_all
from dlm_sampling.jobs import Rank


class OthersAtWork(RuntimeError):
    """Processes with other shares of the questions have not finished."""


class Answers:
    """Answers by question, in journals if there is a folder for them.

    Args:
        folder: of the journals, one for each process; None keeps nothing.
        facts: all that every answer depends on; journals with other facts are refused.
        rank: this process among all.
        blanks: return None for questions whose process has not answered, and count them in
            `missing`; else `OthersAtWork` is raised.

    Raises:
        SettingsChanged: a journal was begun with other facts.
        ValueError: several processes have no folder to share.
    """

    def __init__(
        self,
        folder: Path | None,
        facts: dict[str, Any],
        rank: Rank | None = None,
        *,
        blanks: bool = False,
    ) -> None:
        """Read what the journals have."""
        self.rank = Rank() if rank is None else rank
        if folder is None and self.rank.world > 1:
            raise ValueError(
                f"process {self.rank.index} of {self.rank.world}: name a folder through which the "
                "processes share their answers, journal=FOLDER."
            )
        self.blanks = blanks
        self.missing = 0
        self._known: dict[str, Any] = {}
        self._journal = None if folder is None else Journal(folder / f"{self.rank.index}.jsonl",
                                                            facts)  # fmt: skip
        self._read()

    def ask(
        self,
        questions: Sequence[object],
        batches: Sequence[Sequence[int]],
        answer: Callable[[list[int]], Sequence[Any]],
        *,
        title: str = "",
        quiet: bool = False,
    ) -> list[Any]:
        """Return the answers in order: compute those of this process that no journal has.

        Args:
            questions: all that an answer depends on and the facts do not hold, for JSON.
            batches: which questions are answered together, of all processes.
            answer: returns the answers to the questions of these numbers, for JSON.
            title: of the bar with the time left.
            quiet: show no bar.

        Raises:
            OthersAtWork: another process has not answered, and `blanks` is False.
        """
        keys = [hashlib.sha256(json.dumps(asked).encode()).hexdigest() for asked in questions]
        own = [i for batch in batches[self.rank.index :: self.rank.world] for i in batch]
        found = {i: self._known[key] for i, key in enumerate(keys) if key in self._known}
        done = sum(i in found for i in own)
        with tqdm(total=len(own), initial=done, desc=title, disable=quiet or None) as bar:
            for batch in batches[self.rank.index :: self.rank.world]:
                if not (rest := [i for i in batch if i not in found]):
                    continue
                answers = list(answer(rest))
                found.update(zip(rest, answers, strict=True))
                if self._journal is not None:
                    self._journal.append({"questions": [keys[i] for i in rest], "answers": answers})
                bar.update(len(rest))
        self._read()
        answers = [self._known.get(key, found.get(i)) for i, key in enumerate(keys)]
        missing = answers.count(None)
        if missing and not self.blanks:
            raise OthersAtWork(
                f"the share of process {self.rank.index} is done; {missing} answers of others are "
                "not. Run the same command again when they are."
            )
        self.missing += missing
        return answers

    def _read(self) -> None:
        if self._journal is not None:
            for record in records_of_all(self._journal):
                self._known.update(zip(record["questions"], record["answers"], strict=True))
