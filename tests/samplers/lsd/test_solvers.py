"""Learned sampler distillation: the solver itself at 1, standstill at 0, exact laws in between."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import generate
from dlm_sampling.engine.sample import sample
from dlm_sampling.ops import row_seeds
from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.samplers import (
    Euler,
    LearnedEuler,
    LearnedFile,
    LearnedSteps,
    LearnedTauLeaping,
    LearnedTrapezoidal,
    LearnedTweedie,
    TauLeaping,
    ThetaTrapezoidal,
    Tweedie,
    create,
    load_learned,
    save_learned,
)
from dlm_sampling.samplers.lsd.saved import options_of, read_schedule, schedule_record
from dlm_sampling.samplers.lsd.solvers import Learned, lsd
from dlm_sampling.schedules import LINEAR, Cosine, Geometric, HalfCosine, LogLinear, grid_time
from dlm_sampling.testing import (
    EnumerableDenoiser,
    all_states,
    chi_square,
    count_states,
    exact_chain_law,
    final_draw,
    tv,
)
from tests.parity.laws import mask_canvas
from tests.parity.laws_chains import MASK as RULES
from tests.parity.laws_chains import MaskWorld
from tests.parity.laws_kernels import grid_of, propagate
from tests.samplers.small import run
from tests.samplers.worlds import LENGTH, SYMBOLS, noisy, world

ROWS, P_LIMIT = 8000, 1e-4


def equal_times(number: int, t_end: float) -> tuple[float, ...]:
    points = grid_time(torch.arange(number + 1), torch.tensor(number), t_end)
    return tuple(points.tolist())


PAIRS: list[tuple[Any, Learned]] = [
    (Euler(), LearnedEuler()),
    (Euler(Cosine(), 1e-3), LearnedEuler(Cosine(), 1e-3)),
    (Tweedie(Geometric(), 1e-3, "argmax"), LearnedTweedie(Geometric(), 1e-3, "argmax")),
    (TauLeaping(), LearnedTauLeaping()),
    (TauLeaping(events="reject"), LearnedTauLeaping(events="reject")),
    (ThetaTrapezoidal(), LearnedTrapezoidal()),
    (ThetaTrapezoidal(0.3, clock="time"), LearnedTrapezoidal(0.3, clock="time")),
]
MASKED = [(base, ours, "masks") for base, ours in PAIRS]
UNIFORM = [(base, ours, "uniform") for base, ours in PAIRS if "uniform" in base.runs_on]


BOTH = [
    (base, ours, noise, apply)
    for base, ours, noise in [*MASKED, *UNIFORM]
    for apply in ("rate", "log_score")
    if apply == "rate" or not isinstance(ours, LearnedTrapezoidal)
]


@pytest.mark.parametrize(("base", "ours", "noise", "apply"), BOTH, ids=str)
def test_coefficients_of_one_and_equal_times_are_the_solver_bit_for_bit(
    base: Any, ours: Learned, noise: str, apply: Any
) -> None:
    number = 8 // ours.passes
    learned = replace(
        ours,
        learned=LearnedSteps((1.0,) * number, equal_times(number, base.t_end), apply, None),
    )
    denoiser = world(1) if noise == "masks" else noisy()
    length = LENGTH if noise == "masks" else 20
    options: dict[str, Any] = {"length": length, "rows": 40, "steps": 8}
    one, two = run(denoiser, base, **options), run(denoiser, learned, **options)
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.logprob, two.logprob)
    assert torch.equal(one.nfe, two.nfe)
    assert one.trajectory is not None
    assert two.trajectory is not None
    for a, b in zip(one.trajectory.events, two.trajectory.events, strict=True):
        assert torch.equal(a.tokens, b.tokens)


@pytest.mark.parametrize(("ours", "noise"), [(o, n) for _, o, n in [*MASKED, *UNIFORM]], ids=str)
def test_coefficients_of_zero_leave_the_canvas_until_the_noise_removal(
    ours: Learned, noise: str
) -> None:
    learned = replace(ours, learned=LearnedSteps((0.0,) * (8 // ours.passes)))
    denoiser = world(1) if noise == "masks" else noisy()
    out = run(denoiser, learned, length=LENGTH, rows=30, steps=8)
    assert out.trajectory is not None
    last = 8
    for event in out.trajectory.events:
        if int(event.step[0]) < last:
            assert torch.equal(event.before, event.tokens)
            assert bool(event.unknown.all())
    assert int(out.steps[0]) == last + 1


def learned_law(toy: EnumerableDenoiser, sampler: Any, steps: int) -> Tensor:
    """Law of the final tokens of a learned solver of one pass per step."""

    def step(states: Tensor, k: int) -> Tensor:
        number = torch.tensor([[steps]])
        t, s = (sampler.time_at(torch.tensor([[i]]), number) for i in (k, k + 1))
        canvas = mask_canvas(states, SYMBOLS)
        return sampler.transition_probs(canvas, toy(states).values.log_softmax(-1), t, s)

    law = exact_chain_law(step, steps, length=LENGTH, vocab_size=SYMBOLS + 1)
    greedy = sampler.noise_removal == "argmax"
    return final_draw(law, toy.probs, length=LENGTH, vocab_size=SYMBOLS + 1, greedy=greedy)


PHI, TIMES = (1.5, 0.4, 0.9), (1.0, 0.7, 0.55, 0.1)
LEARNED: list[Any] = [
    LearnedEuler(HalfCosine(), learned=LearnedSteps(PHI, TIMES)),
    LearnedEuler(LogLinear(0.05), learned=LearnedSteps(PHI, None, "log_score")),
    LearnedTweedie(Geometric(), 1e-3, learned=LearnedSteps(PHI, TIMES)),
    LearnedTweedie(LogLinear(0.05), 1e-3, learned=LearnedSteps(PHI, TIMES, "log_score")),
    LearnedTauLeaping(learned=LearnedSteps(PHI, TIMES)),
    LearnedTauLeaping(LogLinear(0.05), learned=LearnedSteps((2.0, 0.3, 1.0), None, "log_score")),
]


@pytest.mark.parametrize("sampler", LEARNED, ids=str)
def test_draws_have_the_law_with_its_coefficients_and_times(sampler: Any) -> None:
    toy = world(1)
    out = run(toy, sampler, rows=ROWS, seed=2, steps=3, return_trajectory=False)
    counts = count_states(out.tokens, SYMBOLS)
    law = learned_law(toy, sampler, 3)
    assert chi_square(counts, law).p > P_LIMIT
    plain = learned_law(toy, replace(sampler, learned=LearnedSteps()), 3)
    assert tv(law, plain) > 0.02
    assert chi_square(counts, plain).p < P_LIMIT


def test_rates_carry_the_coefficients_in_euler_steps_by_hand() -> None:
    """Two fair bits: the chance of a reveal is phi h c, of a token half of it."""
    toy = EnumerableDenoiser(torch.full((2, 2), 0.25))
    sampler = LearnedEuler(LogLinear(0.0), learned=LearnedSteps((0.5,), (1.0, 0.6)))
    canvas = mask_canvas(torch.tensor([[2, 2]]), 2)
    t, s = torch.tensor([[1.0]]).double(), torch.tensor([[0.6]]).double()
    probs = sampler.transition_probs(canvas, toy(canvas.tokens).values.log_softmax(-1), t, s)
    torch.testing.assert_close(probs[0, 0], torch.tensor([0.1, 0.1, 0.8]).double())


@pytest.mark.parametrize("kind", [LearnedEuler, LearnedTweedie, LearnedTauLeaping])
def test_by_table_and_by_reveal_probability_are_one_law(kind: Any) -> None:
    toy, canvas = world(4), mask_canvas(all_states(LENGTH, SYMBOLS + 1), SYMBOLS)
    sampler = kind(LogLinear(0.05), learned=LearnedSteps((0.7, 1.3), None))
    p0 = toy(canvas.tokens).values.softmax(-1)
    for t, s in ((1.0, 0.5), (0.5, 0.2)):
        level = torch.tensor([[t]]).double(), torch.tensor([[s]]).double()
        law = sampler.next_law(Absorbing(SYMBOLS), p0, canvas.tokens, *level)
        probs = sampler.transition_probs(canvas, p0.log(), *level)
        where = canvas.eligible
        torch.testing.assert_close(law[where], probs[where], atol=1e-12, rtol=0)


def test_whole_vectors_scaled_would_change_nothing_under_tweedie() -> None:
    """The current token's ratio is spared: else phi would cancel."""
    x = torch.tensor([0, 1])
    score = torch.tensor([[1.0, 0.5, 0.2], [0.3, 1.0, 0.4]]).double()
    sampler = LearnedTweedie(LogLinear(), learned=LearnedSteps((0.5,), (0.6, 0.5)))
    t, s = torch.full((2,), 0.6).double(), torch.full((2,), 0.5).double()
    process = noisy(3).process
    plain = replace(sampler, learned=LearnedSteps()).next_law(process, score, x, t, s)
    ours = sampler.next_law(process, score, x, t, s)
    assert bool((ours.gather(1, x.unsqueeze(1)) > plain.gather(1, x.unsqueeze(1))).all())
    torch.testing.assert_close(ours.sum(-1), torch.ones(2).double())


class ScaledHazard(MaskWorld):
    """Hazards times phi; the toy does not look at the time, so that nothing else changes."""

    def hazard(self, t: Tensor, s: Tensor) -> Tensor:
        return super().hazard(t, s) * (1.4 if float(t) > 0.9 else 0.6)


def test_draws_of_the_trapezoidal_method_have_the_law_with_its_coefficients() -> None:
    toy, states = world(2), all_states(LENGTH, SYMBOLS + 1)
    sampler = LearnedTrapezoidal(learned=LearnedSteps((1.4, 0.6)))
    case = {"params": {"theta": 0.5, "clock": "hazard", "t_end": sampler.t_end}}
    start = torch.zeros(len(states)).double()
    start[-1] = 1.0
    laws: list[Tensor] = []
    for kind in (ScaledHazard, MaskWorld):
        kernel = RULES["trap"](case, kind(toy, Absorbing(SYMBOLS), sampler.schedule))
        law = propagate(start, states, kernel, grid_of(case, 2))
        laws.append(final_draw(law, toy.probs, length=LENGTH, vocab_size=SYMBOLS + 1, greedy=True))
    out = run(toy, sampler, rows=ROWS, seed=4, steps=4, return_trajectory=False)
    counts = count_states(out.tokens, SYMBOLS)
    assert chi_square(counts, laws[0]).p > P_LIMIT
    assert chi_square(counts, laws[1]).p < P_LIMIT


def test_steps_of_no_length_do_nothing() -> None:
    toy = world(1)
    with_pause = LearnedEuler(learned=LearnedSteps((2.0, 9.0, 0.5), (1.0, 0.6, 0.6, 0.2)))
    without = LearnedEuler(learned=LearnedSteps((2.0, 0.5), (1.0, 0.6, 0.2)))
    one, two = learned_law(toy, with_pause, 3), learned_law(toy, without, 2)
    torch.testing.assert_close(one, two, atol=1e-14, rtol=0)


def test_tweedie_keeps_the_refusals_of_its_solver() -> None:
    with pytest.raises(ValueError, match=r"alpha\(1\) = 0"):
        run(noisy(), LearnedTweedie(LogLinear(0.0)), length=4, steps=3)


# Plans


def test_the_steps_are_those_of_the_coefficients() -> None:
    toy = world(1)
    sampler = lsd("euler", [1.2, 0.8, 1.0])
    out = run(toy, sampler, rows=4, length=LENGTH)
    assert bool((out.steps <= 4).all())
    with pytest.raises(ValueError, match=r"steps=5 in a block: .* learnt for 3.*steps_per_block=3"):
        run(toy, sampler, rows=2, steps=5)
    assert lsd("theta-trapezoidal", [1.0, 1.0]).own_steps == 4
    with pytest.raises(ValueError, match="learnt for 4"):
        run(toy, lsd("theta-trapezoidal", [1.0, 1.0]), rows=2, steps=2)


def test_every_block_takes_its_own_steps() -> None:
    denoiser, sampler = noisy(), lsd("euler", [1.2, 0.8, 1.0])
    tokens = torch.zeros(2, 8).long()
    out = sample(
        denoiser, sampler, tokens, torch.ones_like(tokens).bool(), seeds=row_seeds(1, 2),
        block_length=4,
    )  # fmt: skip
    assert out.steps.tolist() == [8, 8]


@pytest.mark.parametrize(
    ("learned", "message"),
    [
        ({"phi": (1.0, -0.1)}, r"phi=.*>= 0"),
        ({"phi": (float("nan"),)}, r"phi=.*>= 0"),
        ({"phi": ()}, "needs a coefficient per step"),
        ({"t_grid": (1.0, 0.2, 0.3)}, "never rise"),
        ({"t_grid": (1.5, 0.2)}, "within"),
        ({"t_grid": (1.0,)}, "two ends"),
        ({"phi": (1.0, 1.0), "t_grid": (1.0, 0.5)}, "one more time"),
        ({"apply": "score"}, "rate, log_score"),
    ],
)
def test_numbers_that_cannot_be_are_refused(learned: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnedSteps(**learned)


def test_a_sampler_of_another_noise_is_refused_before_the_first_pass() -> None:
    with pytest.raises(ValueError, match="LearnedEuler is for uniform noise"):
        run(world(1), lsd("euler", [1.0], process="uniform"))
    with pytest.raises(ValueError, match="process='matrix': must be one of absorbing, uniform"):
        lsd("tweedie", [1.0], process="matrix")
    with pytest.raises(ValueError, match="theta-trapezoidal mixes rates"):
        lsd("theta-trapezoidal", apply="log_score")
    with pytest.raises(ValueError, match=r"base='eular'.*Did you mean 'euler'"):
        lsd("eular")  # pyright: ignore[reportArgumentType]


# Files


def record(**changes: Any) -> LearnedFile:
    values: dict[str, Any] = {
        "process": "absorbing",
        "base": "tau-leaping",
        "schedule": {"name": "Cosine", "eps": 0.001, "power": 2},
        "steps": 3,
        "t_grid": (1.0, 2 / 3, 1 / 3, 1e-3),
        "phi": (1.1, 0.9, 1 / 7),
        "options": {"noise_removal": "sample", "events": "reject"},
        "learning": {"seed": 4},
    }
    return LearnedFile(**{**values, **changes})


def test_a_file_holds_the_sampler_to_the_last_bit(tmp_path: Path) -> None:
    path = save_learned(record(), tmp_path / "lsd.json")
    assert json.loads(path.read_text())["format"] == "lsd.v1"
    assert load_learned(path) == record()
    sampler = create(str(path))
    assert sampler == record().build()
    assert isinstance(sampler, LearnedTauLeaping)
    assert sampler.schedule == Cosine(power=2)
    assert (sampler.events, sampler.noise_removal) == ("reject", "sample")
    assert sampler.learned == LearnedSteps(record().phi, record().t_grid, "rate", "absorbing")
    assert options_of(sampler) == record().options
    assert read_schedule(schedule_record(sampler.schedule)) == sampler.schedule


def test_generate_takes_a_file(tmp_path: Path) -> None:
    path = save_learned(record(), tmp_path / "lsd.json")
    by_file = generate(world(1), sampler=str(path), max_new_tokens=LENGTH, seed=3)
    by_hand = generate(world(1), sampler=record().build(), max_new_tokens=LENGTH, seed=3)
    assert torch.equal(by_file.sequences, by_hand.sequences)
    assert int(by_file.steps[0]) <= 4
    with pytest.raises(ValueError, match="steps=16 in a block"):
        generate(world(1), sampler=str(path), max_new_tokens=LENGTH, steps=16)
    with pytest.raises(ValueError, match="its own parameters"):
        generate(world(1), sampler=str(path), sampler_options={"phi": (1.0,)})
    with pytest.raises(ValueError, match="is for absorbing noise"):
        generate(noisy(), sampler=str(path), max_new_tokens=LENGTH)
    with pytest.raises(FileNotFoundError, match="dlm-sampling learn"):
        generate(world(1), sampler=str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": "lsd.v2"}, ValueError, "format 'lsd.v1'"),
        ({"steps": 4}, ValueError, "are 3 steps"),
        ({"phi": [1.0, 1.0]}, ValueError, "one more time"),
        ({"base": "heun"}, ValueError, "base='heun'"),
        ({"schedule": {"name": "Linear"}}, ValueError, "LogLinear"),
        ({"schedule": {"name": "Cosine", "epsilon": 1}}, TypeError, "epsilon"),
        ({"options": {"event": "last"}}, TypeError, "events"),
        ({"final": False}, ValueError, "must be true"),
        ({"phis": []}, TypeError, "phis"),
        ({"phi": None}, ValueError, "has no phi"),
    ],
)
def test_files_that_are_wrong_say_how(
    change: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    values = {**record().to_dict(), **change}
    path = tmp_path / "x.json"
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    with pytest.raises(error, match=message):
        load_learned(path)


def test_text_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_learned(tmp_path / "x.json")


@pytest.mark.parametrize("clock", ["hazard", "time"])
def test_the_trapezoidal_intensity_is_the_expected_number_of_events(clock: Any) -> None:
    """On the linear schedule the window times the rate is ln(t / s), or (t - s) / t."""
    sampler = LearnedTrapezoidal(clock=clock, schedule=LINEAR)
    x = torch.tensor([[2, 2, 1]])
    p = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64).expand(1, 3, 3)
    t, s = (torch.full((1, 3), value, dtype=torch.float64) for value in (0.8, 0.3))
    events = math.log(0.8 / 0.3) if clock == "hazard" else 0.5 / 0.8
    wanted = events * p * (x == 2).unsqueeze(-1)
    torch.testing.assert_close(sampler.intensity(Absorbing(2), p, x, t, s), wanted)
    torch.testing.assert_close(sampler.expected(Absorbing(2), p, x, t, s), wanted)
    # Without a mask alpha goes from 0.2 to 0.7, and noise comes at rate 1 on the clock -ln alpha.
    events = math.log(0.7 / 0.2) if clock == "hazard" else 0.5 / 0.2
    wanted = events / 3 * p * (torch.arange(3) != x.unsqueeze(-1))
    torch.testing.assert_close(sampler.intensity(Uniform(), p, x, t, s), wanted)
