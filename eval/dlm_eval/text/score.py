"""Score texts under a judge, beside references: the figures of an evaluation and its warnings.

Every figure counts the judge's own tokens, so that texts of models with different tokenizers are
comparable.  Entropy stands beside perplexity, because repetition lowers both:

    collapsed   if   mean H(texts) < mean H(references) - 0.5 nats
                or   mean H(texts) < 5 % quantile of H(references), of at least 20

with H the unigram entropy of the first m tokens of a text, m the smaller of the two median lengths;
shorter texts and references are left out, as a short text cannot have the entropy of a long one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlm_eval.judges.causal import CausalJudge
from dlm_eval.judges.diversity import (
    distinct_n,
    entropies,
    repeat_rate,
    repeat_rates,
    unigram_entropy,
)
from dlm_eval.judges.mauve import FEWEST, SEEDS, Features, Mauve, mauve_of_features, same_count
from dlm_eval.judges.scores import Judge, Reduction, TextScores
from dlm_eval.report import Metric
from dlm_eval.report.results import Json
from dlm_eval.text.read import digest
from dlm_eval.text.samples import Sample

COLLAPSE_NATS = 0.5
COLLAPSE_QUANTILE = 0.05
FEW_FOR_QUANTILE = 20
REPEATS_MORE = 0.05
"""Repeated 4-grams beyond those of the references from which texts repeat themselves."""

FEW_FOR_MAUVE = 500
Tokens = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Hold how texts are scored.

    Fields:
        judge: the language model that reads the texts.
        reduction: see `TextScores.perplexity`.
        add_bos: see `Judge.score`.
        references: texts of people, () for none.
        reference_name: what results call them.
        features: the model of MAUVE's features, None for no MAUVE.
        mauve_seeds: seeds of k-means.
        batch_size: texts in one pass.
    """

    judge: Judge
    reduction: Reduction = "corpus"
    add_bos: bool = False
    references: tuple[str, ...] = ()
    reference_name: str = ""
    features: CausalJudge | None = None
    mauve_seeds: tuple[int, ...] = SEEDS
    batch_size: int = 8

    def facts(self) -> dict[str, Json]:
        """Return all of it that changes a figure, for the fingerprint."""
        facts: dict[str, Json] = {
            **self.judge.facts(add_bos=self.add_bos),
            "reduction": self.reduction,
            "unit of entropy": "nats, judge's tokens of one text",
        }
        if self.references:
            facts["references_hash"] = digest(self.references)
        if self.features is not None:
            facts["mauve_features"] = self.features.name
            facts["mauve_features_revision"] = self.features.revision
            facts["mauve_seeds"] = list(self.mauve_seeds)
        return facts

    def named(self) -> dict[str, Json]:
        """Return how the references were called, which changes no figure."""
        return {"references": self.reference_name} if self.references else {}


@dataclass(frozen=True)
class References:
    """Hold what the judge says of the references, which is read once for many sets of texts.

    Fields:
        scores: of each reference.
        features: of each reference that is not empty, float32 [N, d]; None for no MAUVE.
    """

    scores: TextScores
    features: Features | None


@dataclass(frozen=True)
class Scored:
    """Hold the figures of texts.

    Fields:
        metrics: the figures; those of the references have the group "references".
        warnings: sentences for the reader.
        rows: one mapping for each text, for samples.jsonl.
    """

    metrics: tuple[Metric, ...]
    warnings: tuple[str, ...]
    rows: tuple[dict[str, Json], ...]


def score_samples(samples: Sequence[Sample], protocol: Protocol) -> Scored:
    """Score texts, and their references where there are some.

    Raises:
        ValueError: no token of the texts counts, or MAUVE of different counts.
    """
    texts = [sample.text for sample in samples]
    if protocol.features is not None:
        same_count(len(texts), len(protocol.references))
    scores = read(texts, protocol)
    metrics = figures(scores, protocol)
    warnings = [*_silent(scores, protocol.add_bos), *repeated(texts), *cut_warning(scores)]
    if all(sample.nfe is not None for sample in samples):
        nfe = np.array([sample.nfe for sample in samples], np.float64)
        metrics.append(Metric(name="NFE", value=float(nfe.mean()), unit="passes", n=len(nfe),
                              error=_error(nfe), better="smaller"))  # fmt: skip
    references = read_references(protocol)
    if references is not None:
        found = mauve_metric(texts, protocol, references)
        if found is not None:
            metrics.append(found)
            warnings += few_for_mauve(found.n)
        warnings += lost_mauve(texts, protocol)
        warnings += [f"References: {told}" for told in cut_warning(references.scores)]
        metrics += figures(references.scores, protocol, "references")
        collapse = collapse_warning(scores.ids, references.scores.ids)
        warnings += [collapse] if collapse else []
    rows = [
        _row(sample, columns)
        for sample, columns in zip(samples, columns_of(scores), strict=True)
    ]  # fmt: skip
    return Scored(tuple(metrics), tuple(warnings), tuple(rows))


def read(texts: Sequence[str], protocol: Protocol) -> TextScores:
    """Return what the judge says of texts."""
    return protocol.judge.score(texts, add_bos=protocol.add_bos, batch_size=protocol.batch_size)


def read_references(protocol: Protocol) -> References | None:
    """Return what the judge says of the references, None where there are none."""
    if not protocol.references:
        return None
    features = None
    if protocol.features is not None:
        heard = [text for text in protocol.references if text]
        features = protocol.features.features(heard, batch_size=protocol.batch_size)
    return References(read(protocol.references, protocol), features)


def collapse_warning(texts: Tokens, references: Tokens, name: str = "the references") -> str | None:
    """Return a sentence if the entropy of the texts has collapsed against the references, or None.

    Without a text or a reference that is long enough there is no warning.

    Args:
        texts: their tokens.
        references: tokens of the texts that they are compared with.
        name: what the sentence calls them.
    """
    texts, references = [t for t in texts if len(t)], [r for r in references if len(r)]
    if not texts or not references:
        return None
    m = int(min(np.median([len(t) for t in texts]), np.median([len(r) for r in references])))
    texts, references = _heads(texts, m), _heads(references, m)
    ours, theirs = entropies(texts), entropies(references)
    least = float(np.quantile(theirs, COLLAPSE_QUANTILE))
    far = ours.mean() < theirs.mean() - COLLAPSE_NATS
    if not far and (ours.mean() >= least or len(references) < FEW_FOR_QUANTILE):
        return None
    why = (
        f"more than {COLLAPSE_NATS} nats below it" if far else f"below its 5 % quantile {least:.2f}"
    )
    again, usual = repeat_rate(texts), repeat_rate(references)
    loops = (
        f" The texts repeat themselves, {again:.0%} of their 4-grams against {usual:.0%}."
        if again > usual + REPEATS_MORE
        else ""
    )
    return (
        f"Entropy has collapsed: {ours.mean():.2f} nats over the first {m} tokens, where {name} "
        f"have {theirs.mean():.2f}, {why}.{loops} A low perplexity says nothing of their quality."
    )


def _heads(rows: Tokens, m: int) -> list[Sequence[int]]:
    """Return the first m tokens of the rows that have as many."""
    return [row[:m] for row in rows if len(row) >= m]


DISTINCT = (1, 2, 3)
"""Lengths n of the n-grams of distinct-n."""


def figures(scores: TextScores, protocol: Protocol, group: str = "") -> list[Metric]:
    """Return the figures that references have as well."""
    n = len(scores.counts)
    entropy = entropies(scores.ids)
    repeats = repeat_rates(scores.ids)
    lengths = np.array([len(ids) for ids in scores.ids], np.float64)
    heard = n - scores.silent
    whole = protocol.reduction == "corpus"
    return [
        Metric(name="generative perplexity", value=scores.perplexity(protocol.reduction), unit="",
               n=heard, error=scores.standard_error(protocol.reduction), better="smaller",
               note=f"over {int(scores.counts.sum())} tokens" if whole else "mean over texts",
               group=group),
        Metric(name="unigram entropy", value=unigram_entropy(scores.ids), unit="nats",
               n=int(np.isfinite(entropy).sum()), error=_error(entropy), better="larger",
               group=group),
        *(Metric(name=f"distinct-{k}", value=distinct_n(scores.ids, k), unit="", n=n,
                 better="larger", note="over all texts together; depends on n", group=group)
          for k in DISTINCT),
        Metric(name="repeat rate", value=_mean(repeats), unit="", n=int(np.isfinite(repeats).sum()),
               error=_error(repeats), better="smaller", note="of 4-grams within a text",
               group=group),
        Metric(name="length", value=float(lengths.mean()), unit="tokens of the judge", n=n,
               error=_error(lengths), group=group),
    ]  # fmt: skip


def mauve_metric(
    texts: Sequence[str], protocol: Protocol, references: References, group: str = ""
) -> Metric | None:
    """Return MAUVE over pairs of a text and a reference that are both not empty.

    None where the protocol has no features, or empty texts leave too few.
    """
    both = _pairs(texts, protocol)
    if protocol.features is None or references.features is None or both.sum() < FEWEST:
        return None
    heard = np.array([bool(reference) for reference in protocol.references])
    ours = protocol.features.features(
        [texts[i] for i in np.flatnonzero(both).tolist()], batch_size=protocol.batch_size
    )
    theirs = references.features[both[heard]]
    found: Mauve = mauve_of_features(ours, theirs, seeds=protocol.mauve_seeds)
    each = ", ".join(f"{value:.3f}" for value in found.values)
    note = f"features of {protocol.features.name}; {found.buckets} clusters; "
    note += f"k-means seeds {list(found.seeds)}: {each}"
    if len(found.values) > 1:
        note += f", standard deviation {found.spread:.3f}"
    return Metric(
        name="MAUVE", value=found.mean, unit="", n=found.n, better="larger", note=note, group=group
    )


def lost_mauve(texts: Sequence[str], protocol: Protocol) -> list[str]:
    """Say that empty texts leave too few for MAUVE, where the protocol has it."""
    kept = int(_pairs(texts, protocol).sum())
    if protocol.features is None or kept >= FEWEST:
        return []
    return [
        f"MAUVE is left out, as it needs at least {FEWEST} texts, and of {len(texts)} pairs of a "
        f"text and a reference {len(texts) - kept} have an empty one."
    ]


def cut_warning(scores: TextScores) -> list[str]:
    """Say how many texts the judge cut."""
    if not scores.cut:
        return []
    return [
        f"{scores.cut} of {len(scores.counts)} texts are longer than the judge's {scores.limit} "
        "tokens; figures are of their heads."
    ]


def _pairs(texts: Sequence[str], protocol: Protocol) -> npt.NDArray[np.bool_]:
    """Return where neither a text nor its reference is empty, bool [N]."""
    pairs = zip(texts, protocol.references, strict=False)  # there may be no reference
    return np.array([bool(text and reference) for text, reference in pairs], np.bool_)


def _silent(scores: TextScores, add_bos: bool) -> list[str]:
    """Say how many texts no token of which counts."""
    if not scores.silent:
        return []
    return [
        f"{scores.silent} of {len(scores.counts)} texts have "
        f"{'no token' if add_bos else 'fewer than two tokens'} of the judge "
        "and do not count for the perplexity."
    ]


def repeated(texts: Sequence[Hashable]) -> list[str]:
    """Say how many texts are copies, as those of a sampler without randomness and prompt are.

    Args:
        texts: by themselves, or with what they continue.
    """
    copies = len(texts) - len(set(texts))
    if not copies:
        return []
    return [
        f"{copies} of {len(texts)} texts are copies of another one, so standard errors are too "
        "small; at temperature 0 give different prompts."
    ]


def few_for_mauve(count: int) -> list[str]:
    """Say that MAUVE of few texts tells little."""
    if count >= FEW_FOR_MAUVE:
        return []
    return [
        f"MAUVE of {count} texts has few clusters and tells little; published figures have 5000 "
        "texts, and figures of different n are not comparable."
    ]


def columns_of(scores: TextScores) -> list[dict[str, Json]]:
    """Return the judge's columns of samples.jsonl, a mapping for each text."""
    found: list[dict[str, Json]] = []
    for nll, count, entropy in zip(scores.nll, scores.counts, entropies(scores.ids), strict=True):
        found.append(
            {
                "perplexity": round(float(np.exp(nll / count)), 3) if count else None,
                "nll": float(nll),
                "counted tokens": int(count),
                "entropy": None if np.isnan(entropy) else round(float(entropy), 4),
            }
        )
    return found


def _row(sample: Sample, judged: dict[str, Json]) -> dict[str, Json]:
    """Return the columns of samples.jsonl."""
    row: dict[str, Json] = {"text": sample.text}
    if sample.prompt:
        row["prompt"] = sample.prompt
    row |= judged
    if sample.nfe is not None:
        row["nfe"] = sample.nfe
    if sample.seed is not None:
        row["seed"] = sample.seed
    return row


def _mean(values: npt.NDArray[np.float64]) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _error(values: npt.NDArray[np.float64]) -> float | None:
    """Return the standard error of a mean, None for fewer than two values."""
    kept = values[np.isfinite(values)]
    return float(kept.std(ddof=1) / len(kept) ** 0.5) if len(kept) > 1 else None
