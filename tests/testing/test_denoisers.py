import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dlm_sampling.testing import (
    EnumerableDenoiser,
    FixtureToy,
    SupportDenoiser,
    all_states,
    chi_square,
    count_states,
    exact_chain_law,
    final_draw,
    load_toys,
    product_law,
    tv,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
LAWS = json.loads((FIXTURES / "laws" / "toys.json").read_text())["toys"]
CHAINS = json.loads((FIXTURES / "laws" / "k2_mask.json").read_text())["cases"]
JOINTS = ["mask_mild", "mask_strong", "mask_pair", "cfg_cond"]


def brute_force(joint, canvas, mask):
    """P(x0_i = v | revealed tokens) by a loop over all sequences, [L, S]."""
    size, length = joint.shape[0], joint.ndim
    out = np.zeros((length, size))
    for x in itertools.product(range(size), repeat=length):
        if all(c in (mask, v) for c, v in zip(canvas, x, strict=True)):
            for i, v in enumerate(x):
                out[i, v] += joint[x]
    return out / out.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", JOINTS)
def test_the_posterior_of_a_table_is_that_of_direct_enumeration(name):
    joint = np.array(LAWS[name])
    denoiser = EnumerableDenoiser(LAWS[name])
    states = all_states(joint.ndim, 4)
    probs = denoiser.probs(states)
    expected = np.stack([brute_force(joint, state, 3) for state in states.tolist()])
    np.testing.assert_allclose(probs[..., :3], expected, atol=1e-14)
    assert bool((denoiser.logits(states)[..., 3] == -torch.inf).all())
    assert denoiser.logits(states).dtype == torch.float64


def test_positions_that_hold_a_token_keep_it():
    probs = EnumerableDenoiser(LAWS["mask_pair"]).probs(torch.tensor([[2, 3]]))
    assert probs[0, 0].tolist() == [0, 0, 1, 0]


def test_a_canvas_of_probability_zero_is_answered_by_its_nearest_points():
    denoiser = SupportDenoiser(torch.tensor([[0, 0, 0], [1, 1, 1]]), torch.tensor([0.25, 0.75]))
    probs = denoiser.probs(torch.tensor([[0, 1, 2], [0, 0, 1], [2, 2, 2]]))
    assert probs[0, :, 1].tolist() == [0.75] * 3  # both agree with one token
    assert probs[1, :, 0].tolist() == [1.0] * 3  # (0, 0, 0) agrees with two of three
    assert probs[2, :, 1].tolist() == [0.75] * 3


def test_rows_do_not_depend_on_the_batch(monkeypatch):
    denoiser = EnumerableDenoiser(LAWS["mask_strong"])
    states = all_states(3, 4)
    whole = denoiser.logits(states)
    monkeypatch.setattr("dlm_sampling.testing.denoisers.MAX_PAIRS", 100)
    assert torch.equal(denoiser.logits(states), whole)
    torch.testing.assert_close(torch.cat([denoiser.logits(row[None]) for row in states]), whole)


def test_logits_can_be_float32():
    assert (
        EnumerableDenoiser(LAWS["mask_pair"], dtype=torch.float32)
        .logits(torch.tensor([[3, 3]]))
        .dtype
        == torch.float32
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EnumerableDenoiser(torch.ones(2, 3)), "same S"),
        (lambda: EnumerableDenoiser([[0.5, -0.1], [0.3, 0.3]]), "weights"),
        (lambda: SupportDenoiser(torch.zeros(3, dtype=torch.int64)), "points has shape"),
        (lambda: SupportDenoiser(torch.tensor([[0, 1]]), mask_token_id=1), "mask id 1"),
        (lambda: SupportDenoiser(torch.tensor([[0, 1]]), torch.ones(2)), "one per point"),
        (lambda: EnumerableDenoiser(LAWS["mask_pair"])(torch.full((1, 3), 3)), "exactly 2"),
        (
            lambda: EnumerableDenoiser(LAWS["mask_pair"])(
                torch.full((1, 2), 3), torch.tensor([[0, 1]])
            ),
            "no padding",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def ancestral(denoiser, grid):
    """The textbook masked reverse step under alpha = 1 - t, as a table."""

    def step_probs(states, k):
        t, s = grid[k], grid[k + 1]
        probs = denoiser.probs(states) * (t - s) / t
        probs[..., -1] = s / t
        kept = torch.nn.functional.one_hot(states, 4).double()
        return torch.where((states == 3).unsqueeze(-1), probs, kept)

    return step_probs


@pytest.mark.parametrize("name", ["mask_mild", "mask_strong"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_chain_of_textbook_steps_has_the_stored_law(name, steps):
    case = next(
        c
        for c in CHAINS
        if (c["sampler"], c["toy"]) == ("ancestral", name) and c["params"]["schedule"] == "linear"
    )
    expected = case["expected"]["by_steps"][str(steps)]
    denoiser = EnumerableDenoiser(LAWS[name])
    law = exact_chain_law(ancestral(denoiser, expected["t_grid"]), steps, length=3, vocab_size=4)
    np.testing.assert_allclose(law, expected["law_states"], atol=1e-12)
    final = final_draw(law, denoiser.probs, length=3, vocab_size=4)
    assert abs(tv(final, denoiser.joint.flatten()) - expected["tv"]) < 1e-12


def test_the_final_draw_gives_every_stored_final_law():
    checked = 0
    for case in CHAINS:
        if case["toy"] not in LAWS or "by_steps" not in case["expected"]:
            continue
        denoiser = EnumerableDenoiser(LAWS[case["toy"]])
        size = {"length": denoiser.points.shape[1], "vocab_size": 4}
        for result in case["expected"]["by_steps"].values():
            law = torch.tensor(result["law_states"], dtype=torch.float64)
            for key, greedy in (("law_final", False), ("law_final_greedy", True)):
                final = final_draw(law, denoiser.probs, greedy=greedy, **size)
                np.testing.assert_allclose(final, result[key], atol=1e-9, err_msg=case["id"])
                checked += 1
    assert checked > 200


def test_a_step_that_returns_no_law_is_named():
    with pytest.raises(ValueError, match="step 0"):
        exact_chain_law(lambda x, k: torch.full((len(x), 2, 3), 0.5), 1, length=2, vocab_size=3)
    with pytest.raises(ValueError, match="shape"):
        exact_chain_law(lambda x, k: torch.ones(len(x), 2), 1, length=2, vocab_size=3)


def test_states_are_in_c_order():
    states = all_states(3, 4)
    assert states[[0, 1, 4, 63]].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [3, 3, 3]]
    assert count_states(states, 4).tolist() == [1] * 64
    assert count_states(torch.tensor([[1, 2, 3], [1, 2, 3]]), 4)[27] == 2
    probs = torch.tensor([[[0.1, 0.9], [0.3, 0.7]]], dtype=torch.float64)
    np.testing.assert_allclose(product_law(probs)[0], [0.03, 0.07, 0.27, 0.63])


def test_chi_square_is_pearsons_and_its_p_values_are_uniform():
    probs = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    result = chi_square(torch.tensor([60, 25, 15]), probs)
    assert result.stat == pytest.approx(100 / 50 + 25 / 30 + 25 / 20)
    assert result.dof == 2
    assert result.p == pytest.approx(np.exp(-result.stat / 2))  # exact at two degrees of freedom
    rng = np.random.default_rng(0)
    p = [chi_square(torch.from_numpy(rng.multinomial(2000, probs)), probs).p for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_chi_square_pools_small_cells_and_rejects_the_impossible():
    probs = torch.tensor([0.96, 0.01, 0.01, 0.01, 0.01, 0.0], dtype=torch.float64)
    result = chi_square(torch.tensor([190, 2, 3, 2, 3, 0]), probs)
    assert result.dof == 1  # the four cells of expectation 2 become one of 8
    assert result.stat == pytest.approx(4 / 192 + 4 / 8)
    assert chi_square(torch.tensor([190, 2, 3, 2, 2, 1]), probs).p == 0
    assert chi_square(torch.tensor([3, 0]), torch.tensor([1.0, 0.0])).p == 1


def test_chi_square_rejects_a_biased_sampler():
    rng = np.random.default_rng(1)
    law = rng.dirichlet(np.ones(27))
    biased = 0.95 * law + 0.05 / 27
    counts = torch.from_numpy(rng.multinomial(20000, biased))
    assert chi_square(counts, torch.from_numpy(biased)).p > 1e-4
    assert chi_square(counts, torch.from_numpy(law)).p < 1e-10


def test_the_toys_of_the_fixtures_replay_a_stored_trajectory():
    toys = load_toys(FIXTURES / "samplers" / "toys.safetensors")
    cases = json.loads((FIXTURES / "samplers" / "cases" / "llada_low_confidence.json").read_text())[
        "cases"
    ]
    plain = next(
        c
        for c in cases
        if c["args"].get("cfg_scale", 0) == 0
        and c["args"]["block_length"] == c["args"]["gen_length"]
        and c["args"]["steps"] == c["args"]["gen_length"]
    )
    toy = toys[plain["toy"]].variant(mask_logit=plain["mask_logit"])
    mask = (
        torch.tensor(plain["inputs"]["attention_mask"])
        if "attention_mask" in plain["inputs"]
        else None
    )
    for before, after in itertools.pairwise([*plain["canvases"], plain["final"]]):
        x = torch.tensor(before)
        padded = (
            None
            if mask is None
            else torch.cat((mask, torch.ones(len(x), x.shape[1] - mask.shape[1])), dim=1)
        )
        probs = toy.logits(x, padded).softmax(dim=-1)
        confidence = probs.amax(dim=-1).where(
            x == toy.mask_token_id, torch.tensor(-1.0, dtype=torch.float64)
        )
        chosen = confidence.argmax(dim=1, keepdim=True)
        x = x.scatter(1, chosen, probs.argmax(dim=-1).gather(1, chosen))
        assert x.tolist() == after


def test_a_toy_matches_its_formula_term_by_term():
    rng = torch.Generator().manual_seed(0)
    e = torch.randn(5, 5, dtype=torch.float64, generator=rng)
    p = torch.randn(4, 5, dtype=torch.float64, generator=rng)
    x, w = torch.tensor([[0, 4, 2]]), torch.tensor([[0, 1, 1]])
    logits = FixtureToy(e, p, 4).logits(x, w)
    for i in range(3):
        expected = p[i] + (e[4] + e[2]) / 2 + 0.5 * e[x[0, i - 1]]
        expected[4] = -1e9
        torch.testing.assert_close(logits[0, i], expected)
    toy = FixtureToy(e, p, 4, None, shifted=True, dtype=torch.float32)
    assert toy.logits(x).dtype == torch.float32
    raw = FixtureToy(e, p, 4, None).logits(x)
    assert torch.equal(toy.logits(x), raw[:, [0, 0, 1]].float())
    with pytest.raises(ValueError, match="at most 4"):
        toy(torch.zeros(1, 5, dtype=torch.int64))
