"""Score texts under a judge, beside references: the figures of an evaluation and its warnings.

Every figure counts the judge's own tokens, so that texts of models with different tokenizers are
comparable.  Entropy stands beside perplexity, because repetition lowers both:

    collapsed   if   mean H(texts) < mean H(references) - 0.5 nats
                or   mean H(texts) < 5 % quantile of H(references)

with H the unigram entropy of the first m tokens of a text, m the smaller of the two median lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlm_eval.judges.causal import CausalJudge, Reduction, TextScores
from dlm_eval.judges.diversity import distinct_n, entropies, repeat_rates, unigram_entropy
from dlm_eval.judges.mauve import SEEDS, Mauve, mauve_of_features, same_count
from dlm_eval.report import Metric
from dlm_eval.report.results import Json
from dlm_eval.text.read import digest
from dlm_eval.text.samples import Sample

COLLAPSE_NATS = 0.5
COLLAPSE_QUANTILE = 0.05
FEW_FOR_MAUVE = 500
Tokens = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Hold how texts are scored.

    Fields:
        judge: the causal language model.
        reduction: see `TextScores.perplexity`.
        add_bos: see `CausalJudge.score`.
        references: texts of people, () for none.
        reference_name: what results call them.
        features: the model of MAUVE's features, None for no MAUVE.
        mauve_seeds: seeds of k-means.
        batch_size: texts in one pass.
    """

    judge: CausalJudge
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
            "judge": self.judge.name,
            "judge_revision": self.judge.revision,
            "limit": self.judge.limit,
            "tokens": "1..n" if self.add_bos else "2..n",
            "end of text": "the first counts",
            "reduction": self.reduction,
            "unit of entropy": "nats, judge's tokens of one text",
        }
        if self.references:
            facts["references"] = self.reference_name
            facts["references_hash"] = digest(self.references)
        if self.features is not None:
            facts["mauve_features"] = self.features.name
            facts["mauve_features_revision"] = self.features.revision
            facts["mauve_seeds"] = list(self.mauve_seeds)
        return facts


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
    if protocol.features is not None:
        same_count(len(samples), len(protocol.references))
    texts = [sample.text for sample in samples]
    scores = _read(texts, protocol)
    metrics = _figures(scores, protocol, "")
    warnings = [*_silent(scores), *_repeated(texts)]
    if all(sample.nfe is not None for sample in samples):
        nfe = np.array([sample.nfe for sample in samples], np.float64)
        metrics.append(Metric(name="NFE", value=float(nfe.mean()), unit="passes", n=len(nfe),
                              error=_error(nfe), better="smaller"))  # fmt: skip
    if protocol.references:
        reference = _read(protocol.references, protocol)
        if protocol.features is not None:
            metrics.append(_mauve_metric(texts, protocol, protocol.features))
            warnings += _few(metrics[-1])
        metrics += _figures(reference, protocol, "references")
        collapse = collapse_warning(scores.ids, reference.ids)
        warnings += [collapse] if collapse else []
    return Scored(tuple(metrics), tuple(warnings), tuple(_rows(samples, scores)))


def collapse_warning(texts: Tokens, references: Tokens) -> str | None:
    """Return a sentence if the entropy of the texts has collapsed against the references, or None.

    Texts that are empty are left out; without any text left on a side there is no warning.
    """
    texts, references = [t for t in texts if len(t)], [r for r in references if len(r)]
    if not texts or not references:
        return None
    m = int(min(np.median([len(t) for t in texts]), np.median([len(r) for r in references])))
    ours = entropies([t[:m] for t in texts])
    theirs = entropies([r[:m] for r in references])
    least = float(np.quantile(theirs, COLLAPSE_QUANTILE))
    far = ours.mean() < theirs.mean() - COLLAPSE_NATS
    if not far and ours.mean() >= least:
        return None
    why = (
        f"more than {COLLAPSE_NATS} nats below it" if far else f"below its 5 % quantile {least:.2f}"
    )
    return (
        f"Entropy has collapsed: {ours.mean():.2f} nats over the first {m} tokens, where the "
        f"references have {theirs.mean():.2f}, {why}. The texts repeat themselves, and a low "
        "perplexity says nothing of their quality."
    )


def _read(texts: Sequence[str], protocol: Protocol) -> TextScores:
    return protocol.judge.score(texts, add_bos=protocol.add_bos, batch_size=protocol.batch_size)


def _figures(scores: TextScores, protocol: Protocol, group: str) -> list[Metric]:
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
        Metric(name="distinct-2", value=distinct_n(scores.ids, 2), unit="", n=n, better="larger",
               note="over all texts together; depends on n", group=group),
        Metric(name="repeat rate", value=_mean(repeats), unit="", n=int(np.isfinite(repeats).sum()),
               error=_error(repeats), better="smaller", note="of 4-grams within a text",
               group=group),
        Metric(name="length", value=float(lengths.mean()), unit="tokens of the judge", n=n,
               error=_error(lengths), group=group),
    ]  # fmt: skip


def _mauve_metric(texts: Sequence[str], protocol: Protocol, features: CausalJudge) -> Metric:
    """Return MAUVE over pairs of a text and a reference that are both not empty."""
    pairs = [(t, r) for t, r in zip(texts, protocol.references, strict=True) if t and r]
    ours = features.features([t for t, _ in pairs], batch_size=protocol.batch_size)
    theirs = features.features([r for _, r in pairs], batch_size=protocol.batch_size)
    found: Mauve = mauve_of_features(ours, theirs, seeds=protocol.mauve_seeds)
    each = ", ".join(f"{value:.3f}" for value in found.values)
    note = f"{found.buckets} clusters; k-means seeds {list(found.seeds)}: {each}"
    if len(found.values) > 1:
        note += f", standard deviation {found.spread:.3f}"
    return Metric(name="MAUVE", value=found.mean, unit="", n=found.n, better="larger", note=note)


def _silent(scores: TextScores) -> list[str]:
    """Say how many texts no token of which counts."""
    if not scores.silent:
        return []
    return [
        f"{scores.silent} of {len(scores.counts)} texts have fewer than two tokens of the judge "
        "and do not count for the perplexity."
    ]


def _repeated(texts: Sequence[str]) -> list[str]:
    """Say how many texts are copies, as those of a sampler without randomness and prompt are."""
    copies = len(texts) - len(set(texts))
    if not copies:
        return []
    return [
        f"{copies} of {len(texts)} texts are copies of another one, so standard errors are too "
        "small; at temperature 0 give different prompts."
    ]


def _few(found: Metric) -> list[str]:
    """Say that MAUVE of few texts tells little."""
    if found.n >= FEW_FOR_MAUVE:
        return []
    return [
        f"MAUVE of {found.n} texts has few clusters and tells little; published figures have 5000 "
        "texts, and figures of different n are not comparable."
    ]


def _rows(samples: Sequence[Sample], scores: TextScores) -> list[dict[str, Json]]:
    """Return the columns of samples.jsonl."""
    entropy = entropies(scores.ids)
    rows: list[dict[str, Json]] = []
    for i, sample in enumerate(samples):
        count = int(scores.counts[i])
        row: dict[str, Json] = {"text": sample.text}
        if sample.prompt:
            row["prompt"] = sample.prompt
        row |= {
            "perplexity": round(float(np.exp(scores.nll[i] / count)), 3) if count else None,
            "nll": float(scores.nll[i]),
            "counted tokens": count,
            "entropy": None if np.isnan(entropy[i]) else round(float(entropy[i]), 4),
        }
        if sample.nfe is not None:
            row["nfe"] = sample.nfe
        if sample.seed is not None:
            row["seed"] = sample.seed
        rows.append(row)
    return rows


def _mean(values: npt.NDArray[np.float64]) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _error(values: npt.NDArray[np.float64]) -> float | None:
    """Return the standard error of a mean, None for fewer than two values."""
    kept = values[np.isfinite(values)]
    return float(kept.std(ddof=1) / len(kept) ** 0.5) if len(kept) > 1 else None
