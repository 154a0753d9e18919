"""The solvers that `orders` measures, as exact laws of one step, and what propagates them.

A rule has a law of its first stage given x and, if it costs two forward passes, a law of its second
stage given x and x*; both factorise over positions, and their chain is a product of matrices.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_eval.convergence.worlds import MaskWorld, UniformWorld, World
from dlm_sampling.ops import Rng, Stream, row_seeds
from dlm_sampling.processes import conversions, jumps, theta, tweedie
from dlm_sampling.testing import product_law

THETA = 0.5

Jump = Callable[[Tensor, Tensor, Tensor], Tensor]
Combine = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
First = Callable[..., Tensor]
Second = Callable[..., Tensor]


@dataclass(frozen=True)
class Rule:
    """One solver.

    Fields:
        first: (world, x, t, s) -> law of the next canvas, or of x*, [N, L, V].
        second: (world, x, x*, t, s) -> law of the next canvas, [N, L, V]; None: one stage.
    """

    first: First
    second: Second | None = None

    @property
    def forwards(self) -> int:
        """Forward passes per interval."""
        return 1 if self.second is None else 2


def transition(rule: Rule, world: World, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Law of the canvas at s given each canvas x [N, L] at t, float64 [N, states]."""
    law = product_law(rule.first(world, x, t, s))
    if rule.second is None:
        return law
    row, star = law.nonzero(as_tuple=True)
    after = product_law(rule.second(world, x[row], world.states[star], t, s))
    return torch.zeros_like(law).index_add_(0, row, law[row, star, None] * after)


def chain(rule: Rule, world: World, intervals: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Every interval (t, s) with the law at its beginning, and last the law at the end (0, 0)."""
    law = world.start()
    for t, s in itertools.pairwise(world.grid(intervals)):
        yield law, t, s
        reached = law > 0
        law = law[reached] @ transition(rule, world, world.states[reached], t, s)
    yield law, torch.zeros(()), torch.zeros(())


def final_law(rule: Rule, world: World, intervals: int) -> Tensor:
    """Law of what the solver samples."""
    *_, (law, _, _) = chain(rule, world, intervals)
    return world.finish(law)


def simulate(rule: Rule, world: World, intervals: int, samples: int, seed: int) -> Tensor:
    """How often each state was sampled, int64 [states], by the library's random numbers."""
    rng = Rng.from_seeds(row_seeds(seed, samples))
    rows = torch.zeros(samples, dtype=torch.int64)
    state = _pick(world.start().unsqueeze(0), rows, rng.uniform(Stream.INITIAL, rows))
    size = len(world.states)
    for k, (t, s) in enumerate(itertools.pairwise(world.grid(intervals))):
        now = rng.with_step(torch.full_like(rows, k))
        first = product_law(rule.first(world, world.states, t, s))
        following = _pick(first, state, now.uniform(Stream.USER, rows))
        if rule.second is not None:
            pair = torch.cartesian_prod(torch.arange(size), torch.arange(size))
            x, star = world.states[pair[:, 0]], world.states[pair[:, 1]]
            second = product_law(rule.second(world, x, star, t, s))
            u = now.uniform(Stream.USER, rows, sub=1)
            following = _pick(second, state * size + following, u)
        state = following
    return torch.bincount(state, minlength=size)


def _pick(laws: Tensor, rows: Tensor, u: Tensor) -> Tensor:
    """Inverse of the distribution function: one state per row of `rows`, int64."""
    below = laws.cumsum(1)[:, :-1]
    return (below[rows] <= u.unsqueeze(1)).sum(1)


def clamped(world: World, intervals: int) -> float:
    """Expected number of jumps that the trapezoidal rule gains by clamping negative rates.

    The negative parts of a1 R* - a2 R_t, weighted with the law of (x, x*), integrated over the
    second stages of all intervals.
    """
    rule, (a1, a2), total = TRAPEZOIDAL, theta.trapezoidal_weights(THETA), 0.0
    *steps, _ = chain(rule, world, intervals)
    for law, t, s in steps:
        window = world.window(t, s)
        joint = law.unsqueeze(1) * product_law(rule.first(world, world.states, t, s))
        row, star = joint.nonzero(as_tuple=True)
        later = world.stage_rates(world.states[star], world.later(t, THETA * window))
        extrapolated = a1 * later - a2 * world.stage_rates(world.states, t)[row]
        # Where R* = 0 nothing can jump: the token itself, and positions that hold a token.
        negative = extrapolated.clamp_max(0.0) * (later > 0)
        weight = joint[row, star] * (1.0 - THETA) * window
        total -= float(weight @ negative.sum((1, 2)))
    return total


def by_rates(law: Jump) -> Rule:
    """A jump law at the rates of the beginning of the interval, in time."""

    def first(world: World, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return law(world.rates(x, t), x, t - s)

    return Rule(first)


def two_stages(
    combine: Combine, law: Jump = jumps.last_event_law, *, restart: bool = False
) -> Rule:
    """A theta method: leap over a share of the window, then jump at the combined rates.

    Args:
        combine: (R_t, R*, x, x*) -> rates of the second stage.
        law: how rates become a law, in both stages.
        restart: whether the second stage starts at x again and lasts the whole window.
    """

    def first(world: World, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return law(world.stage_rates(x, t), x, THETA * world.window(t, s))

    def second(world: World, x: Tensor, star: Tensor, t: Tensor, s: Tensor) -> Tensor:
        window = world.window(t, s)
        later = world.stage_rates(star, world.later(t, THETA * window))
        rates = combine(world.stage_rates(x, t), later, x, star)
        begin, share = (x, 1.0) if restart else (star, 1.0 - THETA)
        return law(rates, begin, share * window)

    return Rule(first, second)


def _trapezoidal(r: Tensor, later: Tensor, x: Tensor, star: Tensor) -> Tensor:
    return theta.trapezoidal_rates(r, later, THETA)


def _with_indicator(r: Tensor, later: Tensor, x: Tensor, star: Tensor) -> Tensor:
    return theta.trapezoidal_rates(r, later, THETA, indicator=True)


def _by_displacement(r: Tensor, later: Tensor, x: Tensor, star: Tensor) -> Tensor:
    """Channels are labelled by y - x mod S: from x* to y belongs to from x to x + (y - x*)."""
    size = r.shape[-1]
    channel = ((x - star).unsqueeze(-1) + torch.arange(size)) % size
    return theta.trapezoidal_rates(r.gather(-1, channel), later, THETA)


def _rk2(r: Tensor, later: Tensor, x: Tensor, star: Tensor) -> Tensor:
    return theta.rk2_rates(r, later, THETA)


TRAPEZOIDAL = two_stages(_trapezoidal)
EITHER = {
    "euler": by_rates(jumps.euler_law),
    "tau-leaping": by_rates(jumps.last_event_law),
    "theta-rk-2": two_stages(_rk2, restart=True),
    "theta-trapezoidal": TRAPEZOIDAL,
    "theta-trapezoidal, indicator": two_stages(_with_indicator),
    "theta-trapezoidal, rejection": two_stages(_trapezoidal, jumps.single_event_law),
}
"""Rules that only need rates."""


def _tweedie(w: UniformWorld, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return tweedie.tweedie_uniform(w.predict("log_score", x, t), x, w.alpha(t), w.alpha(s))


def _plug_in(w: UniformWorld, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return w.process.reverse(w.predict("leave_one_out", x, t), x, w.alpha(t), w.alpha(s))


def _mixture(w: UniformWorld, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return w.process.mixture(w.predict("posterior", x, t), x, w.alpha(t), w.alpha(s))


def _integrated(w: UniformWorld, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    jump = (w.alpha(s) - w.alpha(t)) / (1.0 - w.alpha(t))
    return jumps.mixture_law(w.predict("posterior", x, t), x, jump)


UNIFORM = {
    **EITHER,
    "tweedie": Rule(_tweedie),
    "ancestral": Rule(_plug_in),
    "mixture": Rule(_mixture),
    "integrated jump": Rule(_integrated),
    "theta-trapezoidal, displacement": two_stages(_by_displacement),
}


def _mask_tweedie(w: MaskWorld, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    mask = w.process.mask_token_id
    score = conversions.score_from_masked_law(w.predict(x), x, w.alpha(t), mask)
    return tweedie.tweedie_absorbing(score, x, w.alpha(t), w.alpha(s), mask)


def _mask_ancestral(w: MaskWorld, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return w.process.reverse(w.predict(x), x, w.alpha(t), w.alpha(s))


def _mask_integrated(w: MaskWorld, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return jumps.last_event_law(w.stage_rates(x, t), x, w.window(t, s))


MASKS = {
    **EITHER,
    "tweedie": Rule(_mask_tweedie),
    "ancestral": Rule(_mask_ancestral),
    "integrated jump": Rule(_mask_integrated),
}
