"""Plan the preset "published": the table of ReMDM's paper, on any masked model of text.

Texts without a prompt are drawn at top-p 0.9 with T steps for L tokens, T / L from 1/8 to 4.  The
page puts the published figures beside those of the run.  Wang et al. 2025, arXiv:2503.00307,
Table 1: OpenWebText, L = 1024, 5000 texts; without SEDD, which is another model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dlm_eval.comparison.part import Part
from dlm_eval.comparison.presets.asked import Asked
from dlm_eval.comparison.presets.summary import Figure, Summary
from dlm_eval.comparison.presets.tables import table_of
from dlm_eval.comparison.settings import Law, Setting
from dlm_eval.comparison.tasks import TextTask
from dlm_sampling import Denoiser, samplers
from dlm_sampling.errors import UsageError

SAMPLES, LENGTH = 5000, 1024
NUCLEUS = Law(1.0, 0.9, "exclude")
STEPS = (128, 256, 512, 1024, 2048, 4096)
"""Steps of the publication, for `LENGTH` tokens."""


@dataclass(frozen=True)
class Line:
    """Hold one line of the published table, by T.

    Fields:
        name: of the method.
        perplexity: of the texts under GPT-2 large.
        entropy: of the tokens of a text, in nats.
        mauve: against as many texts of the validation set.
    """

    name: str
    perplexity: tuple[float, ...]
    entropy: tuple[float, ...]
    mauve: tuple[float, ...]


PUBLISHED = (
    Line(
        "MDLM",
        (61.5, 55.8, 53.0, 51.3, 51.3, 50.9),
        (5.52, 5.49, 5.48, 5.46, 5.46, 5.45),
        (0.015, 0.023, 0.031, 0.042, 0.037, 0.035),
    ),
    Line(
        "ReMDM",
        (42.5, 30.5, 21.1, 28.6, 22.8, 17.6),
        (5.43, 5.34, 5.21, 5.38, 5.30, 5.20),
        (0.057, 0.216, 0.350, 0.403, 0.610, 0.656),
    ),
    Line(
        "MDLM+FB",
        (42.8, 39.6, 37.1, 33.8, 28.6, 22.8),
        (5.44, 5.41, 5.38, 5.35, 5.28, 5.18),
        (0.064, 0.084, 0.100, 0.133, 0.197, 0.243),
    ),
    Line(
        "MDLM+DFM",
        (37.9, 26.5, 23.3, 21.7, 21.0, 20.7),
        (5.31, 5.26, 5.23, 5.20, 5.19, 5.17),
        (0.041, 0.144, 0.211, 0.254, 0.294, 0.269),
    ),
)


def parts(asked: Asked) -> tuple[Part, ...]:
    """Return the one comparison of the table."""

    def task(denoiser: Denoiser) -> TextTask:
        if denoiser.mask_token_id is None:
            raise UsageError(
                f"{asked.weights.name}: has {denoiser.process.name} noise, and the preset "
                "published compares samplers of masked models; try tiny-books."
            )
        return TextTask(length)

    length = asked.new_tokens or LENGTH
    if length % 8:
        raise UsageError(f"--max-new-tokens {length}: must be a multiple of 8, as T begins at L/8.")
    settings = tuple(settings_of(length))
    samples = asked.samples or SAMPLES
    return (
        Part("texts", asked.weights, task, settings, samples, asked.batch_rows, asked.seed,
             judge=asked.judge),
    )  # fmt: skip


def settings_of(length: int) -> Iterator[Setting]:
    """Yield the cells of the table, for texts of `length` tokens."""
    for line in PUBLISHED:
        for published in STEPS:
            yield _setting(line.name, published * length // LENGTH, length)


def _setting(name: str, steps: int, length: int) -> Setting:
    """Return a cell.  ReMDM caps its rate below one step for each token, and loops from there on.

    Both as in the paper: cap with eta 0.04; loop with eta 0.02, t_on 0.55, t_off 0.05, alpha 0.9.
    """
    methods: Mapping[str, tuple[str, Mapping[str, float]]] = {
        "MDLM": ("ancestral", {}),
        "ReMDM": ("remdm-cap", {"eta": 0.04}) if steps < length else ("remdm-loop", {}),
        "MDLM+FB": ("forward-backward", {}),
        "MDLM+DFM": ("dfm-corrector", {}),
    }
    sampler, options = methods[name]
    return Setting(name, NUCLEUS, steps, instance=samplers.create(sampler, **options))


def render(summary: Summary) -> str:
    """Return the page."""
    (part,) = summary.parts
    found = {(figure.sampler, figure.steps): figure for figure in part.figures}
    length = max(steps for _, steps in found if steps is not None) // 4
    rows = [
        _row(line, i, published, found.get((line.name, published * length // LENGTH)))
        for line in PUBLISHED
        for i, published in enumerate(STEPS)
    ]
    head = ("method", "T / L", "here: T", "NFE", "perplexity", "entropy", "MAUVE",
            "published: T", "perplexity", "entropy", "MAUVE")  # fmt: skip
    lines = [
        "# ReMDM's table, published and here",
        "",
        "Written by one command, which any end only interrupts:",
        "",
        "```bash",
        summary.command,
        "```",
        "",
        "With the checkpoint of the publication, its judge, and a file of OpenWebText's validation",
        "texts, the same preset repeats the published table:",
        "",
        "```bash",
        "dlm-sampling eval compare kuleshov-group/mdlm-owt --preset published \\",
        "  --judge gpt2-large --reference owt_valid.jsonl --out runs/published",
        "```",
        "",
        f"**Here**: `{part.model}`, {part.samples} texts of {length} tokens at top-p 0.9, protocol",
        f"{part.protocol_hash}. **Published**: OpenWebText, {SAMPLES} texts of {LENGTH} tokens at",
        "top-p 0.9 under GPT-2 large (arXiv:2503.00307, Table 1); there texts of people have",
        "perplexity 14.8 at entropy 5.44, those of an autoregressive model 12.1 at 5.22 with MAUVE",
        "0.760. FB: forward-backward correction (arXiv:2205.14987); DFM: corrector of discrete",
        "flow matching (arXiv:2407.15595).",
        "",
        "**Only the course along T can be compared here.** Another model, length, judge and number",
        "of texts make another scale: MAUVE of few texts is far above that of 5000, and the",
        "entropy of a short text is bounded by the logarithm of its length. With equal n, judge",
        "and references the preset's figures are on the published scale. MAUVE of a hundred texts",
        "scatters by a tenth between rows whose texts are equally good: it orders no rows here.",
        "",
        f"| {' | '.join(head)} |",
        "| --- " * len(head) + "|",
        *rows,
        "",
        *_course(found, length),
        "",
        "![Quality against NFE, and at equal entropy](plots.png)",
        "",
        *table_of(part),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _row(line: Line, i: int, published: int, figure: Figure | None) -> str:
    ratio = f"1/{LENGTH // published}" if published < LENGTH else str(published // LENGTH)
    here = ["", "", "", "", ""]
    if figure is not None:
        perplexity = math.exp(figure.quality)
        here = [
            str(figure.steps),
            f"{figure.nfe:.1f}",
            f"{perplexity:.1f} ± {perplexity * figure.error:.1f}",
            f"{figure.entropy:.3f} ± {figure.entropy_error:.3f}",
            "" if figure.mauve is None else f"{figure.mauve:.3f}",
        ]
    there = [f"{line.perplexity[i]:.1f}", f"{line.entropy[i]:.2f}", f"{line.mauve[i]:.3f}"]
    cells = [line.name, ratio, *here, str(published), *there]
    return f"| {' | '.join(cells)} |"


def _course(found: Mapping[tuple[str, int | None], Figure], length: int) -> Sequence[str]:
    """Return the change from T = L to T = 4 L, here and as published."""
    lines: list[str] = []
    first, last = STEPS.index(LENGTH), STEPS.index(4 * LENGTH)
    for line in PUBLISHED:
        few, many = (found.get((line.name, factor * length)) for factor in (1, 4))
        if few is None or many is None:
            continue
        error = math.hypot(few.error, many.error)
        told = f"here ln ppl {many.quality - few.quality:+.3f} ± {error:.3f}"
        if few.mauve is not None and many.mauve is not None:
            told += f", MAUVE {few.mauve:.3f} to {many.mauve:.3f}"
        published = f"ln ppl {math.log(line.perplexity[last] / line.perplexity[first]):+.3f}"
        published += f", MAUVE {line.mauve[first]:.3f} to {line.mauve[last]:.3f}"
        lines.append(f"- {line.name} from T = L to 4 L: {told}; published {published}.")
    return lines
