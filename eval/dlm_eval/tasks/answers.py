"""Keep the answers to the questions of a harness, so that a killed run repeats none of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from dlm_eval.journal import Journal


class Answers:
    """Answers by question, in a journal if there is one; a question is a batch of requests."""

    def __init__(self, journal: Journal | None) -> None:
        """Read what the journal has."""
        self._journal = journal
        self._known: dict[str, list[Any]] = {}
        if journal is not None:
            self._known = {record["question"]: record["answer"] for record in journal.records}

    def ask(self, question: object, answer: Callable[[], list[Any]]) -> list[Any]:
        """Return the known answer to a question, or compute and keep it.

        Args:
            question: all that the answer depends on and the journal's settings do not hold.
            answer: computes it, ready for JSON.
        """
        key = hashlib.sha256(json.dumps(question).encode()).hexdigest()
        if key not in self._known:
            found = answer()
            if self._journal is None:
                return found
            self._journal.append({"question": key, "answer": found})
            self._known[key] = found
        return self._known[key]
