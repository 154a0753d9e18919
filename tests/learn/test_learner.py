"""Learning of coefficients and times: known minimisers, the exact error, and killed runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import AutoDenoiser, learn_sampler
from dlm_sampling.learn import learning_run
from dlm_sampling.learn.block_loop import BlockLoop
from dlm_sampling.learn.learner import fingerprint
from dlm_sampling.learn.learning_run import later_times, refined
from dlm_sampling.learn.settings import Learning
from dlm_sampling.samplers import (
    LearnedEuler,
    LearnedFile,
    LearnedSteps,
    LearnedTauLeaping,
    LearnedTrapezoidal,
    LearnedTweedie,
)
from dlm_sampling.schedules import Cosine, HalfCosine, LogLinear, reverse_rate
from dlm_sampling.testing import EnumerableDenoiser, exact_chain_law, final_draw, tv
from dlm_sampling.types import Pass
from tests.parity.laws import mask_canvas
from tests.samplers.worlds import LENGTH, SYMBOLS, noisy, world

SOLVERS: list[Any] = [
    LearnedEuler(),
    LearnedEuler(HalfCosine(0.01)),
    LearnedTweedie(Cosine()),
    LearnedTauLeaping(),
    LearnedTrapezoidal(),
]


def apart() -> EnumerableDenoiser:
    """Places that know nothing of each other: every prediction is the same law."""
    law = torch.tensor([0.5, 0.3, 0.2]).double()
    return EnumerableDenoiser(law[:, None, None] * law[None, :, None] * law[None, None, :])


def learn(denoiser: Any, base: Any, **options: Any) -> LearnedFile:
    values = {"length": LENGTH, "rows": 200, "rounds": 2, "progress": False, **options}
    return learn_sampler(denoiser, base, **values)


# What the minimiser must be


@pytest.mark.parametrize("target", ["interval", "trajectory"])
@pytest.mark.parametrize("divergence", ["squared", "score-entropy"])
@pytest.mark.parametrize("base", SOLVERS, ids=lambda s: type(s).__name__)
def test_a_student_that_is_its_teacher_learns_nothing(
    base: Any, divergence: str, target: str
) -> None:
    options = {"steps": 4, "teacher_steps": 4, "target": target, "divergence": divergence}
    base = replace(base, schedule=LogLinear(0.01), t_end=0.01)  # no chance is clamped to 1
    for denoiser, length in ((world(), LENGTH), (noisy(), 6)):
        if denoiser.mask_token_id is None and base.linear and target == "interval":
            continue  # at pure noise the long step's chances are clamped to 1
        learned = learn(denoiser, base, **options, rows=10, length=length)
        torch.testing.assert_close(torch.tensor(learned.phi), torch.ones(4 // base.passes))


def test_tau_leaping_learns_the_hazard_of_its_finer_grid() -> None:
    """With one and the same prediction everywhere the ratio is that of the rates, without noise."""
    base, finer = LearnedTauLeaping(HalfCosine(0.05)), 8
    learned = learn(apart(), base, steps=3, teacher_steps=3 * finer, rows=50)
    for k, (t, s) in enumerate(zip(learned.t_grid, learned.t_grid[1:], strict=False)):
        times = t + (s - t) * torch.arange(finer).double() / finer
        mean = reverse_rate(base.schedule, times).mean()
        rate = reverse_rate(base.schedule, torch.tensor(t).double())
        assert learned.phi[k] == pytest.approx(float(mean / rate), rel=1e-6)


@pytest.mark.parametrize("divergence", ["squared", "score-entropy"])
def test_euler_learns_the_chance_of_a_reveal_of_its_finer_grid(divergence: str) -> None:
    base, finer = LearnedEuler(HalfCosine(0.05), 0.05), 8
    learned = learn(
        apart(), base, steps=3, teacher_steps=3 * finer, rows=3000, divergence=divergence
    )
    for k, (t, s) in enumerate(zip(learned.t_grid, learned.t_grid[1:], strict=False)):
        h = (t - s) / finer
        times = t + (s - t) * torch.arange(finer).double() / finer
        chances = (h * reverse_rate(base.schedule, times)).clamp(max=1.0)
        whole = 1.0 - (1.0 - chances).prod()
        own = (t - s) * reverse_rate(base.schedule, torch.tensor(t).double())
        assert learned.phi[k] == pytest.approx(float(whole / own), rel=0.03)
    assert max(abs(value - 1.0) for value in learned.phi) > 0.1


def test_the_printed_form_shrinks_where_nothing_is_wrong() -> None:
    """Two independent runs share a mask with probability 1 - alpha_t: the factor it finds."""
    learned = learn(
        apart(), LearnedEuler(LogLinear(0.0)), steps=4, teacher_steps=32, rows=4000, rounds=1,
        target="trajectory",
    )  # fmt: skip
    ours = learn(apart(), LearnedEuler(LogLinear(0.0)), steps=4, teacher_steps=32, rows=1000)
    assert learned.phi == pytest.approx(learned.t_grid[:-1], abs=0.05)
    assert ours.phi == pytest.approx((1.0,) * 4, abs=0.05)


def test_adam_arrives_where_the_closed_form_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rounds have one and the same ratio here, so one round of rows is enough."""
    collect = learning_run.LearningRun.collect
    base = LearnedTauLeaping(HalfCosine(0.2))
    for divergence in ("squared", "score-entropy"):
        options = {"steps": 2, "teacher_steps": 4, "divergence": divergence, "rows": 4}
        closed = learn(apart(), base, **options)
        collected: list[Any] = []

        def first(self: Any, fit: Any, collected: list[Any] = collected) -> Any:
            if not collected:
                collected.append(collect(self, fit))
            return collected[0]

        with monkeypatch.context() as patch:
            patch.setattr(learning_run.LearningRun, "collect", first)
            adam = learn(apart(), base, fit="gradient", rounds=300, learning_rate=0.1, **options)
        assert max(closed.phi) > 1.2
        assert adam.phi == pytest.approx(closed.phi, rel=0.001)


# What it is good for


def error(denoiser: EnumerableDenoiser, sampler: Any, steps: int) -> float:
    """Exact distance of a masked solver's texts to the data law."""

    def step(states: Tensor, k: int) -> Tensor:
        number = torch.tensor([[steps]])
        t, s = (sampler.time_at(torch.tensor([[i]]), number) for i in (k, k + 1))
        log_p0 = denoiser.probs(states).log()
        return sampler.transition_probs(mask_canvas(states, SYMBOLS), log_p0, t, s)

    law = exact_chain_law(step, steps, length=LENGTH, vocab_size=SYMBOLS + 1)
    law = final_draw(law, denoiser.probs, length=LENGTH, vocab_size=SYMBOLS + 1)
    return tv(law, denoiser.joint.flatten())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_learned_coefficients_bring_euler_steps_nearer_to_the_data(seed: int) -> None:
    toy, base = world(seed), LearnedEuler(HalfCosine())
    learned = learn(toy, base, steps=4, teacher_steps=64, rows=300)
    assert error(toy, learned.build(), 4) < 0.97 * error(toy, base, 4)


def test_learned_times_are_a_grid() -> None:
    options = {"steps": 4, "teacher_steps": 16, "rows": 100}
    learned = learn(world(), LearnedEuler(HalfCosine()), **options, times=True)
    assert len(learned.t_grid) == 5
    assert learned.t_grid[0] == 1.0
    assert list(learned.t_grid) == sorted(learned.t_grid, reverse=True)
    assert learned.t_grid[-1] >= LearnedEuler().t_end
    plain = learn(world(), LearnedEuler(HalfCosine()), **options)
    assert max(abs(a - b) for a, b in zip(learned.t_grid, plain.t_grid, strict=True)) > 0.01


def test_lengths_are_clamped_and_scaled_to_the_whole() -> None:
    times = (1.0, 0.7, 0.4, 0.1)
    double = later_times(times, torch.tensor([2.0, 0.0, 4.0]).double(), 0.1)
    assert double == pytest.approx((1.0, 0.7, 0.7, 0.1))
    short = later_times(times, torch.tensor([0.5, 1.0, -1.0]).double(), 0.1)
    assert short == pytest.approx((1.0, 0.85, 0.55, 0.55))
    assert refined((1.0, 0.5, 0.0), 2) == (1.0, 0.75, 0.5, 0.25, 0.0)


@pytest.mark.parametrize("base", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("target", ["interval", "trajectory"])
def test_solvers_are_learnt_on_uniform_noise(base: Any, target: str) -> None:
    base = replace(base, schedule=LogLinear(0.05))
    learned = learn(
        noisy(), base, steps=4, teacher_steps=8, rows=6, length=8, target=target, times=True
    )
    assert learned.process == "uniform"
    assert all(0.0 <= value < 50.0 for value in learned.phi)
    assert learned.build().runs_on == ("uniform",)


# The run


def test_one_forward_pass_answers_student_and_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    toy = world()
    forward = toy.forward

    def counted(inputs: Pass) -> Any:
        passes.append(len(inputs.tokens))
        return forward(inputs)

    monkeypatch.setattr(toy, "forward", counted)
    learned = learn(toy, LearnedEuler(), steps=4, teacher_steps=16, rows=5, rounds=1)
    assert sum(passes) <= 16 * 5
    assert learned.learning["nfe"] == round(sum(passes) / 5)


def test_a_walk_takes_the_steps_of_the_loop() -> None:
    """The canvases of `sample`, step for step."""
    from dlm_sampling import ops, sample

    for denoiser in (world(), noisy()):
        for base in SOLVERS:
            seeds = ops.row_seeds(5, 20)
            tokens = torch.zeros(20, LENGTH).long()
            out = sample(
                denoiser, base, tokens, torch.ones_like(tokens).bool(), seeds=seeds, steps=8,
                return_trajectory=True,
            )  # fmt: skip
            assert out.trajectory is not None
            loop, number = BlockLoop.begin(denoiser, base, LENGTH, seeds), 8 // base.passes
            current = loop.first
            for k in range(number):
                current = loop.leap(base, current, k, number)
                event = next(
                    (e for e in out.trajectory.events if e.iteration == (k + 1) * base.passes - 1),
                    None,
                )
                if event is not None:
                    assert torch.equal(event.tokens, current[event.rows])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("fit", ["closed", "gradient"])
def test_a_killed_run_goes_on_to_the_same_numbers(
    fit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "steps": 2, "teacher_steps": 4, "rows": 6, "rounds": 3, "times": True, "fit": fit,
    }  # fmt: skip
    base, state = LearnedEuler(HalfCosine()), tmp_path / "state"
    whole = learn(world(), base, **options)
    for survived in (2, 4):
        store = learning_run.LearningRun.store

        def stop(self: Any, fit: Any, survived: int = survived, store: Any = store) -> None:
            store(self, fit)
            if self.done == survived:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(learning_run.LearningRun, "store", stop)
            learn(world(), base, state=state, **options)
        assert json.loads(state.read_text())["done"] == survived
    with pytest.raises(ValueError, match=r"learning was .*'seed': 0.* and is now .*'seed': 1"):
        learn(world(), base, state=state, **{**options, "seed": 1})
    assert learn(world(), base, state=state, **options) == whole
    assert not state.exists()


def test_the_file_says_where_its_numbers_come_from(tiny_llada: Path) -> None:
    denoiser = AutoDenoiser.from_pretrained(str(tiny_llada))
    learned = learn_sampler(
        denoiser, "tweedie", steps=4, teacher_steps=8, rows=2, rounds=1, length=8, name="tiny",
        seed=3,
    )  # fmt: skip
    assert learned.model == {"name": "tiny", "sha256": fingerprint(denoiser)}
    assert (learned.process, learned.pred_kind, learned.base) == (
        "absorbing", "posterior", "tweedie",
    )  # fmt: skip
    assert learned.learning["seed"] == 3
    assert learned.learning["teacher_steps"] == 8
    assert learned.learning["target"] == "interval"
    module: Any = denoiser.module
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] += 1.0
    assert fingerprint(denoiser) != learned.model["sha256"]
    assert fingerprint(world()) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 8, "teacher_steps": 12}, r"multiple of steps=8.*try 128"),
        ({"steps": 4, "rows": 0}, "rows=0"),
        ({"steps": 4, "learning_rate": 0.0}, "learning_rate=0.0"),
        ({"steps": 4, "fit": "sgd"}, "closed, gradient"),
        ({"steps": 4, "target": "intervals"}, "Did you mean 'interval'"),
        ({"steps": 4, "divergence": "kl"}, "squared, score-entropy"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Learning(**options)


def test_solvers_that_cannot_learn_are_refused() -> None:
    with pytest.raises(ValueError, match="learned numbers already"):
        learn(world(), LearnedEuler(learned=LearnedSteps((1.0,))), steps=4)
    with pytest.raises(ValueError, match="base='heun'"):
        learn(world(), "heun", steps=4)
    with pytest.raises(TypeError, match="steps: must be given"):
        learn(world(), "euler")
    with pytest.raises(ValueError, match="multiple of 2"):
        learn(world(), "theta-trapezoidal", steps=5, teacher_steps=10)
    carrying = world()
    carrying.carries = True
    with pytest.raises(ValueError, match="carries a state"):
        learn(carrying, "euler", steps=4, teacher_steps=8)
    with pytest.raises(TypeError, match="step"):
        learn(world(), "euler", step=5)
