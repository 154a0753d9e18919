"""The kernels on the device against the torch specification on the CPU, and against exact laws.

Tokens must be equal except where the race itself is a near-tie: where, in float64, the clocks of
the two tokens (or of their runs, or their tiles) differ by less than NEAR of their size.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from dlm_kernels import operators
from floor import noise
from machine import Report
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.ops.philox import exponential_from_words, random_words
from dlm_sampling.types import TokenLaw

NEAR = 1e-5
CLOSE = 2e-5  # of the record; the device's exponentials are good to 2 units in the last place
_TILE, _RUN = 1024, 32

LAWS = {
    "model": TokenLaw(),
    "temperature 0.7": TokenLaw(0.7, suppressed=(0, 1023, 1024)),
    "temperature 0": TokenLaw(0.0, suppressed=(5,)),
    "top-k 50": TokenLaw(top_k=50),
    "top-p 0.9": TokenLaw(top_p=0.9),
    "top-p 0.9, excluding": TokenLaw(1.5, top_p=0.9, crossing="exclude"),
    "all filters": TokenLaw(1.2, top_k=300, top_p=0.95, min_p=0.01),
}


def run(report: Report) -> None:
    """All checks."""
    many = [(1, 1025, torch.bfloat16), (2, 1500, torch.float32)]
    names = ["model", "temperature 0", "all filters"] if report.dry else list(LAWS)
    if report.dry:
        many = many[:1]
    if not report.small:
        many = [(10_000, 50_258, torch.bfloat16)]
        many += [
            (count, vocab, dtype)
            for vocab in (1000, 50_258, 126_464, 151_936, 152_064)
            for count in (1, 33)
            for dtype in (torch.float32, torch.bfloat16, torch.float16)
        ]
    for rows, vocab, dtype in many:
        for name in names if rows < 1000 else names[:1]:
            if report.late:
                return
            tokens(report, rows, vocab, dtype, name)
    strides_and_pairs(report)
    laws_and_divergence(report)
    fused_head(report)
    positions(report)
    statistics(report)
    if not report.small:
        graph_and_compile(report)


def normal(rows: int, vocab: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Logits on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocab, generator=generator) * 3.0).to(dtype)


def both(report: Report, source: Any, device_source: Any, count: int, **options: Any) -> Any:
    """The draw of the specification on the CPU, and that of the kernels on the device."""
    moved = {k: v.to(report.device) if isinstance(v, Tensor) else v for k, v in options.items()}
    expected = ops.draw(source, **noise(count, torch.device("cpu")), **options)
    found = operators.draw(device_source, **noise(count, report.device), **moved)
    return expected, [field.cpu() for field in found]


def compared(logits: Tensor, law: TokenLaw, expected: Any, found: list[Tensor]) -> dict[str, Any]:
    """How tokens and records differ."""
    where = (expected.token != found[0]).nonzero()[:, 0].tolist()
    pairs = [(i, race_gap(logits[i], law, i, expected.token[i], found[0][i])) for i in where]
    far = [i for i, gap in pairs if abs(gap) > NEAR]
    same = expected.token == found[0]
    errors = [
        ((a - b).abs() / (1.0 + b.abs()))[same].nan_to_num(0.0).max().item() if same.any() else 0.0
        for a, b in zip(found[1:], expected[1:], strict=True)
    ]
    return {
        "rows": len(same),
        "different_tokens": len(where),
        "not_near_ties": len(far),
        "largest_error": max(errors),
        "passed": not far and max(errors) <= CLOSE,
    }


def race_gap(logits: Tensor, law: TokenLaw, row: int, one: Tensor, other: Tensor) -> float:
    """By how much, relatively, the first of two tokens of a row wins where their ways part."""
    weight = ops.log_probs(logits[None].double(), law=law).exp()[0]
    tiles = -(-len(weight) // _TILE)
    weight = torch.nn.functional.pad(weight, (0, tiles * _TILE - len(weight)))
    address = [v[row : row + 1] for v in noise(row + 1, torch.device("cpu")).values()]
    words = random_words(*address, stream=0, lanes=2 * _RUN + tiles)
    clock = exponential_from_words(*words)[0]
    levels = [
        (weight.view(tiles, -1).sum(1) / clock[2 * _RUN :], _TILE),
        (weight.view(-1, _RUN).sum(1) / clock[_RUN : 2 * _RUN].repeat(tiles), _RUN),
        (weight / clock[:_RUN].repeat(tiles * _RUN), 1),
    ]
    for speed, width in levels:
        a, b = speed[int(one) // width], speed[int(other) // width]
        if int(one) // width != int(other) // width:
            return float((a - b) / torch.maximum(a, b))
    return 0.0


def tokens(report: Report, rows: int, vocab: int, dtype: torch.dtype, name: str) -> None:
    """One shape and law, both kinds of statistics."""
    law = LAWS[name]
    logits = normal(rows, vocab, dtype)
    there = logits.to(report.device)
    for kind in ("law", "model")[: 1 if report.dry else 2] if rows < 1000 else ("model",):
        expected, found = both(report, logits, there, rows, law=law, statistics=kind)
        label = {"vocab": vocab, "dtype": str(dtype).removeprefix("torch."), "statistics": kind}
        report.add(f"draw, {name}", **label, **compared(logits, law, expected, found))


def strides_and_pairs(report: Report) -> None:
    """Columns that are not dense, rows by index, a temperature per row, two logits as one."""
    vocab = 300 if report.dry else 1030 if report.small else 50_258
    logits, other = normal(8, vocab, torch.float32), normal(8, vocab, torch.float32, 1)
    rows = torch.tensor([3, 3, 0, 7])
    there = logits.T.contiguous().to(report.device).T
    expected, found = both(report, logits, there, 4, rows=rows)
    report.add("strides and row index", **compared(logits[rows], TokenLaw(), expected, found))
    narrow = logits.bfloat16()
    memory = torch.empty(narrow.numel() + 1, dtype=narrow.dtype, device=report.device)
    begun = memory[1:].view(narrow.shape).copy_(narrow)
    expected, found = both(report, narrow, begun, 8)
    report.add("rows that begin anywhere", **compared(narrow, TokenLaw(), expected, found))
    temperatures = torch.tensor([0.0, 0.5, 1.0, 20.0])
    expected, found = both(report, logits, there, 4, rows=rows, temperatures=temperatures)
    report.add("temperature per row", passed=torch.equal(expected.token, found[0]))
    norms = (logits.logsumexp(-1), other.logsumexp(-1))
    for name, make in {
        "guidance": lambda a, b, n: ops.Guided(a, b, 1.5),
        "remainder": lambda a, b, n: ops.Remainder(a, b, *n, (2.0, 1.0)),
    }.items():
        pair = make(logits, other, norms)
        moved = make(there, other.to(report.device), [n.to(report.device) for n in norms])
        expected, found = both(report, pair, moved, 4, rows=rows)
        combined = pair.rows().fetch(rows)
        report.add(name, **compared(combined, TokenLaw(), expected, found))


def fused_head(report: Report) -> None:
    """Tokens and records without logits, against the specification over the logits.

    Hidden states and weight are multiples of 1/4, so that the logits are the same in every order
    of summation.
    """
    shapes = [(3, 16, 70)]
    if not report.small:
        shapes += [(33, 768, 50_258), (300, 128, 50_258), (1100, 64, 126_464), (2, 4096, 32_000)]
    for rows, width, vocab in shapes:
        generator = torch.Generator().manual_seed(rows)
        hidden, weight = (
            (torch.randint(-2, 3, (n, width), generator=generator, dtype=torch.int8) / 4).bfloat16()
            for n in (rows, vocab)
        )
        place, there = noise(rows, report.device), [x.to(report.device) for x in (hidden, weight)]
        for name, law, rounded in (
            ("float32 logits", TokenLaw(0.7, suppressed=(0, vocab - 1)), False),
            ("temperature 0", TokenLaw(0.0), True),
            ("bfloat16 logits", TokenLaw(), True),
        )[: 1 if report.dry else 3]:
            logits = hidden.float() @ weight.float().T
            logits = logits.bfloat16() if rounded else logits
            expected = ops.draw(logits, **noise(rows, torch.device("cpu")), law=law)
            found = operators.head_draw(*there, **place, law=law, rounded=rounded)
            found = [field.cpu() for field in found]
            label = {"width": width, "vocab": vocab}
            report.add(f"fused head, {name}", **label, **compared(logits, law, expected, found))


def laws_and_divergence(report: Report) -> None:
    """Whole laws, given tokens, KL; ties at the boundary of the filters."""
    vocab = 300 if report.dry else 1030 if report.small else 50_258
    logits, other = normal(2, vocab, torch.float32).round(decimals=1), normal(2, vocab, torch.half)
    given = torch.tensor([5, vocab - 1])
    for name in ["all filters"] if report.dry else LAWS:
        law = LAWS[name]
        expected = ops.log_probs(logits, law=law)
        found = operators.log_probs(logits.to(report.device), law=law).cpu()
        one = operators.log_prob_of(
            logits.to(report.device), given.to(report.device), law=law
        ).cpu()
        error = (found - expected).abs().nan_to_num(0.0, posinf=0.0).max().item()
        passed = torch.equal(found.isneginf(), expected.isneginf()) and error <= CLOSE * 20
        passed &= torch.equal(one, found.gather(1, given[:, None])[:, 0])
        report.add(f"log-law, {name}", passed=passed, largest_error=error)
    x, y = logits.half(), other
    norms = [v.float().logsumexp(-1) for v in (x, y)]
    expected = ops.divergence(x, y, *norms)
    arguments = [v.to(report.device) for v in (x, y, *norms)]
    error = (operators.divergence(*arguments).cpu() - expected).abs().max().item()
    report.add("divergence", passed=error <= CLOSE * 20, largest_error=error)


def positions(report: Report) -> None:
    """K3 with every rule, many ties."""
    for length in (37,) if report.small else (37, 1000, 2048, 20_000):
        generator = torch.Generator().manual_seed(length)
        score = torch.randn(6, length, generator=generator).mul(2).round().div(2)
        eligible = torch.rand(6, length, generator=generator) < 0.7
        k, cost = torch.tensor([0, 1, 4, length // 3, length, 7]), score.abs()
        rng = ops.Rng.from_seeds(range(6), device=report.device)
        here = ops.Rng.from_seeds(range(6))
        s, e, n, c = (v.to(report.device) for v in (score, eligible, k, cost))
        pairs = {
            "top-k": (
                operators.top_k_positions(s, e, n),
                ops.top_k_positions(score, eligible, k),
            ),
            "threshold": (
                operators.threshold_positions(s, e, 1.0, at_least=n),
                ops.threshold_positions(score, eligible, 1.0, at_least=k),
            ),
            "budget": (
                operators.budget_positions(s, c, e, 2.0),
                ops.budget_positions(score, cost, eligible, 2.0),
            ),
            "without replacement": (
                operators.stochastic_positions(s, e, n, rng, stream=2),
                ops.stochastic_positions(score, eligible, k, here),
            ),
        }
        for name, (found, expected) in pairs.items():
            report.add(f"K3, {name}", length=length, passed=torch.equal(found.cpu(), expected))


def statistics(report: Report) -> None:
    """Chi-square against the exact law, and a tail that float32 Gumbel noise never reaches."""
    count, vocab = (30, 12) if report.small else (5_000_000, 1000)
    logits = normal(1, vocab, torch.float32)
    counts = torch.zeros(vocab)
    for start in range(0, count, 500_000):
        size = min(500_000, count - start)
        counts += torch.bincount(many(report, logits, start, size), minlength=vocab)
    p = chi_square_p(counts, logits[0].double().softmax(-1))
    report.add("chi-square", draws=count, p_value=p, passed=p > 1e-4)
    if report.small:
        return
    tail, gap, count = 262_144, 20.5, 100_000
    logits = torch.full((1, tail + 1), -gap)
    logits[0, 5000] = 0.0
    hits = int((many(report, logits, 0, count) != 5000).sum())
    mean = count * tail * math.exp(-gap) / (1.0 + tail * math.exp(-gap))
    passed = abs(hits - mean) <= 4.0 * math.sqrt(mean)
    report.add("far tail", draws=count, hits=hits, expected=mean, passed=passed)


def many(report: Report, logits: Tensor, start: int, count: int) -> Tensor:
    """Draws from one row at positions start, start + 1, ..."""
    zero = torch.zeros(count, dtype=torch.int64, device=report.device)
    where = torch.arange(start, start + count, device=report.device)
    there = logits.to(report.device)
    drawn = operators.draw(
        there, keys=zero + 9, positions=where, steps=zero, rows=zero, check=False
    )
    return drawn.token.cpu()


def chi_square_p(counts: Tensor, law: Tensor) -> float:
    """p-value; cells that expect fewer than 5 are pooled."""
    expected = law * counts.sum().double()
    rare = expected < 5.0
    want = torch.cat([expected[~rare], expected[rare].sum()[None]])
    seen = torch.cat([counts[~rare], counts[rare].sum()[None]]).double()
    seen, want = seen[want > 0], want[want > 0]
    statistic = ((seen - want) ** 2 / want).sum()
    freedom = torch.tensor((len(want) - 1) / 2.0, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2.0))


def graph_and_compile(report: Report) -> None:
    """A captured step draws anew at every replay, as the eager one does; torch.compile agrees."""
    logits = normal(64, 50_258, torch.bfloat16).to(report.device)
    place = noise(64, report.device)
    law = TokenLaw(0.8, top_p=0.9, suppressed=(3,))
    call = partial(operators.draw, logits, law=law, check=False)
    expected = []
    for step in range(3):
        place["steps"].fill_(step)
        expected.append(call(**place).token.clone())
    place["steps"].zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(**place)
        place["steps"] += 1
    equal = []
    place["steps"].zero_()
    for want in expected:
        graph.replay()
        equal.append(torch.equal(captured.token, want))
    report.add("CUDA graph", passed=all(equal) and not torch.equal(expected[0], expected[1]))
    place["steps"].zero_()
    whole = torch.compile(call, fullgraph=True)
    report.add("torch.compile", passed=torch.equal(whole(**place).token, expected[0]))
