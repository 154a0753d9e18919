"""FS-DFM: exact laws, and networks that are told the length of their step."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.checkup.doctor import diagnose
from dlm_sampling.engine.sample import sample
from dlm_sampling.processes.jumps import mixture_law
from dlm_sampling.samplers import FSDFM, Ancestral, FlowMatching
from dlm_sampling.schedules import LINEAR, Cosine, Polynomial
from dlm_sampling.testing import NoisyEnumerableDenoiser, chi_square
from tests.parity.folders import fixtures_folder
from tests.samplers.chains import chain_law, chance, check_draws, draws, toys

SAMPLERS = [
    FSDFM(),
    FSDFM(Polynomial(2.0), "argmax"),
    FSDFM(Cosine(), step_sizes=[0.4, 0.3, 0.2, 0.1]),
]
KINDS = ["absorbing", "uniform"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_the_sampled_law_is_the_propagated_law(sampler: FSDFM, kind: str) -> None:
    check_draws(toys(sampler.schedule)[KINDS.index(kind)], sampler, 4, 1)


def test_the_tests_tell_it_from_flow_matching() -> None:
    """Without a mask it leaves a token more often than a jump to a drawn token does."""
    toy = toys(LINEAR)[1]
    assert chance(toy, FSDFM(), FlowMatching(), 4, 2) < 1e-6


def test_chains_are_the_reference_tables() -> None:
    folder, seen = fixtures_folder() / "laws", 0
    stored = json.loads((folder / "toys.json").read_text())["toys"]
    for case in json.loads((folder / "k2_uniform.json").read_text())["cases"]:
        if case["sampler"] != "fsdfm":
            continue
        law = torch.tensor(stored[case["toy"]], dtype=torch.float64)
        toy = NoisyEnumerableDenoiser(law, schedule=LINEAR)
        for steps, expected in case["expected"]["by_steps"].items():
            ours = chain_law(toy, FSDFM(), int(steps), law.ndim)
            reference = torch.tensor(expected["law_final"], dtype=torch.float64)
            torch.testing.assert_close(ours, reference, atol=1e-9, rtol=0)
            seen += 1
    assert seen >= 4


def test_on_masks_it_is_flow_matching_token_for_token() -> None:
    toy = toys(LINEAR)[0]
    ours, theirs = draws(toy, FSDFM(), 4, rows=200), draws(toy, FlowMatching(), 4, rows=200)
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.nfe, theirs.nfe)


class Told:
    """Remembers what it was told, row by row."""

    def __init__(self, vocab_size: int = 5) -> None:
        self.vocab_size = vocab_size
        self.seen: list[tuple[int, float, float]] = []

    def __call__(self, input_ids: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        width = input_ids.shape[1]
        self.seen += [(width, *pair) for pair in zip(t.tolist(), dt.tolist(), strict=True)]
        return torch.zeros(*input_ids.shape, self.vocab_size)


def times(seen: list[tuple[int, float, float]]) -> list[tuple[float, float]]:
    return [(round(t, 9), round(dt, 9)) for _, t, dt in seen]


def run(fn: Any, sampler: Any, rows: int = 1, attention: Any = None, **options: Any) -> Any:
    denoiser = wrap(fn, vocab_size=5, mask_token_id=None, **options)
    tokens = torch.zeros(rows, 4, dtype=torch.int64)
    editable = torch.ones_like(tokens).bool() if attention is None else attention.clone()
    seeds = ops.row_seeds(0, rows)
    return sample(
        denoiser, sampler, tokens, editable, seeds=seeds, steps=4, attention_mask=attention
    )


def test_the_network_is_told_each_step() -> None:
    told = Told()
    out = run(told, FSDFM())
    assert times(told.seen) == [(1.0, 0.25), (0.75, 0.25), (0.5, 0.25), (0.25, 0.25)]
    assert out.nfe.tolist() == [4]
    told = Told()
    out = run(told, FSDFM(step_sizes=(0.5, 0.3, 0.2)))
    assert times(told.seen) == [(1.0, 0.5), (0.5, 0.3), (0.2, 0.2)]
    assert out.nfe.tolist() == [3]


def test_lengths_are_measured_on_the_networks_own_schedule() -> None:
    """Equal levels, not equal times: alpha is 0.75 at the time 1/2 of 1 - t^2."""
    told = Told()
    own = Polynomial(2.0)
    run(told, FSDFM(LINEAR), schedule=own)
    grid = [float(own.time_of(torch.tensor(a).double())) for a in (0.0, 0.25, 0.5, 0.75, 1.0)]
    expected = [(grid[k], grid[k] - grid[k + 1]) for k in range(4)]
    for (t, dt), (want, length) in zip(times(told.seen), expected, strict=True):
        assert t == pytest.approx(want, abs=1e-8)
        assert dt == pytest.approx(length, abs=1e-8)


def test_padded_rows_are_told_their_own_lengths() -> None:
    """A network without attention mask sees rows of different padding one group at a time."""
    told = Told()
    attention = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]]).bool()
    run(told, FSDFM(), rows=3, attention=attention)
    assert {width for width, _, _ in told.seen} == {2, 3, 4}
    assert all(dt == pytest.approx(0.25) for _, _, dt in told.seen)
    assert len(told.seen) == 12


def test_other_samplers_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"dt is missing.*fs-dfm"):
        run(Told(), Ancestral())


def test_the_doctor_examines_a_step_conditioned_network() -> None:
    def net(input_ids: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(input_ids, 300) * (2.0 - t - dt)[:, None, None]

    report = diagnose(wrap(net, vocab_size=300, mask_token_id=None))
    assert not [check for check in report.checks if "dt is" in check.detail]


def test_a_network_without_dt_is_not_told() -> None:
    def plain(input_ids: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(*input_ids.shape, 5)

    assert run(plain, FSDFM()).nfe.tolist() == [4]
    with pytest.raises(TypeError, match="step_conditioned"):
        run(plain, FSDFM(), step_conditioned=True)


def test_a_network_that_knows_the_step_can_be_exact_in_two() -> None:
    """For one position: the law p whose jump is that of the flow, which is exact there."""
    data = torch.tensor([0.5, 0.3, 0.2]).double()
    toy = NoisyEnumerableDenoiser(data, schedule=LINEAR)

    def shortcut(input_ids: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        x = input_ids
        k, later = (1.0 - t)[:, None], (1.0 - t + dt)[:, None]
        loo = data.expand(*x.shape, 3)
        post = toy.process.convert(loo, x, k, "leave_one_out", "posterior")
        exact = mixture_law(post, x, (later - k) / (1.0 - k))
        here = exact.gather(-1, x.unsqueeze(-1))
        # stay = exp(-A (1 - p(x))), so p(x) = 1 + ln(stay) / A; the rest in proportion.
        hazard = (torch.log1p(-k) - torch.log1p(-later)).unsqueeze(-1)
        stay = (1.0 + here.log() / hazard).clamp(min=0.0)
        p = exact * (1.0 - stay) / (1.0 - here)
        p = p.scatter(-1, x.unsqueeze(-1), stay)
        return torch.where((later < 1.0).unsqueeze(-1), p, post).log()

    net = wrap(shortcut, vocab_size=3, mask_token_id=None)
    rows = 40_000
    tokens = torch.zeros(rows, 1, dtype=torch.int64)
    options: Any = {"seeds": ops.row_seeds(3, rows), "steps": 2}
    out = sample(net, FSDFM(), tokens, tokens == 0, **options)
    counts = torch.bincount(out.tokens[:, 0], minlength=3)
    assert chi_square(counts, data).p > 1e-4


@pytest.mark.parametrize("sizes", [[], [0.5, 0.4], [1.5, -0.5], [0.0, 1.0]])
def test_step_sizes_are_checked(sizes: list[float]) -> None:
    with pytest.raises(ValueError, match="step_sizes"):
        FSDFM(step_sizes=sizes)
