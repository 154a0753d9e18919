"""The committed orders of convergence are those of the code, and are the ones that theory says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dlm_eval.convergence import plan as orders_plan
from dlm_eval.convergence import rules as orders_rules
from dlm_eval.convergence.plan import experiments, largest_difference, record, slope
from dlm_eval.convergence.rules import final_law, simulate

from dlm_sampling.processes import theta
from dlm_sampling.testing import chi_square, tv

ROOT = Path(__file__).resolve().parents[3]
RESULT: dict[str, Any] = json.loads((ROOT / "eval/results/orders.json").read_text())
PARTS: dict[str, Any] = {part["name"]: part for part in RESULT["experiments"]}
PLAN = experiments()
ROWS = [(name, row) for name, part in PARTS.items() for row in part["records"]]
KEPT = {(name, row["method"]): row for name, row in ROWS}
TRAPEZOIDAL = "theta-trapezoidal"
MOST = 16  # intervals that the test propagates again; finer grids are in the file alone


def close(value: float, kept: float) -> bool:
    return math.isclose(value, kept, rel_tol=1e-6, abs_tol=1e-12)


def differing(name: str, method: str) -> list[str]:
    """What is not as in the file, on the coarse grids."""
    kept = KEPT[name, method]
    grids = [n for n in kept["intervals"] if n <= MOST]
    fresh = record(PLAN[name], method, grids)
    keys = [key for key in ("tv", "kl", "clamped") if key in kept]
    return [
        f"{key} at {n}: {fresh[key][i]} and not {kept[key][i]}"
        for key in keys
        for i, n in enumerate(grids)
        if not close(fresh[key][i], kept[key][i])
    ]


def errors_on(name: str, method: str, grids: list[int]) -> list[float]:
    """The total variation, propagated here."""
    rule, world = PLAN[name].pairings()[method]
    return [tv(final_law(rule, world, n), world.joint.flatten()) for n in grids]


def test_the_file_holds_every_solver_in_every_world() -> None:
    assert list(PARTS) == list(PLAN)
    for name, experiment in PLAN.items():
        rows = PARTS[name]["records"]
        assert [row["method"] for row in rows] == list(experiment.pairings())
        assert [row["wrong"] for row in rows] == [m in experiment.wrong for m in
                                                  experiment.pairings()]  # fmt: skip
        law = torch.tensor(PARTS[name]["law"], dtype=torch.float64)
        torch.testing.assert_close(law, experiment.world.joint, atol=1e-15, rtol=0)


@pytest.mark.parametrize("name", PLAN)
def test_the_committed_errors_are_those_of_the_code(name: str) -> None:
    wrong = {method: differing(name, method) for method in PLAN[name].pairings()}
    assert not any(wrong.values()), wrong


def test_another_rule_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of another theta: the method is of first order, and nothing is as in the file."""
    combine = theta.trapezoidal_rates
    monkeypatch.setattr(theta, "trapezoidal_rates", lambda r, s, _, **kw: combine(r, s, 0.4, **kw))
    assert differing("token-mild", TRAPEZOIDAL)
    grids = [32, 64, 128]
    assert slope(grids, errors_on("token-mild", TRAPEZOIDAL, grids)) < 1.5


@pytest.mark.parametrize(("name", "row"), ROWS, ids=lambda v: v if isinstance(v, str) else "")
def test_the_committed_slopes_are_those_of_the_errors(name: str, row: dict[str, Any]) -> None:
    low, high = PARTS[name]["window"]
    inside = [i for i, n in enumerate(row["intervals"]) if low <= n <= high]
    assert row["nfe"] == [row["forwards"] * n for n in row["intervals"]]
    if max(row["tv"]) <= orders_plan.EXACT:
        assert "slope_tv" not in row
        return
    for key in ("tv", "kl"):
        fitted = slope([row["nfe"][i] for i in inside], [row[key][i] for i in inside])
        assert close(row[f"slope_{key}"], fitted)
        assert close(row[f"last_slope_{key}"], math.log2(row[key][-2] / row[key][-1]))


ORDERS = [
    ("token-mild", "euler", 0.9, 1.1),
    ("token-mild", "tau-leaping", 0.9, 1.1),
    ("token-mild", "theta-rk-2", 0.9, 1.1),
    ("token-mild", TRAPEZOIDAL, 1.9, 2.1),
    ("token-mild", "theta-trapezoidal, rejection", 0.9, 1.15),
    ("token", "tau-leaping", 0.9, 1.1),
    ("token", "theta-rk-2", 0.9, 1.1),
    ("token", TRAPEZOIDAL, 0.9, 1.2),
    ("masks-mild", "euler", 0.9, 1.1),
    ("masks-mild", "tau-leaping", 0.9, 1.1),
    ("masks-mild", "theta-rk-2", 0.9, 1.1),
    ("masks-mild", TRAPEZOIDAL, 1.9, 2.5),
    ("masks", "euler", 0.9, 1.1),
    ("masks", "theta-rk-2", 0.9, 1.1),
    ("masks", TRAPEZOIDAL, 0.9, 1.15),
]


@pytest.mark.parametrize(("name", "method", "low", "high"), ORDERS)
def test_orders_over_the_whole_window(name: str, method: str, low: float, high: float) -> None:
    """32 to 256 intervals for a token, 16 to 128 for masks; the finest is read, not propagated."""
    least, most = PLAN[name].window
    row = KEPT[name, method]
    kept = {n: row["tv"][i] for i, n in enumerate(row["intervals"]) if least <= n <= most}
    *coarse, _ = grids = sorted(kept)
    for n, error in zip(coarse, errors_on(name, method, coarse), strict=True):
        assert close(error, kept[n])
    assert low < slope([row["forwards"] * n for n in grids], [kept[n] for n in grids]) < high


@pytest.mark.parametrize(
    ("name", "method", "low", "high"),
    [
        ("token-mild", "theta-trapezoidal, indicator", 0.9, 1.2),
        ("token-mild", "theta-trapezoidal, displacement", 0.9, 1.1),
        ("token-mild", "theta-trapezoidal, rejection", 0.9, 1.05),
        ("token", "euler", 0.9, 1.1),
        ("token", TRAPEZOIDAL, 0.9, 1.2),
        ("pair-mild", TRAPEZOIDAL, 1.9, 2.1),
        ("pair-mild", "ancestral", 0.9, 1.1),
        ("pair-mild", "integrated jump", 0.9, 1.1),
        ("pair", TRAPEZOIDAL, 0.9, 1.2),
        ("masks-mild", "theta-trapezoidal, rejection", 1.9, 2.1),
    ],
)
def test_orders_over_the_last_doubling(name: str, method: str, low: float, high: float) -> None:
    """Where the fit still sees coarse grids: from the file, whose coarse part is checked above."""
    assert low < KEPT[name, method]["last_slope_tv"] < high


def test_the_drop_of_the_order_is_the_clamp() -> None:
    """Nothing is clamped where the order is two; else the share falls only as the step."""
    for name in ("token-mild", "pair-mild", "masks-mild"):
        assert max(KEPT[name, TRAPEZOIDAL]["clamped"]) < 1e-9
    for name in ("token", "pair", "masks"):
        clamped = KEPT[name, TRAPEZOIDAL]["clamped"]
        assert 1e-4 < clamped[-1] < clamped[-2] < 2.1 * clamped[-1]


def test_the_page_says_what_the_file_says_at_equal_cost() -> None:
    for name in PLAN:
        trapezoidal, rk2 = KEPT[name, TRAPEZOIDAL], KEPT[name, "theta-rk-2"]
        tau = KEPT[name, "tau-leaping"]
        for nfe, error in zip(rk2["nfe"], rk2["tv"], strict=True):
            assert error > tau["tv"][tau["nfe"].index(nfe)]
        others = [row for where, row in ROWS if where == name and "slope_tv" in row]
        others = [r for r in others if not r["wrong"] and not r["method"].startswith(TRAPEZOIDAL)]
        beaten_by = [r["method"] for r in others if r["tv"][-1] < trapezoidal["tv"][-1]]
        assert beaten_by == (["euler"] if name == "token" else [])
    for name in ("pair-mild", "pair"):
        ancestral = KEPT[name, "ancestral"]
        assert ancestral["tv"][ancestral["nfe"].index(16)] < KEPT[name, TRAPEZOIDAL]["tv"][0]


def test_wrong_pairings_stall_and_the_right_ones_do_not() -> None:
    """On the coarse grids these errors were propagated again above; 512 intervals here."""
    for method, (rule, world) in PLAN["pair"].wrong.items():
        error = tv(final_law(rule, world, 512), world.joint.flatten())
        assert error > 0.15, method
        assert KEPT["pair", method]["last_slope_tv"] < 0.05
    for row in PARTS["pair"]["records"]:
        assert row["wrong"] or row["tv"][-1] < 0.01


@pytest.mark.parametrize("name", PLAN)
def test_solvers_that_are_one_and_the_same(name: str) -> None:
    experiment = replace(PLAN[name], intervals=(8, 32))
    methods = orders_plan.IDENTICAL[type(experiment.world)]
    assert largest_difference(experiment, methods) < 1e-12
    assert RESULT["identities"][name]["largest difference"] < 1e-12
    assert RESULT["identities"][name]["methods"] == list(methods)
    assert largest_difference(experiment, (methods[0], "tau-leaping")) > 1e-4


# Computed independently of this code, in another implementation, to the digits given.
PRINTED = {
    ("token", "tau-leaping", "kl"): ".325 .159 .0693 .0286 .0115 .00462 .00182",
    ("token", TRAPEZOIDAL, "kl"): ".0714 .0259 .0098 .0038 .00149 5.65e-4 1.96e-4",
    ("token-mild", TRAPEZOIDAL, "kl"): "5.1e-4 3.7e-5 2.3e-6 1.4e-7 8.2e-9 5.0e-10 3.1e-11",
    ("masks-mild", "ancestral", "tv"): "1.66e-2 8.38e-3 4.21e-3 2.11e-3 1.06e-3 5.28e-4",
    ("masks-mild", TRAPEZOIDAL, "tv"): "4.2e-3 1.03e-3 2.4e-4 5.1e-5 1.0e-5 2.0e-6",
}


@pytest.mark.parametrize(("key", "printed"), PRINTED.items(), ids=str)
def test_the_known_numbers_to_their_last_digit(key: tuple[str, str, str], printed: str) -> None:
    name, method, error = key
    for text, value in zip(printed.split(), KEPT[name, method][error], strict=False):
        digits = len(text.split("e")[0].replace(".", "").lstrip("0"))
        assert float(f"{value:.{digits - 1}e}") == float(text)


def test_the_ends_of_the_known_series() -> None:
    rk2, masks = KEPT["token", "theta-rk-2"]["kl"], PARTS["masks"]["records"]
    assert [f"{rk2[0]:.3g}", f"{rk2[6]:.3g}"] == ["0.206", "0.00218"]
    ends = {row["method"]: (f"{row['tv'][0]:.3g}", f"{row['tv'][5]:.3g}") for row in masks}
    assert ends["ancestral"] == ("0.0795", "0.00256")
    assert ends[TRAPEZOIDAL] == ("0.026", "0.000396")


def sampled(method: str, intervals: int) -> dict[str, Any]:
    rows = RESULT["sampled"]["records"]
    return next(r for r in rows if (r["method"], r["intervals"]) == (method, intervals))


@pytest.mark.parametrize("method", ["tau-leaping", TRAPEZOIDAL])
def test_sampling_again_gives_the_committed_counts(method: str) -> None:
    experiment, facts = PLAN["token"], RESULT["sampled"]
    rule, kept = experiment.rules[method], torch.tensor(sampled(method, 8)["counts"])
    counts = simulate(rule, experiment.world, 8, facts["samples"], facts["seed"])
    assert int((counts - kept).abs().sum()) <= 4  # a sum may round across a boundary


def test_samples_follow_the_law_of_their_own_chain() -> None:
    experiment = PLAN["token"]
    for row in RESULT["sampled"]["records"]:
        counts = torch.tensor(row["counts"])
        law = final_law(experiment.rules[row["method"]], experiment.world, row["intervals"])
        assert chi_square(counts, law).p > 1e-4
        assert chi_square(counts, experiment.world.joint).p < 1e-20  # not yet the data's
        assert row["exact_kl"] == pytest.approx(orders_plan.kl(experiment.world.joint, law))
    inside = [r["low"] <= r["exact_kl"] <= r["high"] for r in RESULT["sampled"]["records"]]
    assert sum(inside) >= len(inside) - 2


def test_simulation_and_propagation_agree_on_several_tokens() -> None:
    experiment = PLAN["pair"]
    for method in ("euler", TRAPEZOIDAL):
        rule, world = experiment.rules[method], experiment.world
        counts = simulate(rule, world, 4, 20_000, seed=1)
        assert chi_square(counts, final_law(rule, world, 4)).p > 1e-4
        assert chi_square(counts, final_law(orders_rules.UNIFORM["ancestral"], world, 4)).p < 1e-6
