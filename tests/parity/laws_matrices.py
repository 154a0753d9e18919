"""Adapters of the one-step law fixtures of general transition and rate matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dlm_sampling.testing import oracles
from tests.parity.laws_processes import Adapter, Case, Result, absorbing, read, tensor


def general_rates(case: Case) -> Result:
    x, tables, n = read(case)
    rates, transition = (tensor(case["inputs"][k]) for k in ("Q", "transition"))
    return {"rates": n["h"] * oracles.reverse_rates(tables["p0"], x, rates, transition)}


def general_corrector(case: Case) -> Result:
    x, _, n = read(case)
    forward = oracles.forward_rates(x, tensor(case["inputs"]["Q"]))
    return {"rates": general_rates(case)["rates"] + n["h"] * forward}


def d3pm(rule: Callable[..., Tensor], *, mask: bool = False) -> Adapter:
    def adapt(case: Case) -> Result:
        x, tables, _ = read(case)
        p = torch.nn.functional.pad(tables["p0"], (0, 1)) if mask else tables["p0"]
        p = absorbing(p).clean_law(p, x) if mask else p
        step, before = (tensor(case["inputs"][k]) for k in ("Q_t", "Qbar_s"))
        return {"probs": rule(p, x, step, before)}

    return adapt


ONE_STEP: dict[str, Adapter] = {
    "uniform.reverse_rates_general": general_rates,
    "uniform.corrector_rates_general": general_corrector,
    "matrix.reverse_rates_general": general_rates,
    "matrix.corrector_rates_general": general_corrector,
    "matrix.d3pm_uniform_loo": d3pm(oracles.reverse_from_leave_one_out),
    "matrix.d3pm_uniform_post": d3pm(oracles.reverse_from_posterior),
    "matrix.d3pm_absorb_loo": d3pm(oracles.reverse_from_leave_one_out, mask=True),
    "matrix.d3pm_banded_loo": d3pm(oracles.reverse_from_leave_one_out),
    "matrix.d3pm_banded_post": d3pm(oracles.reverse_from_posterior),
    "matrix.d3pm_random_loo": d3pm(oracles.reverse_from_leave_one_out),
    "matrix.d3pm_random_post": d3pm(oracles.reverse_from_posterior),
}
