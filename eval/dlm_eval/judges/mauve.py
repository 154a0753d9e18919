"""Compare two sets of texts by MAUVE, with the arithmetic of the package mauve-text.

Texts become features, the features of both sets are clustered together, and MAUVE is the area
under the divergence curve of the two histograms over clusters, in (0, 1]; larger is closer.
Pillutla et al. 2021, arXiv:2102.01454.

The value depends strongly on the number of texts (n / 10 clusters), on the features, and on the
seed of k-means: figures of different n or features are not comparable, and several seeds are run.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dlm_eval.judges.causal import CausalJudge
from dlm_sampling.errors import UsageError

Features: TypeAlias = npt.NDArray[np.float32]
Featuriser: TypeAlias = "str | CausalJudge | Callable[[Sequence[str]], Features]"
FEWEST = 20
SEEDS = (25, 26, 27, 28, 29)
"""Seeds of k-means; 25 is the package's own."""

EXTRA = "pip install 'dlm-sampling[eval]'"


@dataclass(frozen=True)
class Mauve:
    """Hold MAUVE of two sets of `n` texts each.

    Fields:
        values: one for each seed of k-means.
        seeds: the seeds.
        buckets: number of clusters.
        n: texts in each set.
    """

    values: tuple[float, ...]
    seeds: tuple[int, ...]
    buckets: int
    n: int

    @property
    def mean(self) -> float:
        """Return the mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        """Return the standard deviation over the seeds, 0 for one seed.

        It says how much the clustering matters, not how much another sample of texts would.
        """
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0


def mauve(
    texts: Sequence[str],
    references: Sequence[str],
    *,
    featuriser: Featuriser = "gpt2-large",
    seeds: Sequence[int] = SEEDS,
) -> Mauve:
    """Return MAUVE of texts against as many references.

    Args:
        texts: the texts of the model, none empty.
        references: texts of people, none empty.
        featuriser: name or folder of a causal language model, a judge, or a function from texts to
            features [N, d].
        seeds: of k-means.

    Raises:
        ValueError: see `mauve_of_features`; a text is empty.
        UsageError: mauve-text is not installed, or there is no such model.
    """
    same_count(len(texts), len(references))
    if isinstance(featuriser, str):
        featuriser = CausalJudge.from_pretrained(featuriser)
    read = featuriser.features if isinstance(featuriser, CausalJudge) else featuriser
    return mauve_of_features(read(texts), read(references), seeds=seeds)


def mauve_of_features(
    texts: Features, references: Features, *, seeds: Sequence[int] = SEEDS
) -> Mauve:
    """Return MAUVE of two sets of features [N, d], by mauve-text with its defaults.

    Args:
        texts: features of the model's texts; the package's q.
        references: features of as many texts of people; the package's p.
        seeds: of k-means.

    Raises:
        ValueError: the counts differ, there are fewer than 20 texts, or no seed.
        UsageError: mauve-text is not installed.
    """
    same_count(len(texts), len(references))
    if not seeds:
        raise ValueError("seeds=(): give at least one, such as 25.")
    if len(texts) < FEWEST:
        raise ValueError(
            f"{len(texts)} texts: MAUVE needs at least {FEWEST} in each set, for two clusters."
        )
    compute = _package()
    found: list[Any] = []
    for seed in seeds:
        with _faiss_is_quiet():
            found.append(compute(p_features=references, q_features=texts, seed=seed, verbose=False))
    return Mauve(
        values=tuple(float(one.mauve) for one in found),
        seeds=tuple(seeds),
        buckets=int(found[0].num_buckets),
        n=len(texts),
    )


def same_count(texts: int, references: int) -> None:
    """Refuse sets of different sizes, on which MAUVE depends.

    Raises:
        ValueError: the counts differ.
    """
    if texts != references:
        raise ValueError(
            f"MAUVE of {texts} texts and {references} references: the counts must be equal, as the "
            "value depends on them; pass as many references as texts."
        )


def why_no_mauve(count: int) -> str | None:
    """Return the reason why MAUVE of `count` texts cannot be computed here, or None if it can."""
    if count < FEWEST:
        return f"it needs at least {FEWEST} texts, for two clusters, and there are {count}"
    if find_spec("mauve") is None:
        return f"it needs the package mauve-text: {EXTRA}"
    return None


def _package() -> Callable[..., Any]:
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise UsageError(f"MAUVE needs the package mauve-text: {EXTRA}") from error
    return compute_mauve


@contextmanager
def _faiss_is_quiet() -> Iterator[None]:
    """Drop the lines on standard error in which faiss says that n / 10 clusters are many.

    They come from C++, so the file descriptor itself is pointed elsewhere.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as sink:
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
