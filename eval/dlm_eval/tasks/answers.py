"""Keep the answers to the questions of a harness, which any number of processes share and resume.

A question is a batch of requests.  Which rows share a batch follows from the requests alone, and
process i of n answers questions i, i + n, ...: the answers depend neither on the number of
processes nor on how often they were killed.
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

Question = tuple[object, Callable[[], list[Any]]]
"""All that an answer depends on and the facts do not hold, and what computes it, for JSON."""


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
        self._known: dict[str, list[Any]] = {}
        self._journal = None if folder is None else Journal(folder / f"{self.rank.index}.jsonl",
                                                            facts)  # fmt: skip
        self._read()

    def ask(
        self, questions: Sequence[Question], *, title: str = "", quiet: bool = False
    ) -> list[list[Any] | None]:
        """Return the answers in order: compute those of this process that no journal has.

        Args:
            questions: of all processes.
            title: of the bar with the time left.
            quiet: show no bar.

        Raises:
            OthersAtWork: another process has not answered, and `blanks` is False.
        """
        keys = [hashlib.sha256(json.dumps(asked).encode()).hexdigest() for asked, _ in questions]
        own = range(self.rank.index, len(questions), self.rank.world)
        found = {i: self._known[key] for i, key in enumerate(keys) if key in self._known}
        rest = [i for i in own if i not in found]
        done = len(own) - len(rest)
        with tqdm(total=len(own), initial=done, desc=title, disable=quiet or None) as bar:
            for i in rest:
                found[i] = questions[i][1]()
                if self._journal is not None:
                    self._journal.append({"question": keys[i], "answer": found[i]})
                bar.update()
        self._read()
        answers = [self._known.get(key, found.get(i)) for i, key in enumerate(keys)]
        missing = answers.count(None)
        if missing and not self.blanks:
            raise OthersAtWork(
                f"the share of process {self.rank.index} is done; {missing} batches of others are "
                "not. Run the same command again when they are."
            )
        self.missing += missing
        return answers

    def _read(self) -> None:
        if self._journal is not None:
            for record in records_of_all(self._journal):
                self._known[record["question"]] = record["answer"]
