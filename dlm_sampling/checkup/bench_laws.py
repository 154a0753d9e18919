"""Measure a draw under each token law, in units of one read of the logits, beside plain torch.

A draw is measured as the steps of a run make it: the token, its log-probability and its confidence.
Under filters the confidence, which is that of the model's own law, needs sums of its own, so there
a second row leaves it out, as the steps of ancestral sampling do.  The alternatives return a token
and its probability under the law; each is the fastest form in torch that we know of, for the law
beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from dlm_sampling import ops
from dlm_sampling.ops import fused_cpu
from dlm_sampling.types import TokenLaw

Method = Callable[[Tensor, float, Generator], tuple[Tensor, Tensor]]
"""Takes logits, temperature and generator; returns a token and its probability per row."""

READ = "one read (amax)"
DTYPES = ("float32", "bfloat16")
TOP_K, TOP_P, MIN_P = 50, 0.9, 0.05


class Case(NamedTuple):
    """Hold one row of the table."""

    law: str
    by: str  # "dlm_sampling", or the alternative
    method: Method


@dataclass(frozen=True)
class LawRow:
    """Hold the measurement of one draw.

    Fields:
        law: the token law.
        by: this library, or the operators of the alternative.
        dtype: of the logits.
        cpu_milliseconds: median processor time of a call.
        reads: the same in units of one read of the logits.
        of_plain: over that of this library's draw without filters at temperature 1.
    """

    law: str
    by: str
    dtype: str
    cpu_milliseconds: float
    reads: float
    of_plain: float


ALONE = "dlm_sampling, no confidence"
"""Draws whose confidence nobody reads."""

FUSED = "dlm_sampling, fused"
"""Draws by the compiled pass of `ops.fused_cpu`."""


def fused(method: Method, choice: str = "on") -> Method:
    """Return a method that runs under this choice of DLM_FUSED_CPU."""

    def chosen(logits: Tensor, temperature: float, generator: Generator) -> tuple[Tensor, Tensor]:
        before = os.environ.get(fused_cpu.CHOICE)
        os.environ[fused_cpu.CHOICE] = choice
        try:
            return method(logits, temperature, generator)
        finally:
            os.environ.pop(fused_cpu.CHOICE)
            if before is not None:
                os.environ[fused_cpu.CHOICE] = before

    return chosen


def drawn(law: TokenLaw, confidence: bool = True) -> Method:
    """Return a draw under a law as a step of a run makes it.

    Args:
        law: the token law.
        confidence: make the sums that the confidence needs.
    """

    def method(logits: Tensor, _: float, generator: Generator) -> tuple[Tensor, Tensor]:
        rows, seed = logits.shape[0], torch.randint(1 << 62, (1,), generator=generator)
        places = seed.expand(rows), torch.arange(rows), torch.zeros(rows, dtype=torch.int64)
        record = ops.draw_lazily(
            logits, lambda: places, law=law, reads=ops.Reads(sums=confidence, settled=True)
        )
        logprob = record.logprob if law.temperature > 0.0 else record.log_confidence
        return record.token, logprob.exp()

    return method


def read(logits: Tensor, _: float, __: Generator) -> tuple[Tensor, Tensor]:
    """Read the logits once; no draw."""
    peak = logits.amax(-1)
    return peak, peak


def greedy(logits: Tensor, _: float, __: Generator) -> tuple[Tensor, Tensor]:
    """Take the argmax, and its probability by logsumexp."""
    peak, token = logits.max(-1)
    return token, (peak.float() - logits.float().logsumexp(-1)).exp()


def multinomial(logits: Tensor, _: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw with softmax and torch.multinomial."""
    return _picked(logits.float().softmax(-1), generator)


def top_k(logits: Tensor, _: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw from the softmax of the largest logits, found by topk."""
    found = logits.topk(min(TOP_K, logits.shape[1]))
    place, p = _picked(found.values.float().softmax(-1), generator)
    return found.indices.gather(-1, place[:, None])[:, 0], p


def top_p(logits: Tensor, _: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw from the head of the sorted law that reaches the mass."""
    found = logits.sort(-1, descending=True)
    p = found.values.float().softmax(-1)
    p = p.masked_fill(p.cumsum(-1) - p >= TOP_P, 0.0)
    place, chance = _picked(p / p.sum(-1, keepdim=True), generator)
    return found.indices.gather(-1, place[:, None])[:, 0], chance


def min_p(logits: Tensor, _: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw from the tokens of at least a share of the largest probability."""
    p = logits.float().softmax(-1)
    p = p.masked_fill(p < MIN_P * p.amax(-1, keepdim=True), 0.0)
    return _picked(p / p.sum(-1, keepdim=True), generator)


def _picked(p: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    place = torch.multinomial(p, 1, generator=generator)
    return place[:, 0], p.gather(-1, place)[:, 0]


LAWS: Mapping[str, tuple[TokenLaw, str, Method]] = {
    "temperature 1": (TokenLaw(), "softmax, multinomial", multinomial),
    "temperature 0": (TokenLaw(temperature=0.0), "max, logsumexp", greedy),
    f"top-k {TOP_K}": (TokenLaw(top_k=TOP_K), "topk, gather", top_k),
    f"top-p {TOP_P}": (TokenLaw(top_p=TOP_P), "sort, cumsum", top_p),
    f"min-p {MIN_P}": (TokenLaw(min_p=MIN_P), "softmax, mask", min_p),
}
PLAIN = next(iter(LAWS))


def cases(compiled: bool = False) -> dict[str, Case]:
    """Return all rows of the table by a name of their own.

    Args:
        compiled: add the draws without filters by the compiled pass.
    """
    found = {READ: Case("none", READ, read)}
    for name, (law, by, other) in LAWS.items():
        found[name] = Case(name, "dlm_sampling", fused(drawn(law), "off"))
        if law.filters:
            found[f"{name}, {ALONE}"] = Case(name, ALONE, fused(drawn(law, False), "off"))
        if compiled and not law.filters:
            found[f"{name}, fused"] = Case(name, FUSED, fused(drawn(law)))
        found[f"{name}, {by}"] = Case(name, by, other)
    return found


def measure_laws(
    logits: Callable[[str], Tensor],
    time: Callable[[Mapping[str, Method], Tensor], dict[str, tuple[float, float]]],
    compiled: bool = False,
) -> tuple[LawRow, ...]:
    """Return the rows of the table.

    Args:
        logits: makes them of a dtype.
        time: returns the median wall and processor milliseconds of methods on logits.
        compiled: add the compiled pass.
    """
    rows: list[LawRow] = []
    for dtype in DTYPES:
        found = cases(compiled)
        times = time({name: case.method for name, case in found.items()}, logits(dtype))
        one, plain = times[READ][1], times[PLAIN][1]
        rows += [
            LawRow(case.law, case.by, dtype, cpu, cpu / one, cpu / plain)
            for (case, cpu) in ((found[name], times[name][1]) for name in found)
        ]
    return tuple(rows)
