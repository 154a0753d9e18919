"""Adapters of the guidance law fixtures: one-step laws, and chains under classifier-free guidance.

As in `laws`: a case in, the entries of `expected` that we compute out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from dlm_sampling.processes import Uniform, guidance
from dlm_sampling.schedules import LogLinear
from dlm_sampling.testing import EnumerableDenoiser, final_draw, product_law
from dlm_sampling.testing.laws import all_states
from tests.parity.laws_kernels import (
    Case,
    Result,
    Toys,
    distance,
    factorised,
    grid_of,
    propagate,
)
from tests.parity.laws_processes import Adapter, absorbing, read, tensor


def classifier_free(case: Case) -> Result:
    """Laws of the clean token are mixed under masking, those of the step under uniform noise."""
    x, tables, n = read(case)
    gamma, levels = case["params"]["gamma"], (n["alpha_t"], n["alpha_s"])
    both = tables["p0_cond"], tables["p0_uncond"]
    if case["process"] == "mask":
        p = guidance.classifier_free_law(*both, gamma)
        return {"p0_guided": p[..., :-1], "probs": absorbing(p).reverse(p, x, *levels)}
    steps = (Uniform().reverse(p, x, *levels) for p in both)
    return {"probs": guidance.classifier_free_law(*steps, gamma)}


def step_law(case: Case) -> tuple[Tensor, Tensor]:
    x, tables, n = read(case)
    p = tables["p0"]
    process = absorbing(p) if case["process"] == "mask" else Uniform()
    return x, process.reverse(p, x, n["alpha_t"], n["alpha_s"])


def exact_ratios(case: Case, x: Tensor, law: Tensor) -> Tensor:
    table = tensor(case["inputs"]["classifier_table"]).log()
    return guidance.candidate_log_ratios(lambda z: table[tuple(z.T)], x, law.shape[-1])


def classifier_based(case: Case) -> Result:
    x, law = step_law(case)
    ratios, gamma = exact_ratios(case, x, law), case["params"]["gamma"]
    return {"probs": guidance.classifier_based_law(law, ratios, gamma)}


def rate_preserving(case: Case) -> Result:
    x, law = step_law(case)
    ratios, gamma = exact_ratios(case, x, law), case["params"]["gamma"]
    return {"probs": guidance.rate_preserving_law(law, ratios, x, gamma)}


def first_order(case: Case) -> Result:
    x, law = step_law(case)
    ratios = guidance.first_order_log_ratios(tensor(case["inputs"]["grad_log_prob"]), x)
    return {"probs": guidance.classifier_based_law(law, ratios, case["params"]["gamma"])}


def one_per_forward(guided: Callable[[Tensor], Tensor], length: int, size: int) -> Tensor:
    """One position per pass in uniformly random order, [S ** L]."""
    states, law = all_states(length, size + 1), torch.zeros((size + 1) ** length).double()
    law[-1] = 1.0
    for _ in range(length):
        after = torch.zeros_like(law)
        for i in law.nonzero().squeeze(1).tolist():
            x = states[i : i + 1]
            masked = (x[0] == size).nonzero().squeeze(1)
            for column in masked:
                kept = torch.nn.functional.one_hot(x, size + 1).double()
                kept[0, column] = guided(x)[0, column]
                after += law[i] / len(masked) * product_law(kept)[0]
        law = after
    return final_draw(law, guided, length=length, vocab_size=size + 1)


def guided_chain(case: Case, toys: Toys) -> Result:
    conditional, unconditional = (toys[name] for name in case["toy"].split(","))
    gamma, length = case["params"]["gamma"], conditional.ndim
    models = EnumerableDenoiser(conditional), EnumerableDenoiser(unconditional)
    size, schedule = models[0].vocab_size, LogLinear(0.0)

    def guided(x: Tensor) -> Tensor:
        return guidance.classifier_free_law(models[0].probs(x), models[1].probs(x), gamma)

    def step(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        p = guided(x)
        return absorbing(p).reverse(p, x, schedule.alpha(t), schedule.alpha(s))

    product = guidance.classifier_free_law(conditional.flatten(), unconditional.flatten(), gamma)
    states, by_steps = all_states(length, size), {}
    for key in case["expected"]["by_steps"]:
        start = torch.zeros(len(states), dtype=torch.float64)
        start[-1] = 1.0
        grid = grid_of(case, int(key))
        law = propagate(start, states, factorised(step), grid)
        final = final_draw(law, guided, length=length, vocab_size=size)
        by_steps[key] = {
            "t_grid": grid, "law_final": final, "tv_to_product": distance(final, product)
        }  # fmt: skip
    single = one_per_forward(guided, length, size - 1)
    return {
        "by_steps": by_steps,
        "product_law": product,
        "law_one_per_forward": single,
        "tv_one_per_forward_to_product": distance(single, product),
    }


ONE_STEP: dict[str, Adapter] = {
    f"{noise}.{name}": adapter
    for noise, (name, adapter) in itertools.product(
        ("mask", "uniform"),
        (
            ("cfg", classifier_free),
            ("cbg_exact", classifier_based),
            ("cbg_rate_preserving", rate_preserving),
            ("cbg_first_order", first_order),
        ),
    )
}
CHAINS: dict[str, Callable[[Case, Toys], Result]] = {"cfg_ancestral": guided_chain}
