"""Read the options of a judgement, which `eval text` and `eval compare` share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dlm_eval.data import passages
from dlm_eval.judges.causal import OWN, CausalJudge
from dlm_eval.judges.mauve import why_no_mauve
from dlm_eval.judges.ngram_texts import NGramTexts, books_of
from dlm_eval.judges.scores import Judge, Reduction
from dlm_eval.report import Metric
from dlm_eval.text.read import read_texts
from dlm_eval.text.score import Protocol
from dlm_sampling import Denoiser
from dlm_sampling.errors import UsageError, unknown_choice

BOOKS, NONE = "books", "none"
FIRST_SEED = 25
FEWEST_CHARACTERS = 20
"""Of a passage of the books, however short the texts are."""

PUBLISHED = "gpt2-large"
"""Model of the features of published MAUVE."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """Hold how texts are judged, as the options of a command name it.

    Fields:
        judge: "own", folder or name of a causal language model, or a folder of .txt books.
        judge_revision: commit on the hub.
        reduction: of the perplexity, "corpus" or "text".
        add_bos: put the beginning in front of each text.
        reference: file or data set of people's texts, "books", "none"; None is books with the own
            judge, else none.
        reference_column: its column of the text.
        features: model of MAUVE's features, "none"; None is GPT-2 large, as published, where a
            model of others judges, else the own judge (nothing is downloaded then).
        mauve_seeds: number of seeds of k-means.
        device: where judge and features run.
    """

    judge: str = OWN
    judge_revision: str | None = None
    reduction: str = "corpus"
    add_bos: bool = False
    reference: str | None = None
    reference_column: str | None = None
    features: str | None = None
    mauve_seeds: int = 5
    device: str | None = None


@dataclass(frozen=True)
class Judgement:
    """Hold a protocol, and what has to be said of it above the figures.

    Fields:
        protocol: how texts are scored.
        warnings: sentences for the reader.
        of_mauve: sentences for the reader of MAUVE, where there is one.
    """

    protocol: Protocol
    warnings: tuple[str, ...] = ()
    of_mauve: tuple[str, ...] = ()

    def told(self, metrics: Iterable[Metric]) -> tuple[str, ...]:
        """Return the sentences that go with figures."""
        mauve = any(metric.name == "MAUVE" for metric in metrics)
        return (*self.warnings, *self.of_mauve) if mauve else self.warnings


def load_judgement(
    options: JudgeOptions,
    count: int,
    characters: int,
    denoiser: Denoiser | None = None,
    continuations: tuple[str, ...] = (),
) -> Judgement:
    """Load judge, references and features.

    Args:
        options: see `JudgeOptions`.
        count: texts that will be judged.
        characters: length of a passage, for references from the held-out books.
        denoiser: the model, for a judge of its tokens.
        continuations: what the books say after the prompts, where they are the prompts' source.

    Raises:
        UsageError: an option is wrong, or there are too few references.
    """
    reduction = read_reduction(options.reduction)
    name = options.reference
    if name is None:
        name = BOOKS if options.judge == OWN or continuations else NONE
    if options.reference_column is not None and name in (BOOKS, NONE):
        raise UsageError(
            "--reference-column: goes with a file or a data set of --reference, and the "
            f"references are {name}."
        )
    references = (
        continuations[:count]
        if continuations and name == BOOKS
        else read_references(name, options.reference_column, count, characters)
    )
    judge = _judge(options, denoiser)
    left_out = why_no_mauve(count) if references else "there are no references"
    if left_out is not None and options.features not in (None, NONE):
        raise UsageError(f"--features {options.features}: there is no MAUVE, as {left_out}.")
    wanted = bool(references) and options.features != NONE and left_out is None
    protocol = Protocol(
        judge=judge,
        reduction=reduction,
        add_bos=options.add_bos,
        references=references,
        reference_name=name,
        features=_featuriser(options, judge) if wanted else None,
        mauve_seeds=tuple(range(FIRST_SEED, FIRST_SEED + options.mauve_seeds)),
    )
    warnings: list[str] = []
    of_mauve: list[str] = []
    if references and left_out is not None and options.features != NONE:
        warnings.append(f"MAUVE is left out, as {left_out}.")
    if protocol.features is not None and _short(protocol.features.name) != PUBLISHED:
        of_mauve.append(
            f"MAUVE's features are those of {protocol.features.name!r}, and published figures have "
            f"GPT-2 large: they are not comparable. --features {PUBLISHED} takes it."
        )
    return Judgement(protocol, tuple(warnings), tuple(of_mauve))


def read_reduction(name: str) -> Reduction:
    """Return the reduction of this name.

    Raises:
        UsageError: there is none.
    """
    if name == "corpus" or name == "text":
        return name
    raise UsageError(str(unknown_choice("--reduction", name, ("corpus", "text"))))


def read_references(name: str, column: str | None, count: int, characters: int) -> tuple[str, ...]:
    """Return as many references as there are texts, the first ones of a file.

    Raises:
        UsageError: there are fewer.
    """
    if name == NONE:
        return ()
    if name == BOOKS:
        try:
            return tuple(passages(count, max(FEWEST_CHARACTERS, characters)))
        except ValueError as error:
            raise UsageError(f"--reference {BOOKS}: {error}") from error
    found = read_texts(name, "--reference", column, count)
    if len(found) < count:
        raise UsageError(
            f"--reference {name}: {len(found)} texts for {count} texts to judge; MAUVE needs as "
            "many, as its value depends on the count."
        )
    return tuple(found)


def _judge(options: JudgeOptions, denoiser: Denoiser | None) -> Judge:
    folder = Path(options.judge)
    if options.judge_revision is not None and (options.judge == OWN or folder.is_dir()):
        raise UsageError(
            f"--judge-revision {options.judge_revision}: goes with a judge on the hub, which "
            f"--judge {options.judge} is not."
        )
    books = folder.is_dir() and not (folder / "config.json").exists() and books_of(folder)
    if books and denoiser is not None:
        if options.add_bos:
            raise UsageError("--add-bos: an n-gram judge counts every token without it.")
        return NGramTexts.fit_books(folder, denoiser)
    return CausalJudge.from_pretrained(
        options.judge, options.judge_revision, device=options.device
    )  # fmt: skip


def _featuriser(options: JudgeOptions, judge: Judge) -> CausalJudge:
    """Return the model of the features: the judge itself, where it is the one that is named.

    Raises:
        UsageError: there is no such model.
    """
    causal = isinstance(judge, CausalJudge)
    name = options.features or (PUBLISHED if causal and options.judge != OWN else OWN)
    if causal and name in (options.judge, _short(options.judge)):
        return judge
    try:
        return CausalJudge.from_pretrained(name, device=options.device, option="--features")
    except UsageError as error:
        if options.features is not None:
            raise
        raise UsageError(
            f"--features {name} (the default, as in published MAUVE): {error} Name what is there, "
            f"such as --features {options.judge} or own, or none for no MAUVE."
        ) from error


def _short(name: str) -> str:
    """Return the name of a model without its owner or folders."""
    return name.rstrip("/").split("/")[-1]
