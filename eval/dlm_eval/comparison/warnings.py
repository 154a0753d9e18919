"""Say above the figures of a comparison what they do not show, for many settings in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dlm_eval.comparison.points import Point
from dlm_eval.comparison.run import Measured
from dlm_eval.comparison.tasks import Task
from dlm_eval.judges.diversity import entropies
from dlm_eval.judges.scores import TextScores
from dlm_eval.text.score import (
    Protocol,
    Tokens,
    collapse_warning,
    cut_warning,
    lost_mauve,
    repeated,
)


def refused(measured: Sequence[Measured]) -> list[str]:
    """Say which settings did not run."""
    told = ((m.setting.label, f"did not run: {m.refused}") for m in measured if m.refused)
    return _folded(told, " ")


def copied(task: Task, measured: Sequence[Measured]) -> list[str]:
    """Say where copies count as samples.

    A text that stands twice behind one prompt is a copy.  Answers that are right or wrong are few,
    and chance repeats them: there only a sampler that gives every prompt the same answer each time
    copies.
    """
    found: list[tuple[str, str]] = []
    for cell in measured:
        prompts = [task.words(row["row"]).get("prompt") for row in cell.rows]
        texts = [tuple(row["ids"]) for row in cell.rows]
        pairs = list(zip(prompts, texts, strict=True))
        right = [task.right(row["row"], row["text"], row["ids"]) for row in cell.rows[:1]]
        if right == [None] or len(set(pairs)) == len(set(prompts)):
            found += [(cell.setting.label, told) for told in repeated(pairs)]
    return _folded(found)


def badly_read(
    measured: Sequence[Measured],
    protocol: Protocol,
    scores: Mapping[str, TextScores],
    references: TextScores | None,
) -> list[str]:
    """Say which texts the judge cut, and where there is no MAUVE."""
    read = {**scores, "references": references} if references is not None else scores
    found = [(name, told) for name, one in read.items() for told in cut_warning(one)]
    for cell in measured:
        texts = [row["text"] for row in cell.rows]
        found += [(cell.setting.label, told) for told in lost_mauve(texts, protocol) if texts]
    return _folded(found)


def collapsed(tokens: Mapping[str, Tokens], references: Tokens | None) -> list[str]:
    """Return a warning for every setting whose entropy has collapsed.

    Against references, over as many tokens of both, as `eval text` does; without them against the
    most varied setting.

    Args:
        tokens: of the texts, by the label of their setting.
        references: tokens of the references, None without any.
    """
    told = "the references"
    if references is None:
        means = {
            name: float(entropies(kept).mean())
            for name, rows in tokens.items()
            if (kept := [row for row in rows if len(row)])
        }
        if not means:
            return []
        most = max(means, key=means.__getitem__)
        references, told = tokens[most], f"the texts of {most}"
    return _folded(
        (name, text)
        for name, rows in tokens.items()
        if (text := collapse_warning(rows, references, told)) is not None
    )


def unbound(points: Sequence[Point]) -> list[str]:
    """Say which samplers a budget does not bind, by their rule or by the passes that they took.

    Samplers of one rule share a line, with the least and the most passes that they took.
    """
    found: list[str] = []
    rules: dict[str, dict[str, list[tuple[int, float]]]] = {}
    by_sampler: dict[str, list[Point]] = {}
    for point in points:
        by_sampler.setdefault(point.setting.sampler, []).append(point)
    for name, group in by_sampler.items():
        swept = [p for p in group if p.setting.option is not None]
        if swept:
            option = swept[0].setting.option
            values = dict.fromkeys(f"{p.setting.options[option[0]]:g}" for p in swept if option)
            found.append(
                f"--nfe does not bind {name} ({group[0].setting.build().nfe}): its "
                f"{option[0] if option else ''} was swept instead: {', '.join(values)}."
            )
            continue
        pairs = [(p.setting.steps, p.nfe) for p in group if p.setting.steps is not None]
        loose = [(steps, nfe) for steps, nfe in pairs if abs(nfe - steps) > 0.1 * steps + 1]
        if loose:
            rules.setdefault(group[0].setting.build().nfe, {})[name] = loose
    for rule, taken in rules.items():
        passes: dict[int, list[float]] = {}
        for steps, nfe in (pair for loose in taken.values() for pair in loose):
            passes.setdefault(steps, []).append(nfe)
        told = ", ".join(
            f"{steps} gave {' to '.join(dict.fromkeys(f'{x:.1f}' for x in (min(nfe), max(nfe))))}"
            for steps, nfe in passes.items()
        )
        found.append(f"--nfe does not bind {'; '.join(taken)} ({rule}): {told}.")
    return found


def _folded(told: Iterable[tuple[str, str]], between: str = ": ") -> list[str]:
    """Return one line for every sentence, with the names of all that it is said of."""
    names: dict[str, list[str]] = {}
    for name, sentence in told:
        names.setdefault(sentence, []).append(name)
    return [f"{'; '.join(group)}{between}{sentence}" for sentence, group in names.items()]
