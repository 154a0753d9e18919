"""Define the tasks of a comparison: what is asked of the model, and when an answer is right."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch

from dlm_eval.data import passages
from dlm_eval.report.results import Json
from dlm_sampling import Denoiser
from dlm_sampling.errors import UsageError
from dlm_sampling.testing.sudoku import CELLS, MASK, all_grids, is_valid

BOOKS = "books"
PROMPT_CHARACTERS, CHARACTERS_PER_TOKEN = 48, 4


class Task(Protocol):
    """Define what a comparison needs of a task.  Row i is the same in every setting."""

    @property
    def world(self) -> str:
        """Return the key of the sweeps' values, "text" or "sudoku"."""
        ...

    def facts(self) -> dict[str, Json]:
        """Return everything that changes a figure, for the fingerprint."""
        ...

    def prompts(self, first: int, last: int) -> tuple[Any, dict[str, Any]]:
        """Return the prompts of rows `first` to `last` - 1, and arguments of `generate`."""
        ...

    def words(self, row: int) -> dict[str, Json]:
        """Return "prompt" and "reference" of a row, as far as there are any."""
        ...

    def right(self, row: int, text: str, ids: Sequence[int]) -> bool | None:
        """Return whether a text answers its row; None where nothing is right or wrong."""
        ...


@dataclass(frozen=True)
class TextTask:
    """Continue prompts, or write without any; a judge says how well.

    Fields:
        new_tokens: tokens of each text.
        given: prompts, taken in turn; () for none.
        suppress: ids that are never written.
        continuations: what people wrote after the prompts; () for none.
    """

    new_tokens: int
    given: tuple[str, ...] = ()
    suppress: tuple[int, ...] = ()
    continuations: tuple[str, ...] = ()

    world = "text"

    @property
    def characters(self) -> int:
        """Return about how long the texts are, for references."""
        return CHARACTERS_PER_TOKEN * self.new_tokens

    def facts(self) -> dict[str, Json]:
        """See `Task`."""
        return {
            "task": "text",
            "new_tokens": self.new_tokens,
            "prompts": _digest(self.given) if self.given else "none",
            "suppressed": list(self.suppress),
        }

    def prompts(self, first: int, last: int) -> tuple[Any, dict[str, Any]]:
        """See `Task`."""
        texts = [self.given[i % len(self.given)] if self.given else "" for i in range(first, last)]
        return texts, {"max_new_tokens": self.new_tokens, "suppress_tokens": self.suppress}

    def words(self, row: int) -> dict[str, Json]:
        """See `Task`."""
        words: dict[str, Json] = {}
        if self.given:
            words["prompt"] = self.given[row % len(self.given)]
        if self.continuations:
            words["reference"] = self.continuations[row % len(self.continuations)]
        return words

    def right(self, row: int, text: str, ids: Sequence[int]) -> None:
        """See `Task`."""
        return None


def book_task(denoiser: Denoiser, samples: int, new_tokens: int) -> TextTask:
    """Return the task to continue passages of the held-out books, each of them once.

    A prompt has about `PROMPT_CHARACTERS`, its continuation about as many as the new tokens.

    Raises:
        UsageError: the books hold fewer passages.
    """
    length = PROMPT_CHARACTERS + CHARACTERS_PER_TOKEN * new_tokens
    try:
        every = passages(samples, length)
    except ValueError as error:
        raise UsageError(f"--prompts {BOOKS}: {error}") from error
    cuts = [passage.rfind(" ", 0, PROMPT_CHARACTERS + 1) for passage in every]
    pairs = list(zip(every, cuts, strict=True))
    return TextTask(
        new_tokens,
        tuple(passage[:cut] for passage, cut in pairs),
        ends_of(denoiser),
        tuple(passage[cut:] for passage, cut in pairs),
    )


def ends_of(denoiser: Denoiser) -> tuple[int, ...]:
    """Return the ids that end or pad a text, which a text of fixed length must not hold."""
    ends = (denoiser.eos_token_id, denoiser.pad_token_id)
    return tuple(dict.fromkeys(i for i in ends if i is not None))


@dataclass(frozen=True)
class SudokuTask:
    """Fill 4x4 grids of the embedded model sudoku4x4; every valid grid is right.

    Fields:
        samples: grids.
        clues: cells that are given.
        seed: of the grids and of the places of the clues.
    """

    samples: int
    clues: int = 0
    seed: int = 0

    world = "sudoku"

    def facts(self) -> dict[str, Json]:
        """See `Task`."""
        return {"task": "sudoku4x4", "clues": self.clues, "grids_seed": self.seed}

    def prompts(self, first: int, last: int) -> tuple[Any, dict[str, Any]]:
        """See `Task`."""
        return _canvases(self.samples, self.clues, self.seed)[first:last].tolist(), {"infill": True}

    def words(self, row: int) -> dict[str, Json]:
        """See `Task`."""
        return {
            "prompt": "".join(
                "1234."[cell]
                for cell in _canvases(self.samples, self.clues, self.seed)[row].tolist()
            )
        }

    def right(self, row: int, text: str, ids: Sequence[int]) -> bool:
        """See `Task`."""
        return bool(is_valid(torch.tensor([list(ids)]))[0])


@cache
def _canvases(samples: int, clues: int, seed: int) -> torch.Tensor:
    """Return grids with the given number of clues, the other cells masked, int64 [samples, 16]."""
    generator = torch.Generator().manual_seed(seed)
    grids = all_grids()
    x = grids[torch.randint(len(grids), (samples,), generator=generator)]
    rank = torch.rand(x.shape, generator=generator).argsort(1).argsort(1)
    return x.masked_fill(rank < CELLS - clues, MASK)


@dataclass(frozen=True)
class FileTask:
    """Answer the prompts of a file; an answer is right if it is the one of the file.

    The last match of `pattern` in the text (its first group, where it has one) is compared with the
    answer, both without spaces, commas and letter case.

    Fields:
        name: what results call the task.
        rows: prompts with their answers.
        new_tokens: tokens of each text; None where prompts are filled in place.
        pattern: regular expression of the answer; None compares the whole text.
    """

    name: str
    rows: tuple[tuple[str, str], ...]
    new_tokens: int | None
    pattern: str | None = None

    world = "text"

    def facts(self) -> dict[str, Json]:
        """See `Task`."""
        flat = [word for row in self.rows for word in row]
        return {
            "task": self.name,
            "rows": _digest(flat),
            "new_tokens": self.new_tokens,
            "pattern": self.pattern,
        }

    def prompts(self, first: int, last: int) -> tuple[Any, dict[str, Any]]:
        """See `Task`."""
        texts = [prompt for prompt, _ in self.rows[first:last]]
        return texts, {} if self.new_tokens is None else {"max_new_tokens": self.new_tokens}

    def words(self, row: int) -> dict[str, Json]:
        """See `Task`."""
        return {"prompt": self.rows[row][0], "reference": self.rows[row][1]}

    def right(self, row: int, text: str, ids: Sequence[int]) -> bool:
        """See `Task`."""
        found = text
        if self.pattern is not None:
            matches = list(re.finditer(self.pattern, text))
            if not matches:
                return False
            found = matches[-1][1] if matches[-1].re.groups else matches[-1][0]
        return _plain(found) == _plain(self.rows[row][1])


def read_file_task(
    path: Path,
    samples: int,
    new_tokens: int | None,
    pattern: str | None,
    denoiser: Denoiser | None = None,
) -> FileTask:
    """Read a file of JSON lines with "prompt" and "answer".

    Args:
        path: the file.
        samples: reads this many rows, the first ones.
        new_tokens: tokens of each text; None where prompts are filled in place.
        pattern: see `FileTask`.
        denoiser: the model, whose masks the prompts must have where they are filled in place.

    Raises:
        UsageError: no such file, a line without these words, or without a mask to fill, fewer
            lines than `samples`, or a pattern that is no regular expression.
    """
    try:
        re.compile(pattern or "")
        lines = path.read_text(encoding="utf-8").splitlines()
    except re.error as error:
        raise UsageError(f"--answer-pattern {pattern}: {error}.") from error
    except (OSError, UnicodeDecodeError) as error:
        why = "is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UsageError(
            f"--task {path}: {why}; give text, sudoku, or a .jsonl file with prompt and answer."
        ) from error
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: Mapping[str, Any] = json.loads(line)
            rows.append((str(row["prompt"]), str(row["answer"])))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UsageError(
                f'--task {path}: line {number} must be like {{"prompt": "...", "answer": "..."}}.'
            ) from error
        if (
            new_tokens is None
            and denoiser is not None
            and len(rows) <= samples
            and not _has_mask(rows[-1][0], denoiser)
        ):
            raise UsageError(
                f"--max-new-tokens 0: fills the masks of the prompts, and line {number} of {path} "
                "has none."
            )
    if not rows:
        raise UsageError(f"--task {path}: holds no line.")
    if len(rows) < samples:
        raise UsageError(f"--samples {samples}: {path} has {len(rows)} lines.")
    return FileTask(path.name, tuple(rows[:samples]), new_tokens, pattern)


def _has_mask(prompt: str, denoiser: Denoiser) -> bool:
    """Return whether the model finds a mask in a text; without a tokenizer it reads no text."""
    tokenizer: Any = denoiser.tokenizer
    if tokenizer is None:
        return True
    return denoiser.mask_token_id in tokenizer(prompt, add_special_tokens=False)["input_ids"]


def _plain(answer: str) -> str:
    return re.sub(r"[\s,]", "", answer).casefold()


def _digest(texts: Sequence[str]) -> str:
    return sha256(json.dumps(list(texts)).encode()).hexdigest()[:12]
