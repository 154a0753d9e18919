"""Hold the background frequencies of tokens: how often each occurs in a reference corpus."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields
from dlm_sampling.types.values import ints

_EPSILON = 1e-9
_COUNT_KEYS = ("p_baseline_dict", "token_frequency_dict")


@dataclass(frozen=True, eq=False)
class TokenFrequencies:
    """Hold the token counts of a corpus; f(v) = count(v) / total, 1 / total if the count is 0.

    Fields:
        counts: int64 [V].
        total: number of tokens in the corpus, at least 1.
        path: the count file that this came from, or None; a configuration stores the path instead
            of the table.
    """

    counts: Tensor
    total: int
    path: str | None = None
    _on_device: dict[torch.device, Tensor] = field(
        init=False, repr=False, default_factory=dict[torch.device, Tensor]
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.counts.ndim != 1 or len(self.counts) == 0 or self.counts.is_floating_point():
            raise ValueError(
                f"counts is {self.counts.dtype} {tuple(self.counts.shape)}: "
                "must be whole numbers [V], one per token id."
            )
        if bool((self.counts < 0).any()):
            raise ValueError(f"counts: the smallest is {int(self.counts.min())}, must be >= 0.")
        if self.total < 1 or self.total < int(self.counts.max()):
            raise ValueError(
                f"total={self.total}: must be at least 1 and at least the largest count; "
                "pass the number of tokens of the corpus."
            )

    def __eq__(self, other: object) -> bool:
        """Return the same counts and total, wherever they are stored."""
        if not isinstance(other, TokenFrequencies):
            return NotImplemented
        same = self.total == other.total and self.counts.shape == other.counts.shape
        return same and torch.equal(self.counts.cpu(), other.counts.cpu())

    def __hash__(self) -> int:
        """Of total and vocabulary size."""
        return hash((self.total, len(self.counts)))

    @classmethod
    def uniform(cls, vocab_size: int) -> TokenFrequencies:
        """Return frequencies in which every token occurs once."""
        return cls(torch.ones(vocab_size, dtype=torch.int64), vocab_size)

    @classmethod
    def load(cls, path: str | os.PathLike[str], vocab_size: int | None = None) -> TokenFrequencies:
        """Read a count file.

        JSON with `num_token`, and `p_baseline_dict` or `token_frequency_dict`, id -> count.
        The first is the key of the authors' published files, the second that of their builder and
        of `count_tokens`.  vocab_size: columns of the table; None takes the largest id + 1.

        Raises:
            ValueError: the file is missing, is no count file, its counting was not finished, or an
                id is out of range.
        """
        try:
            read: object = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(
                f"frequencies={str(path)!r}: cannot be read ({error.strerror}); count_tokens "
                "writes such a file."
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: not a count file, as it is no JSON: {error}.") from error
        data: Mapping[str, Any] = cast("Any", read) if isinstance(read, Mapping) else {}
        key = next((k for k in _COUNT_KEYS if k in data), None)
        if key is None or "num_token" not in data:
            raise ValueError(
                f"{path}: not a count file; needs num_token and one of {', '.join(_COUNT_KEYS)}."
            )
        if not data.get("metadata", {}).get("complete", True):
            raise ValueError(
                f"{path}: counting was interrupted; call count_tokens again with this output."
            )
        total = _count(data["num_token"], f"{path}: num_token")
        return cls(_table(data[key], vocab_size, str(path)), total, str(path))

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
        """Write a count file that `load` reads; the file is replaced in one piece."""
        data = {
            "num_token": self.total,
            "token_frequency_dict": _as_dict(self.counts),
            "metadata": dict(metadata or {}),
        }
        write_atomically(Path(path), json.dumps(data))

    def to_config(self) -> dict[str, Any]:
        """Return a JSON-ready description: the path if there is one, else the counts."""
        if self.path is not None:
            return {"path": self.path}
        counts = _as_dict(self.counts)
        return {"total": self.total, "vocab_size": len(self.counts), "counts": counts}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TokenFrequencies:
        """Read the dictionary of `to_config`.

        Raises:
            ValueError: it is no such dictionary.
        """
        if "path" in config:
            return cls.load(config["path"])
        if missing := {"counts", "vocab_size", "total"} - set(config):
            raise ValueError(
                f"frequencies has no {', '.join(sorted(missing))}: must be the dictionary of "
                "TokenFrequencies.to_config(), with path, or with counts, vocab_size and total."
            )
        size = _count(config["vocab_size"], "frequencies: vocab_size")
        table = _table(config["counts"], size, "frequencies: counts")
        return cls(table, _count(config["total"], "frequencies: total"))

    def log_frequency(self, tokens: Tensor) -> Tensor:
        """Return ln(f(v) + 1e-9) of each token, float64 like `tokens`; f is least for other ids."""
        table = self._on_device.get(tokens.device)
        if table is None:
            table = self._on_device[tokens.device] = self.counts.to(tokens.device)
        count = table[tokens.clamp(max=len(table) - 1)].masked_fill(tokens >= len(table), 0)
        return (count.clamp_min(1).double() / self.total + _EPSILON).log()


FrequencySource = TokenFrequencies | Mapping[str, Any] | str | os.PathLike[str] | None
"""The forms in which a sampler takes background frequencies; see `read_frequencies`."""


def log_content(
    log_confidence: Tensor, tokens: Tensor, frequencies: TokenFrequencies | None, alpha: float
) -> Tensor:
    """Return log min{-p ln(f + 1e-9), alpha}, float64 like `tokens`; without f, -ln f is 1."""
    log_p = log_confidence.double()
    if frequencies is not None:
        log_p = (
            log_p
            + (-frequencies.log_frequency(tokens)).clamp_min(torch.finfo(torch.float64).tiny).log()
        )
    return log_p.clamp(max=math.log(alpha))


def read_frequencies(source: object) -> TokenFrequencies | None:
    """Return a table as it is, from a count file, or from the dictionary of `to_config`.

    Args:
        source: one of `FrequencySource`.

    Raises:
        TypeError: it is none of them.
    """
    if source is None or isinstance(source, TokenFrequencies):
        return source
    if isinstance(source, Mapping):
        return TokenFrequencies.from_config(cast("Mapping[str, Any]", source))
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"frequencies={source!r}: must be a TokenFrequencies, the path of a count file, the "
            "dictionary of to_config(), or None."
        )
    return TokenFrequencies.load(cast("str", source))


def _as_dict(counts: Tensor) -> dict[str, int]:
    """Return the counts that are not zero, by id."""
    values = ints(counts)
    return {str(token_id): count for token_id, count in enumerate(values) if count}


def _count(value: object, name: str) -> int:
    """Return a whole number, at least 0, which a JSON file may hold as text.

    Raises:
        ValueError: it is none.
    """
    try:
        number = int(value) if isinstance(value, str | int) else -1
    except ValueError:
        number = -1
    if number < 0 or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}: must be a whole number, at least 0.")
    return number


def _table(counts: object, vocab_size: int | None, name: str) -> Tensor:
    """Return the counts of a mapping from token id to count as a table, int64 [V]."""
    if not isinstance(counts, Mapping):
        raise ValueError(f"{name}: must be a mapping from token id to count, found {counts!r:.60}.")
    pairs = cast("Mapping[object, object]", counts).items()
    ids = torch.tensor([_count(key, f"{name}: a token id") for key, _ in pairs], dtype=torch.int64)
    values = torch.tensor(
        [_count(value, f"{name}: the count of token {key}") for key, value in pairs],
        dtype=torch.int64,
    )
    size = vocab_size if vocab_size is not None else int(ids.max()) + 1 if len(ids) else 1
    if len(ids) and int(ids.max()) >= size:
        raise ValueError(f"{name}: token ids must be in [0, {size}), found {int(ids.max())}.")
    return torch.zeros(size, dtype=torch.int64).scatter_(0, ids, values)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one piece: a kill half-way leaves the old one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
