"""Diversity of samples: print these beside perplexity, which low temperatures lower by looping."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Row = Sequence[int] | npt.NDArray[np.int64]


def unigram_entropy(samples: Sequence[Row]) -> float:
    """Mean over samples of the entropy in nats of the token frequencies inside one sample.

        H(x) = -sum_v f_v ln f_v,   f_v = count of v in x / length of x

    At most ln(length).  Empty samples are left out; nan if nothing is left.
    Strudel et al. 2022, arXiv:2211.04236, section 5.
    """
    values = entropies(samples)
    return _mean(values[np.isfinite(values)].tolist())


def entropies(samples: Sequence[Row]) -> npt.NDArray[np.float64]:
    """Return the entropy in nats of the token frequencies of each sample, nan for an empty one."""
    return np.array([_entropy(np.asarray(row)) if len(row) else np.nan for row in samples])


def repeat_rates(samples: Sequence[Row], n: int = 4) -> npt.NDArray[np.float64]:
    """Return the fraction of n-grams that occurred before in each sample, nan without n-grams.

    Raises:
        ValueError: n < 1.
    """
    rows = [_grams(row, n) for row in samples]
    return np.array([1.0 - len(set(g)) / len(g) if g else np.nan for g in rows])


def distinct_n(samples: Sequence[Row], n: int = 2) -> float:
    """Different n-grams divided by n-grams, over all samples together, in (0, 1].

    Falls with the number of samples: compare sets of one size.  nan without any n-gram.
    Li et al. 2016, arXiv:1510.03055.

    Raises:
        ValueError: n < 1.
    """
    grams = [gram for row in samples for gram in _grams(row, n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def repeat_rate(samples: Sequence[Row], n: int = 4) -> float:
    """Mean over samples of the fraction of n-grams that occurred before in the sample, in [0, 1).

        1 - different n-grams / n-grams

    Samples shorter than n are left out; nan if nothing is left.  Welleck et al. 2020,
    arXiv:1908.04319 (seq-rep-n).

    Raises:
        ValueError: n < 1.
    """
    values = repeat_rates(samples, n)
    return _mean(values[np.isfinite(values)].tolist())


def _entropy(row: npt.NDArray[np.int64]) -> float:
    frequency = np.unique(row, return_counts=True)[1] / len(row)
    return float(-(frequency * np.log(frequency)).sum())


def _grams(row: Row, n: int) -> list[tuple[int, ...]]:
    if n < 1:
        raise ValueError(f"n={n}: must be at least 1; 2 and 4 are usual.")
    tokens = [int(token) for token in row]
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
