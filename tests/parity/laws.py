"""Adapters of the law fixtures: a case in, our exact tables out, by the case's `sampler` name.

Every function returns the entries of `expected` that it computes; the runner compares those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.samplers import Ancestral, DFMCorrector, DreamOrigin, FirstHitting, LLaDA, ReMDM
from dlm_sampling.samplers.base import even_quota
from dlm_sampling.samplers.remdm import Cap, Confidence, ForwardBackward, Loop, RemaskRate, Rescale
from dlm_sampling.schedules import LINEAR, HalfCosine, LogLinear, Schedule, grid_time
from dlm_sampling.testing import EnumerableDenoiser, exact_chain_law, final_draw, product_law
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import Canvas, Clock, Crossing, TokenLaw

Case = dict[str, Any]
Result = dict[str, Any]
Toys = dict[str, Any]


def mask_canvas(x_t: Tensor, mask: int) -> Canvas:
    """A canvas in which every position may be written."""
    return Canvas(
        x_t, x_t == mask, torch.ones_like(x_t, dtype=torch.bool), torch.zeros(len(x_t)).long(), mask
    )


def with_mask_column(log_p0: Tensor) -> Tensor:
    """Append the mask column, -inf."""
    return torch.nn.functional.pad(log_p0, (0, 1), value=float("-inf"))


def one_step(case: Case) -> tuple[Canvas, Tensor]:
    """Canvas and log p0 [B, L, S + 1] of a one-step case."""
    log_p0 = torch.tensor(case["inputs"]["log_p0"], dtype=torch.float64)
    return mask_canvas(torch.tensor(case["inputs"]["x_t"]), log_p0.shape[-1]), with_mask_column(
        log_p0
    )


def scalar(value: float) -> Tensor:
    """A float64 tensor that broadcasts."""
    return torch.tensor(value, dtype=torch.float64)


# One step.


def ancestral_step(case: Case) -> Result:
    canvas, log_p0 = one_step(case)
    p = case["params"]
    return {
        "probs": Ancestral(LINEAR).transition_probs(
            canvas, log_p0, 1 - scalar(p["alpha_t"]), 1 - scalar(p["alpha_s"])
        )
    }


def nucleus_step(case: Case) -> Result:
    canvas, log_p0 = one_step(case)
    p = case["params"]
    law = ops.filtered_log_law(log_p0, TokenLaw(top_p=p["top_p"], crossing=p["crossing"]))
    probs = Ancestral(LINEAR).transition_probs(
        canvas, law, 1 - scalar(p["alpha_t"]), 1 - scalar(p["alpha_s"])
    )
    return {"probs": probs, "p0_truncated": law.exp()[..., :-1]}


def remdm_step(rate: Callable[[Case], RemaskRate]) -> Callable[[Case], Result]:
    def adapt(case: Case) -> Result:
        canvas, log_p0 = one_step(case)
        p, confidence = case["params"], None
        if "confidence_prob" in case["inputs"]:
            confidence = torch.tensor(case["inputs"]["confidence_prob"], dtype=torch.float64)
        t, s = scalar(p["t"]).reshape(1, 1), scalar(p["s"]).reshape(1, 1)
        result = {"probs": ReMDM(rate(p)).transition_probs(canvas, log_p0, t, s, confidence)}
        if "sigma" in case["expected"]:
            known = (
                confidence if confidence is not None else torch.zeros(canvas.tokens.shape).double()
            )
            sigma = rate(p)(t, s, known, canvas.committed).sigma
            result["sigma"] = (
                sigma if isinstance(case["expected"]["sigma"], list) else sigma.squeeze()
            )
        return result

    return adapt


def cap(p: Case) -> RemaskRate:
    return Cap(p["eta"])


def rescale(p: Case) -> RemaskRate:
    return Rescale(p["eta"])


def conf(p: Case) -> RemaskRate:
    return Confidence()


def loop(p: Case) -> RemaskRate:
    return Loop(p["eta"], p["t_on"], p["t_off"], p["alpha_on"])


def loop_overshoot(p: Case) -> RemaskRate:
    return Loop(p["eta"], p["t_on"], p["t_off"], p["alpha_on"], overshoot=True)


def forward_backward(p: Case) -> RemaskRate:
    return ForwardBackward()


def dfm_corrector_step(case: Case) -> Result:
    canvas, log_p0 = one_step(case)
    sampler, t = DFMCorrector(), scalar(case["params"]["t"])
    s = sampler.following(t, torch.tensor(case["params"]["steps"]))
    return {
        "s": s,
        "probs": sampler.transition_probs(canvas, log_p0, t.reshape(1, 1), s.reshape(1, 1)),
    }


# Chains whose step factorises over positions.

CHAIN_SCHEDULES: dict[str, Schedule] = {"linear": LogLinear(0.0), "cosine": HalfCosine()}
StepLaw = Callable[[Canvas, Tensor, int, int], Tensor]


def chain(case: Case, toys: Toys, step_law: StepLaw, law: TokenLaw | None = None) -> Result:
    """Compose the exact one-step laws; also the final draw of what is left, by law and greedily."""
    toy = EnumerableDenoiser(toys[case["toy"]])
    size, length = toy.vocab_size, toys[case["toy"]].ndim

    def log_law(states: Tensor) -> Tensor:
        log_p0 = toy(states).values.log_softmax(-1)
        return log_p0 if law is None else ops.filtered_log_law(log_p0, law)

    def posterior(states: Tensor) -> Tensor:
        return log_law(states).exp()

    by_steps: dict[str, Any] = {}
    for key in case["expected"]["by_steps"]:
        steps = int(key)

        def probs(states: Tensor, k: int, steps: int = steps) -> Tensor:
            return step_law(mask_canvas(states, size - 1), log_law(states), k, steps)

        states_law = exact_chain_law(probs, steps, length=length, vocab_size=size)
        by_steps[key] = {
            "law_states": states_law,
            "law_final": final_draw(states_law, posterior, length=length, vocab_size=size),
            "law_final_greedy": final_draw(
                states_law, posterior, length=length, vocab_size=size, greedy=True
            ),
        }
    return {"by_steps": by_steps}


def times(k: int, steps: int, t_end: float) -> tuple[Tensor, Tensor]:
    """The grid of the samplers themselves, t and s of step k, [1, 1]."""
    total = torch.tensor([[steps]])
    return grid_time(torch.tensor([[k]]), total, t_end), grid_time(
        torch.tensor([[k + 1]]), total, t_end
    )


def ancestral_chain(case: Case, toys: Toys) -> Result:
    p = case["params"]
    sampler = Ancestral(CHAIN_SCHEDULES[p["schedule"]], p["t_end"])
    crossing: Crossing = p.get("crossing", "include")
    law = TokenLaw(top_p=p["top_p"], crossing=crossing) if "top_p" in p else None

    def step(canvas: Canvas, log_p0: Tensor, k: int, steps: int) -> Tensor:
        return sampler.transition_probs(canvas, log_p0, *times(k, steps, p["t_end"]))

    return chain(case, toys, step, law)


def origin_chain(case: Case, toys: Toys) -> Result:
    sampler = DreamOrigin(case["params"]["t_end"])

    def step(canvas: Canvas, log_p0: Tensor, k: int, steps: int) -> Tensor:
        clock = Clock(torch.full_like(canvas.start, k), torch.full_like(canvas.start, steps))
        return sampler.transition_probs(canvas, log_p0, clock)

    return chain(case, toys, step)


def remdm_chain(rate: Callable[[Case], RemaskRate]) -> Callable[[Case, Toys], Result]:
    def adapt(case: Case, toys: Toys) -> Result:
        sampler = ReMDM(rate(case["params"]), case["params"]["t_end"])

        def step(canvas: Canvas, log_p0: Tensor, k: int, steps: int) -> Tensor:
            return sampler.transition_probs(canvas, log_p0, *times(k, steps, sampler.t_end))

        return chain(case, toys, step)

    return adapt


def dfm_corrector_chain(case: Case, toys: Toys) -> Result:
    """The chain runs on the sampler's own grid, whose length is not the number of planned steps."""
    toy, sampler = EnumerableDenoiser(toys[case["toy"]]), DFMCorrector()
    size, length = toy.vocab_size, toys[case["toy"]].ndim
    by_steps: dict[str, Any] = {}
    for key in case["expected"]["by_steps"]:
        grid = torch.tensor(sampler.grid(int(key)), dtype=torch.float64).reshape(-1, 1, 1)

        def step(states: Tensor, k: int, grid: Tensor = grid) -> Tensor:
            log_p0 = toy(states).values.log_softmax(-1)
            return sampler.transition_probs(
                mask_canvas(states, size - 1), log_p0, grid[k], grid[k + 1]
            )

        law = exact_chain_law(step, len(grid) - 1, length=length, vocab_size=size)
        by_steps[key] = {
            "t_grid": grid.flatten(),
            "law_states": law,
            "law_final": final_draw(law, toy.probs, length=length, vocab_size=size),
            "law_final_greedy": final_draw(
                law, toy.probs, length=length, vocab_size=size, greedy=True
            ),
        }
    return {"by_steps": by_steps}


def remdm_conf_chain(case: Case, toys: Toys) -> Result:
    """The law over (tokens, stored confidences): each branch of a token carries its probability."""
    toy = EnumerableDenoiser(toys[case["toy"]])
    size, length = toy.vocab_size, toys[case["toy"]].ndim
    states = all_states(length, size)
    place = size ** torch.arange(length - 1, -1, -1)
    by_steps: dict[str, Any] = {}
    for key in case["expected"]["by_steps"]:
        sampler, steps = ReMDM(Confidence(), case["params"]["t_end"]), int(key)
        law = {(tuple([size - 1] * length), tuple([0.0] * length)): 1.0}
        for k in range(steps):
            following: dict[Any, float] = {}
            for (tokens, stored), mass in law.items():
                x = torch.tensor([tokens])
                log_p0 = toy(x).values.log_softmax(-1)
                confidence = torch.tensor([stored], dtype=torch.float64)
                table = sampler.transition_probs(
                    mask_canvas(x, size - 1), log_p0, *times(k, steps, sampler.t_end), confidence
                )
                weights = product_law(table)[0]
                for index in weights.nonzero().squeeze(1).tolist():
                    y = states[index].tolist()
                    kept = tuple(
                        0.0
                        if y[i] == size - 1
                        else stored[i]
                        if tokens[i] != size - 1
                        else float(log_p0[0, i, y[i]].exp())
                        for i in range(length)
                    )
                    entry = (tuple(y), kept)
                    following[entry] = following.get(entry, 0.0) + mass * float(weights[index])
            law = following
        total = torch.zeros(len(states), dtype=torch.float64)
        for (tokens, _), mass in law.items():
            total[int((torch.tensor(tokens) * place).sum())] += mass
        by_steps[key] = {
            "law_states": total,
            "law_final": final_draw(total, toy.probs, length=length, vocab_size=size),
            "law_final_greedy": final_draw(
                total, toy.probs, length=length, vocab_size=size, greedy=True
            ),
        }
    return {"by_steps": by_steps}


# Chains that write a fixed number of uniformly random positions per forward.


def random_groups(case: Case, toys: Toys, sizes: list[int]) -> Result:
    """Average over the uniformly random subset of masked positions of each size, exactly."""
    toy = EnumerableDenoiser(toys[case["toy"]])
    size, length = toy.vocab_size, toys[case["toy"]].ndim
    states = all_states(length, size)
    law = torch.zeros(len(states), dtype=torch.float64)
    law[-1] = 1.0
    for k in sizes:
        following = torch.zeros_like(law)
        for index in law.nonzero().squeeze(1).tolist():
            x = states[index : index + 1]
            masked = (x[0] == size - 1).nonzero().squeeze(1)
            subsets = torch.combinations(masked, k) if k else torch.zeros(1, 0, dtype=torch.int64)
            for subset in subsets:
                stay = torch.nn.functional.one_hot(x, size).double()
                stay[0, subset] = toy.probs(x)[0, subset].double()
                following += law[index] / len(subsets) * product_law(stay)[0]
        law = following
    return {"law_final": final_draw(law, toy.probs, length=length, vocab_size=size)}


def quotas_of(case: Case, toys: Toys) -> list[int]:
    """The group sizes that LLaDA's quota gives for as many steps."""
    total, steps = torch.tensor([toys[case["toy"]].ndim]), len(case["params"]["group_sizes"])
    return [
        int(even_quota(total, Clock(torch.tensor([i]), torch.tensor([steps])))[0])
        for i in range(steps)
    ]


def random_quota(case: Case, toys: Toys) -> Result:
    assert not LLaDA("random").revises
    return random_groups(case, toys, quotas_of(case, toys))


def first_hitting(case: Case, toys: Toys) -> Result:
    """One token per forward, or the groups of the case: hits of one group share a forward."""
    assert FirstHitting().schedule_length(3) == 3
    return random_groups(case, toys, case["params"]["group_sizes"])


ONE_STEP: dict[str, Callable[[Case], Result]] = {
    "mask.ancestral": ancestral_step,
    "mask.ancestral_final": ancestral_step,
    "mask.nucleus_exclude_crossing": nucleus_step,
    "mask.nucleus_keep_crossing": nucleus_step,
    "mask.remdm_cap": remdm_step(cap),
    "mask.remdm_rescale": remdm_step(rescale),
    "mask.remdm_conf": remdm_step(conf),
    "mask.forward_backward": remdm_step(forward_backward),
    "mask.forward_backward_clamped": remdm_step(forward_backward),
    "mask.dfm_corrector": dfm_corrector_step,
    "mask.remdm_loop": remdm_step(loop),
    "mask.remdm_loop_overshoot_released": remdm_step(loop_overshoot),
    "mask.remdm_loop_overshoot_clamped": remdm_step(loop),
}
CHAINS: dict[str, Callable[[Case, Toys], Result]] = {
    "ancestral": ancestral_chain,
    "origin_last_all": origin_chain,
    "remdm_cap": remdm_chain(cap),
    "remdm_rescale": remdm_chain(rescale),
    "remdm_loop": remdm_chain(loop),
    "forward_backward": remdm_chain(forward_backward),
    "dfm_corrector": dfm_corrector_chain,
    "remdm_conf": remdm_conf_chain,
    "first_hitting": first_hitting,
    "first_hitting_parallel": first_hitting,
    "random_order_quota": random_quota,
}
