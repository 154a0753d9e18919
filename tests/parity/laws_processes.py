"""Adapters of the one-step law fixtures of the noise processes and their solvers.

As in `laws`: a case in, the entries of `expected` that we compute out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.processes import Absorbing, Uniform, conversions, flow, jumps
from dlm_sampling.processes.coefficients import APPLY
from dlm_sampling.processes.planned import noise_from_clean, planned_rates
from dlm_sampling.processes.psi import psi_law
from dlm_sampling.processes.tables import value_at
from dlm_sampling.processes.theta import rk2_rates, trapezoidal_rates, trapezoidal_weights
from dlm_sampling.processes.tweedie import tweedie_absorbing, tweedie_uniform
from dlm_sampling.testing.oracles import absorbing_score_rates, next_position, next_token

Case = dict[str, Any]
Result = dict[str, Any]
Adapter = Callable[[Case], Result]
UNIFORM = Uniform()


def tensor(value: Any) -> Tensor:
    """Float64, or int64 where the values are."""
    made = torch.tensor(value)
    return torch.tensor(value, dtype=torch.float64) if made.is_floating_point() else made


def read(case: Case) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
    """x_t, the tables of the case as probabilities, and its numbers as tensors.

    Tables over the S data symbols of the mask process get a mask column of zeros.
    """
    x, tables = tensor(case["inputs"]["x_t"]), {}
    for name, value in case["inputs"].items():
        if name.startswith("log_"):
            table = tensor(value).exp()
            short = case["process"] == "mask" and name != "log_score"
            tables[name.removeprefix("log_")] = (
                torch.nn.functional.pad(table, (0, 1)) if short else table
            )
    numbers = {k: tensor(v) for k, v in case["params"].items() if isinstance(v, float | list)}
    return x, tables, numbers


def absorbing(table: Tensor) -> Absorbing:
    """The process whose mask is the last column."""
    return Absorbing(table.shape[-1] - 1)


# Masks.


def mask_ancestral(case: Case) -> Result:
    x, tables, n = read(case)
    p = tables["p0"]
    return {"probs": absorbing(p).reverse(p, x, n["alpha_t"], n["alpha_s"])}


def mask_tweedie(case: Case) -> Result:
    x, tables, n = read(case)
    s = tables["score"]
    return {"probs": tweedie_absorbing(s, x, n["alpha_t"], n["alpha_s"], s.shape[-1] - 1)}


def mask_tweedie_final(case: Case) -> Result:
    x, tables, _ = read(case)
    s = tables["score"]
    return {"probs": conversions.carried_over(s, x, s.shape[-1] - 1)[..., :-1]}


def mask_euler(case: Case) -> Result:
    x, tables, n = read(case)
    s = tables["score"]
    rates = absorbing_score_rates(absorbing(s), s, x, n["sigma_rate"])
    return {"probs": jumps.euler_law(rates, x, n["h"])}


def mask_lsd(case: Case) -> Result:
    x, tables, n = read(case)
    p, base, apply = tables["p0"], case["params"]["base"], APPLY[case["params"]["apply"]]
    process = absorbing(p)

    def law(phi: Tensor) -> Tensor:
        if base == "tau_leap":
            rates = process.reverse_rates(p, x, n["hazard"])
            return jumps.last_event_law(apply(rates, phi), x, torch.ones(()))
        score = conversions.score_from_masked_law(p, x, n["alpha_t"], process.mask_token_id)
        rates = absorbing_score_rates(process, apply(score, phi), x, n["sigma_rate"])
        return jumps.euler_law(rates, x, n["h"])

    return {"probs": torch.stack([law(phi) for phi in n["phi"]])}


def mask_tau(law: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Adapter:
    def adapt(case: Case) -> Result:
        x, tables, n = read(case)
        p = tables["p0"]
        return {"probs": law(absorbing(p).reverse_rates(p, x, n["c_t"]), x, n["h"])}

    return adapt


def mask_intensity(case: Case) -> Result:
    x, tables, n = read(case)
    p = tables["p0"]
    return {"rates": n["h"] * absorbing(p).reverse_rates(p, x, n["c_t"])}


def mask_corrector_rates(case: Case) -> Result:
    x, tables, n = read(case)
    p = tables["p0"]
    process = absorbing(p)
    return {
        "rates": process.reverse_rates(p, x, n["c_t"]) + process.forward_rates(x, n["beta_t"], p)
    }


def corrector_law(rates: Adapter) -> Adapter:
    def adapt(case: Case) -> Result:
        x, _, n = read(case)
        return {"probs": jumps.last_event_law(rates(case)["rates"], x, n["h"])}

    return adapt


def mask_theta(rule: Callable[..., Tensor], restart: bool, clock: str) -> Adapter:
    """The second stage of a theta method on masks, in hazard time or with the rates c p."""

    def adapt(case: Case) -> Result:
        x, tables, n = read(case)
        star, theta = tensor(case["inputs"]["x_star"]), case["params"]["theta"]
        process = absorbing(tables["p_t"])
        c_t, c_rho = (torch.ones(()),) * 2 if clock == "hazard" else (n["c_t"], n["c_rho"])
        window = n["hazard"] if clock == "hazard" else n["h"]
        now = process.reverse_rates(tables["p_t"], x, c_t)
        later = process.reverse_rates(tables["p_rho"], star, c_rho)
        begin = x if restart else star
        masked = (begin == process.mask_token_id).unsqueeze(-1)
        rates = rule(now, later, theta) * masked
        length = window if restart else (1 - theta) * window
        result = {
            "stage2_rates": rates[..., :-1],
            "probs": jumps.last_event_law(rates, begin, length),
        }
        if "stage1_probs" in case["expected"]:
            result["stage1_probs"] = jumps.last_event_law(now, x, theta * window)
        return result

    return adapt


# Flows, on masks and on uniform noise.


def clean(case: Case) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """x, the posterior with tokens carried over under masking, the numbers."""
    x, tables, n = read(case)
    p = tables["p0"]
    return x, absorbing(p).clean_law(p, x) if case["process"] == "mask" else p, n


def flow_library(case: Case) -> Result:
    x, p, n = clean(case)
    c = n["kappa_rate"] / (1 - n["alpha_t"])
    return {"probs": jumps.mixture_law(p, x, -torch.expm1(-n["h"] * c))}


def flow_integrated(case: Case) -> Result:
    x, p, n = clean(case)
    jump = (n["alpha_s"] - n["alpha_t"]) / (1 - n["alpha_t"])
    return {"probs": jumps.mixture_law(p, x, jump)}


def flow_shortcut(case: Case) -> Result:
    x, p, n = clean(case)
    return {"probs": flow.shortcut_law(p, x, n["alpha_t"], n["alpha_s"])}


def flow_divergence_free(case: Case) -> Result:
    x, p, n = clean(case)
    k, rate = n["alpha_t"], n["kappa_rate"]
    free = n["div_free"] * rate / (k * (1 - k))
    towards, around = n["h"] * (rate / (1 - k) + free * k), n["h"] * free * (1 - k)
    return {"probs": flow.conditional_jump_law(p, x, n["source"], towards, around)}


def psi(case: Case) -> Result:
    x, tables, n = read(case)
    p = tables["p0"]
    process = absorbing(p) if case["process"] == "mask" else UNIFORM
    return {"probs": psi_law(process, p, x, n["alpha_t"], n["alpha_s"], float(n["kappa"]))}


# Uniform noise.


def uniform_plug_in(case: Case) -> Result:
    x, tables, n = read(case)
    return {"probs": UNIFORM.reverse(tables["p0"], x, n["alpha_t"], n["alpha_s"])}


def uniform_mixture(case: Case) -> Result:
    x, tables, n = read(case)
    return {"probs": UNIFORM.mixture(tables["p0"], x, n["alpha_t"], n["alpha_s"])}


def uniform_conversions(case: Case) -> Result:
    x, tables, n = read(case)
    loo, alpha = tables["p0"], n["alpha_t"]
    post = conversions.convert_uniform(loo, x, alpha, "leave_one_out", "posterior")
    score = conversions.convert_uniform(post, x, alpha, "posterior", "log_score")
    back = conversions.convert_uniform(post, x, alpha, "posterior", "leave_one_out")
    again = conversions.convert_uniform(score, x, alpha, "log_score", "leave_one_out")
    torch.testing.assert_close(again, loo, atol=1e-12, rtol=0)
    rho = noise_from_clean(value_at(loo, x).squeeze(-1), alpha, loo.shape[-1])
    return {"post": post, "score": score, "rates": score, "rho": rho, "loo_from_post": back}


def uniform_tweedie(case: Case) -> Result:
    x, tables, n = read(case)
    s = n.get("alpha_s", torch.ones(()).double())
    return {"probs": tweedie_uniform(tables["score"], x, n["alpha_t"], s)}


def uniform_rates(case: Case) -> Tensor:
    x, tables, n = read(case)
    return UNIFORM.reverse_rates(tables["score"], x, n["sigma_rate"])


def uniform_jump(law: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Adapter:
    def adapt(case: Case) -> Result:
        x, _, n = read(case)
        return {"probs": law(uniform_rates(case), x, n["h"])}

    return adapt


def uniform_intensity(case: Case) -> Result:
    return {"rates": read(case)[2]["h"] * uniform_rates(case)}


def uniform_lsd(case: Case) -> Result:
    x, _, n = read(case)
    rates, apply = uniform_rates(case), APPLY[case["params"]["apply"]]
    return {
        "probs": torch.stack(
            [jumps.last_event_law(apply(rates, phi), x, n["h"]) for phi in n["phi"]]
        )
    }


def uniform_corrector_rates(case: Case) -> Result:
    x, tables, n = read(case)
    score, beta = tables["score"], n["beta_t"]
    return {"rates": UNIFORM.reverse_rates(score, x, beta) + UNIFORM.forward_rates(x, beta, score)}


def uniform_theta(rule: Callable[..., Tensor], restart: bool, **options: bool) -> Adapter:
    def adapt(case: Case) -> Result:
        x, _, n = read(case)
        star, theta = tensor(case["inputs"]["x_star"]), case["params"]["theta"]
        now, later = tensor(case["inputs"]["rates_t"]), tensor(case["inputs"]["rates_rho"])
        begin, length = (x, n["h"]) if restart else (star, (1 - theta) * n["h"])
        rates = rule(now, later, theta, **options)
        rates = rates.scatter(-1, begin.unsqueeze(-1), 0.0)
        return {"stage2_rates": rates, "probs": jumps.last_event_law(rates, begin, length)}

    return adapt


def planned(case: Case) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    x, tables, n = read(case)
    return x, tables["denoiser"], tensor(case["inputs"]["noise_prob"]), n


def ddpd_rates(case: Case) -> Result:
    x, p, rho, n = planned(case)
    return {"rates": planned_rates(p, rho, x, n["c_t"])}


def ddpd_tau(case: Case) -> Result:
    x, p, rho, n = planned(case)
    return {"probs": jumps.last_event_law(planned_rates(p, rho, x, n["c_t"]), x, n["h"])}


def ddpd_integrated(case: Case) -> Result:
    x, p, rho, n = planned(case)
    jump = (n["alpha_s"] - n["alpha_t"]) / (1 - n["alpha_t"])
    return {"probs": jumps.mixture_law(p, x, jump * rho)}


def ddpd_select(case: Case) -> Result:
    logits = tensor(case["inputs"]["denoiser_logits"])[..., :-1]
    planner, temperature = tensor(case["inputs"]["planner_logits"]), case["params"]["temperature"]
    return {
        "probs": next_position(planner, temperature),
        "destination": next_token(logits, temperature),
    }


def mask_trapezoidal(clock: str) -> Adapter:
    adapt = mask_theta(trapezoidal_rates, restart=False, clock=clock)

    def with_weights(case: Case) -> Result:
        result = adapt(case)
        if "alpha1" in case["params"]:
            a1, a2 = trapezoidal_weights(case["params"]["theta"])
            assert abs(a1 - case["params"]["alpha1"]) < 1e-12
            assert abs(a2 - case["params"]["alpha2"]) < 1e-12
        return result

    return with_weights


ONE_STEP: dict[str, Adapter] = {
    "mask.psi": psi,
    "mask.tweedie": mask_tweedie,
    "mask.euler": mask_euler,
    "mask.euler_clamped": mask_euler,
    "mask.tweedie_final": mask_tweedie_final,
    "mask.tweedie_from_p0": mask_ancestral,
    "mask.lsd_rate_euler": mask_lsd,
    "mask.lsd_rate_tau": mask_lsd,
    "mask.lsd_log_score_euler": mask_lsd,
    "mask.tau_intensity": mask_intensity,
    "mask.tau_last_event_wins": mask_tau(jumps.last_event_law),
    "mask.tau_reject_multiple": mask_tau(jumps.single_event_law),
    "mask.corrector_rates": mask_corrector_rates,
    "mask.corrector_law": corrector_law(mask_corrector_rates),
    "mask.dfm_euler_library_jump": flow_library,
    "mask.dfm_euler_integrated_jump": flow_integrated,
    "mask.fsdfm_jump": flow_shortcut,
    "mask.dfm_euler_library_divfree": flow_divergence_free,
    "mask.theta_trapezoidal_integrated": mask_trapezoidal("hazard"),
    "mask.theta_trapezoidal_literal": mask_trapezoidal("time"),
    "mask.theta_rk2_integrated": mask_theta(rk2_rates, restart=True, clock="hazard"),
    "mask.theta_rk2_literal": mask_theta(rk2_rates, restart=True, clock="time"),
    "uniform.psi": psi,
    "uniform.dfm_euler_library_jump": flow_library,
    "uniform.dfm_euler_integrated_jump": flow_integrated,
    "uniform.fsdfm_jump": flow_shortcut,
    "uniform.dfm_euler_library_divfree": flow_divergence_free,
    "uniform.ancestral_loo": uniform_plug_in,
    "uniform.ancestral_post": uniform_mixture,
    "uniform.conversions": uniform_conversions,
    "uniform.tweedie": uniform_tweedie,
    "uniform.tweedie_final": uniform_tweedie,
    "uniform.euler": uniform_jump(jumps.euler_law),
    "uniform.euler_clamped": uniform_jump(jumps.euler_law),
    "uniform.tau_last_event_wins": uniform_jump(jumps.last_event_law),
    "uniform.tau_intensity": uniform_intensity,
    "uniform.lsd_rate_tau": uniform_lsd,
    "uniform.corrector_rates": uniform_corrector_rates,
    "uniform.corrector_law": corrector_law(uniform_corrector_rates),
    "uniform.ddpd_rates": ddpd_rates,
    "uniform.ddpd_tau_leap": ddpd_tau,
    "uniform.ddpd_integrated": ddpd_integrated,
    "uniform.ddpd_time_free_select": ddpd_select,
    "uniform.theta_trapezoidal": uniform_theta(trapezoidal_rates, restart=False),
    "uniform.theta_trapezoidal_indicator": uniform_theta(
        trapezoidal_rates, restart=False, indicator=True
    ),
    "uniform.theta_rk2": uniform_theta(rk2_rates, restart=True),
}
