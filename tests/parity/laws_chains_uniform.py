"""Adapters of the chain law fixtures under uniform noise and general matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dlm_sampling.processes import Uniform, conversions, flow, jumps
from dlm_sampling.processes.planned import noise_from_clean
from dlm_sampling.processes.psi import psi_law
from dlm_sampling.processes.tables import value_at
from dlm_sampling.processes.theta import rk2_rates, trapezoidal_rates
from dlm_sampling.samplers import Planned
from dlm_sampling.samplers.planned import Jump
from dlm_sampling.schedules import (
    Exponential,
    LogLinear,
    Schedule,
    masking_rate,
    reverse_rate,
)
from dlm_sampling.testing import oracles, product_law
from dlm_sampling.testing.laws import all_states
from tests.parity.laws_kernels import (
    ONE,
    Case,
    Kernel,
    Result,
    Rule,
    Toys,
    distance,
    factorised,
    grid_of,
    propagate,
    two_stages,
)

UNIFORM = Uniform()


@dataclass(frozen=True)
class UniformWorld:
    """The exact predictions of a toy whose positions are noised by a kernel q(x | x0)."""

    joint: Tensor
    schedule: Schedule

    @property
    def size(self) -> int:
        return self.joint.shape[0]

    def kernel(self, alpha: Tensor) -> Tensor:
        eye = torch.eye(self.size, dtype=torch.float64)
        return alpha * eye + (1 - alpha) / self.size

    def marginal(self, kernel: Tensor) -> Tensor:
        """p_t, [S ** L]."""
        points = all_states(self.joint.ndim, self.size)
        return self.joint.flatten() @ product_law(kernel[points])

    def prediction(self, x: Tensor, kernel: Tensor, *, without: bool) -> Tensor:
        """P(x0_i | x_t), or without its own token, by enumeration, [N, L, S]."""
        points = all_states(self.joint.ndim, self.size)
        factors = torch.stack(
            [kernel[points[:, j]][:, x[:, j]].T for j in range(x.shape[1])], 1
        )  # [N, L, points]
        laws = []
        for i in range(x.shape[1]):
            others = torch.cat([factors[:, :i], factors[:, i + 1 :]], 1) if without else factors
            weight = self.joint.flatten() * others.prod(1)
            chosen = torch.nn.functional.one_hot(points[:, i], self.size).double()
            laws.append(weight @ chosen / weight.sum(1, keepdim=True))
        return torch.stack(laws, 1)

    def loo(self, x: Tensor, t: Tensor) -> Tensor:
        return self.prediction(x, self.kernel(self.schedule.alpha(t)), without=True)

    def post(self, x: Tensor, t: Tensor) -> Tensor:
        return self.prediction(x, self.kernel(self.schedule.alpha(t)), without=False)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        alpha = self.schedule.alpha(t)
        return conversions.convert_uniform(self.loo(x, t), x, alpha, "leave_one_out", "log_score")

    def rates(self, x: Tensor, t: Tensor) -> Tensor:
        beta = masking_rate(self.schedule, t)
        return UNIFORM.reverse_rates(self.score(x, t), x, beta)

    def c(self, t: Tensor) -> Tensor:
        return reverse_rate(self.schedule, t)

    def jump(self, t: Tensor, s: Tensor) -> Tensor:
        """(alpha_s - alpha_t) / (1 - alpha_t)."""
        a = self.schedule.alpha(t)
        return (self.schedule.alpha(s) - a) / (1 - a)


def uniform_chain(rule: Rule) -> Callable[[Case, Toys], Result]:
    def adapt(case: Case, toys: Toys) -> Result:
        joint, params = toys[case["toy"]], case["params"]
        schedule = Exponential(params["rate"]) if "rate" in params else LogLinear(0.0)
        world = UniformWorld(joint, schedule)
        states, by_steps = all_states(joint.ndim, world.size), {}
        start = world.marginal(world.kernel(schedule.alpha(ONE)))
        for key in case["expected"]["by_steps"]:
            law = propagate(start, states, rule(case, world), grid_of(case, int(key)))
            by_steps[key] = {"law_final": law, "tv": distance(law, joint)}
        return {"init_law": start, "by_steps": by_steps}

    return adapt


def uniform_reverse(kind: str, form: Callable[..., Tensor]) -> Rule:
    def rule(case: Case, world: UniformWorld) -> Kernel:
        predict = getattr(world, kind)
        alpha = world.schedule.alpha
        return factorised(lambda x, t, s: form(predict(x, t), x, alpha(t), alpha(s)))

    return rule


def uniform_jump(law: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Rule:
    def rule(case: Case, world: UniformWorld) -> Kernel:
        return factorised(lambda x, t, s: law(world.rates(x, t), x, t - s))

    return rule


def uniform_theta(combine: Callable[..., Tensor], restart: bool, **options: bool) -> Rule:
    def rule(case: Case, world: UniformWorld) -> Kernel:
        theta = case["params"]["theta"]

        def first(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return jumps.last_event_law(world.rates(x, t), x, theta * (t - s))

        def second(x: Tensor, star: Tensor, t: Tensor, s: Tensor) -> Tensor:
            later = world.rates(star, t - theta * (t - s))
            rates = combine(world.rates(x, t), later, theta, **options)
            begin, share = (x, 1.0) if restart else (star, 1 - theta)
            return jumps.last_event_law(rates, begin, share * (t - s))

        return two_stages(first, second)

    return rule


def uniform_corrected(case: Case, world: UniformWorld) -> Kernel:
    scale = case["params"]["corrector_scale"]

    def correct(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        beta, score = masking_rate(world.schedule, s), world.score(x, s)
        rates = world.rates(x, s) + UNIFORM.forward_rates(x, beta, score)
        return jumps.last_event_law(rates, x, scale * (t - s))

    predict = uniform_jump(jumps.last_event_law)(case, world)
    return lambda x, t, s: (
        predict(x, t, s) @ product_law(correct(all_states(x.shape[1], world.size), t, s))
    )


def uniform_psi(case: Case, world: UniformWorld) -> Kernel:
    alpha, kappa = world.schedule.alpha, case["params"]["kappa"]
    return factorised(
        lambda x, t, s: psi_law(UNIFORM, world.loo(x, t), x, alpha(t), alpha(s), kappa)
    )


def ends_with_posterior(step: Callable[[UniformWorld], Kernel]) -> Rule:
    """Flows: the last step draws every position from the posterior."""

    def rule(case: Case, world: UniformWorld) -> Kernel:
        inner = step(world)
        return factorised(lambda x, t, s: inner(x, t, s) if s > 0 else world.post(x, t))

    return rule


def flow_library(world: UniformWorld) -> Kernel:
    return lambda x, t, s: jumps.mixture_law(
        world.post(x, t), x, -torch.expm1(-(t - s) * world.c(t))
    )


def flow_integrated(world: UniformWorld) -> Kernel:
    return lambda x, t, s: jumps.mixture_law(world.post(x, t), x, world.jump(t, s))


def flow_shortcut(world: UniformWorld) -> Kernel:
    alpha = world.schedule.alpha
    return lambda x, t, s: flow.shortcut_law(world.post(x, t), x, alpha(t), alpha(s))


def planned(jump: Jump) -> Rule:
    """The sampler's own law, at the exact plan."""
    sampler = Planned(schedule=LogLinear(0.0), jump=jump)

    def rule(case: Case, world: UniformWorld) -> Kernel:
        def step(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            loo = world.loo(x, t)
            here, alpha = value_at(loo, x).squeeze(-1), world.schedule.alpha(t)
            noise = noise_from_clean(here, alpha, loo.shape[-1])
            return sampler.next_law(loo, noise, x, t, s, last=bool(s == 0))

        return factorised(step)

    return rule


def d3pm(rule: Callable[..., Tensor], *, without: bool) -> Callable[[Case, Toys], Result]:
    def adapt(case: Case, toys: Toys) -> Result:
        joint, steps = toys[case["toy"]], toys["Q"]
        world = UniformWorld(joint, LogLinear(0.0))
        states = all_states(joint.ndim, world.size)
        products = [torch.eye(world.size, dtype=torch.float64)]
        for q in steps:
            products.append(products[-1] @ q)
        law = start = world.marginal(products[-1])
        after = []
        for k in reversed(range(len(steps))):
            p = world.prediction(states, products[k + 1], without=without)
            law = law @ product_law(rule(p, states, steps[k], products[k]))
            after.append(law)
        return {
            "init_law": start,
            "law_after_each_step": torch.stack(after),
            "law_final": law,
            "tv": distance(law, joint),
        }

    return adapt


# One token of fifteen symbols, time from 12 to 0.


def token_chain(rule: Rule) -> Callable[[Case, Toys], Result]:
    def adapt(case: Case, toys: Toys) -> Result:
        p0, total = toys[case["toy"]], case["params"]["T"]
        world, states = UniformWorld(p0, Exponential(1.0)), all_states(1, len(p0))
        start = torch.full_like(p0, 1.0 / len(p0))

        def final(steps: int) -> Tensor:
            grid = total * (1 - torch.arange(steps + 1, dtype=torch.float64) / steps)
            return propagate(start, states, rule(case, world), grid)

        laws = {key: final(int(key)) for key in case["expected"]["by_steps"]}
        by_steps = {k: {"law_final": p, "kl": (p0 * (p0 / p).log()).sum()} for k, p in laws.items()}
        return {
            "by_steps": by_steps,
            "tv": {k: distance(p, p0) for k, p in laws.items()},
        }

    return adapt


UNIFORM_RULES: dict[str, Rule] = {
    "ancestral_loo": uniform_reverse("loo", UNIFORM.reverse),
    "ancestral_post": uniform_reverse("post", UNIFORM.mixture),
    "wrong_plug_post": uniform_reverse("post", UNIFORM.reverse),
    "wrong_mixture_loo": uniform_reverse("loo", UNIFORM.mixture),
    "euler": uniform_jump(jumps.euler_law),
    "tau": uniform_jump(jumps.last_event_law),
    "trap": uniform_theta(trapezoidal_rates, restart=False),
    "trap_indicator": uniform_theta(trapezoidal_rates, restart=False, indicator=True),
    "rk2": uniform_theta(rk2_rates, restart=True),
    "pc_tau": uniform_corrected,
    "psi": uniform_psi,
    "dfm_library": ends_with_posterior(flow_library),
    "dfm_integrated": ends_with_posterior(flow_integrated),
    "fsdfm": ends_with_posterior(flow_shortcut),
    "ddpd_tau": planned("last"),
    "ddpd_integrated": planned("integrated"),
}
TOKEN = ("tau", "euler", "trap", "rk2")

UNIFORM_CHAINS: dict[str, Callable[[Case, Toys], Result]] = {
    **{name: uniform_chain(rule) for name, rule in UNIFORM_RULES.items()},
    "d3pm_loo": d3pm(oracles.reverse_from_leave_one_out, without=True),
    "d3pm_post": d3pm(oracles.reverse_from_posterior, without=False),
}
TOKEN_CHAINS = {name: token_chain(UNIFORM_RULES[name]) for name in TOKEN}
