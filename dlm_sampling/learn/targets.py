"""Sum over rows the terms that the coefficients of every step are fitted to.

    interval    from the student's canvas x_k the teacher takes its own steps j = 1..n to t_{k+1};
                a = what phi multiplies, at x_k;  b_j = the same of the teacher's step j, where the
                token of x_k is still there
    trajectory  student and teacher run apart from one start and are compared at equal times;
                a at x_k and b at x*_k, both over t_k to t_{k+1}, as printed

    squared        A = <a, a>,  B = <a, b>          minimises |phi a - b|^2
    score-entropy  A = sum a,   B = sum b           minimises sum phi a - b log(phi a)

The paper prints the trajectory form with a distance that it does not name.  Its runs are
independent once their grids differ: then <a, b> is an inner product of two different texts, and phi
shrinks even between equal samplers.  The interval form, ours, compares from one canvas, so that phi
is the share by which a long step misjudges what its short steps do.  arXiv:2509.19962.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.learn.block_loop import BlockLoop
from dlm_sampling.samplers.lsd.solvers import Learned

TargetName = Literal["interval", "trajectory"]
DivergenceName = Literal["squared", "score-entropy"]


class Solvers(NamedTuple):
    """Hold one solver in three roles."""

    student: Learned  # with the coefficients so far
    plain: Learned  # the student's grid, coefficients 1
    teacher: Learned  # the finer grid, coefficients 1
    intervals: int  # M, of the student's grid
    finer: int  # n, teacher's intervals in one of the student's


class Sums(NamedTuple):
    """Hold the sums of every student step k and teacher step j, float64 [M, n]."""

    own: Tensor  # A
    other: Tensor  # B


Divergence = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _squared(a: Tensor, b: Tensor, common_a: Tensor, common_b: Tensor) -> tuple[Tensor, Tensor]:
    return (a * a).sum(), (common_a * common_b).sum()


def _score_entropy(
    a: Tensor, b: Tensor, common_a: Tensor, common_b: Tensor
) -> tuple[Tensor, Tensor]:
    return a.sum(), b.sum()


DIVERGENCES: Mapping[DivergenceName, Divergence] = {
    "squared": _squared,
    "score-entropy": _score_entropy,
}
"""a, b, and both once more at the positions that they have in common -> A, B."""


def from_intervals(loop: BlockLoop, solvers: Solvers, divergence: Divergence) -> Sums:
    """Return the sums of the interval form; M + M n forward passes per row."""
    student, plain, teacher, number, finer = solvers
    process, tokens = loop.predict.process, loop.first
    own = torch.zeros(number, finer, dtype=torch.float64)
    other = torch.zeros_like(own)
    for k in range(number):
        noisy = loop.canvas(tokens).unknown
        row = noisy.nonzero(as_tuple=True)[0]
        t, s = loop.times(plain, k, number)
        values = loop.values(plain, tokens, t, noisy)
        a = plain.intensity(process, values, tokens[noisy], t[row], s[row])
        following, current = loop.leap(student, tokens, k, number), tokens
        for j in range(finer):
            same = noisy & (current == tokens)
            if not bool(same.any()):
                break
            row, at = same.nonzero(as_tuple=True)[0], k * finer + j
            t, s = loop.times(teacher, at, number * finer)
            values = loop.values(teacher, current, t, same)
            b = teacher.expected(process, values, current[same], t[row], s[row])
            here = a[same[noisy]]
            own[k, j], other[k, j] = divergence(here, b, here, b)
            current = loop.leap(teacher, current, at, number * finer)
        tokens = following
    return Sums(own, other)


def from_trajectories(loop: BlockLoop, solvers: Solvers, divergence: Divergence) -> Sums:
    """Return the sums of the trajectory form, [M, 1]; M + M n forward passes per row."""
    student, plain, teacher, number, finer = solvers
    process = loop.predict.process
    own = torch.zeros(number, 1, dtype=torch.float64)
    other = torch.zeros_like(own)
    tokens = theirs = loop.first
    for k in range(number):
        t, s = loop.times(plain, k, number)
        tables: list[tuple[Tensor, Tensor]] = []
        for canvas in (tokens, theirs):
            noisy = loop.canvas(canvas).unknown
            row = noisy.nonzero(as_tuple=True)[0]
            values = loop.values(plain, canvas, t, noisy)
            table = plain.intensity(process, values, canvas[noisy], t[row], s[row])
            tables.append((noisy, table))
        (noisy, a), (noisier, b) = tables
        both = noisy & noisier
        common = a[both[noisy]], b[both[noisier]]
        own[k, 0], other[k, 0] = divergence(a, b, *common)
        tokens = loop.leap(student, tokens, k, number)
        for j in range(finer):
            theirs = loop.leap(teacher, theirs, k * finer + j, number * finer)
    return Sums(own, other)


Target = Callable[[BlockLoop, Solvers, Divergence], Sums]
TARGETS: Mapping[TargetName, Target] = {
    "interval": from_intervals,
    "trajectory": from_trajectories,
}


def coefficients(sums: Sums, *, linear: bool) -> Tensor:
    """Return the minimiser phi of every step, float64 [M]; 1 where nothing was left to compare.

    Chances of leaving add up over the teacher's steps, B_1 + ... + B_n over A_1: those that left
    cannot leave again.  Events of a solver that may have several in one step are counted per token
    that is still there, B_1 / A_1 + ... + B_n / A_n.

    Args:
        sums: over any number of rows.
        linear: whether chances add up, else events.
    """
    ratio = torch.where(sums.own > 0, sums.other / sums.own, 0.0).sum(1)
    if linear:
        ratio = sums.other.sum(1) / sums.own[:, 0]
    return torch.where(sums.own[:, 0] > 0, ratio, 1.0)
