"""Planned denoising with a uniform denoiser: chain laws, the data law, plans, NFE, errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.denoisers import AutoDenoiser, DDPDPlanner
from dlm_sampling.denoisers.planner import loaded_planner
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.processes import Uniform
from dlm_sampling.processes.planned import (
    clean_probability,
    level_of,
    noise_from_clean,
)
from dlm_sampling.samplers import (
    Planned,
    PlannedAdaptive,
    PlannedGillespie,
    PlannedGreedy,
    SamplerBase,
    create,
)
from dlm_sampling.samplers.planned import Jump
from dlm_sampling.schedules import LINEAR, Cosine, LogLinear, grid_time
from dlm_sampling.testing import (
    NoisyEnumerableDenoiser,
    chi_square,
    count_states,
    exact_chain_law,
    product_law,
    tv,
)
from dlm_sampling.testing.laws import all_states
from dlm_sampling.testing.oracles import next_position
from dlm_sampling.text.generate import generate
from dlm_sampling.types import PredictionKind, TokenLaw
from tests.parity.folders import fixtures_folder

LENGTH, SYMBOLS, P_LIMIT = 2, 3, 1e-4
KINDS: tuple[PredictionKind, ...] = ("posterior", "leave_one_out", "log_score")
MODELS = fixtures_folder() / "models"


def joint(seed: int = 3, scale: float = 1.5, length: int = LENGTH) -> Tensor:
    weights = torch.randn([SYMBOLS] * length, generator=torch.Generator().manual_seed(seed))
    return (scale * weights.double()).flatten().softmax(0).view_as(weights)


def world(kind: PredictionKind = "leave_one_out", length: int = LENGTH) -> NoisyEnumerableDenoiser:
    return NoisyEnumerableDenoiser(joint(length=length), kind=kind, schedule=LINEAR)


class Oracle:
    """The exact log-odds of noise, on a schedule of its own; counts the rows that it is asked."""

    schedule = LogLinear(0.0)

    def __init__(self, length: int = LENGTH) -> None:
        self.exact, self.rows = world(length=length), 0

    def __call__(self, input_ids: Tensor, t: Tensor) -> Tensor:
        self.rows += len(input_ids)
        return self.noise(input_ids, t).logit()

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        clean = self.exact(x, t=t).values.exp().gather(-1, x.unsqueeze(-1)).squeeze(-1)
        return noise_from_clean(clean, 1.0 - t.unsqueeze(1), SYMBOLS)


class TimelessOracle:
    """What the released objective learns, with times drawn evenly: the mean over t given x."""

    def __init__(self) -> None:
        self.oracle = Oracle()
        t = (torch.arange(200).double() + 0.5) / 200
        states, law = all_states(LENGTH, SYMBOLS), joint().flatten()
        noise = torch.stack([self.oracle.noise(states, s.expand(len(states))) for s in t])
        kernel = self.oracle.exact.kernel(1.0 - t)  # [T, S, S]
        across = [product_law(k[states]) for k in kernel]
        weight = torch.stack([law @ k for k in across]).unsqueeze(-1)  # p_t(x)
        self.table = (weight * noise).sum(0) / weight.sum(0)

    def __call__(self, input_ids: Tensor) -> Tensor:
        place = SYMBOLS ** torch.arange(LENGTH - 1, -1, -1)
        return self.table[(input_ids * place).sum(1)].logit()


def run(
    toy: Any, sampler: Any, rows: int, steps: int, length: int = LENGTH, **options: Any
) -> SampleOutput:
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    return sample(
        toy,
        sampler,
        tokens,
        options.pop("editable", torch.ones_like(tokens).bool()),
        seeds=ops.row_seeds(steps + 1, rows),
        steps=steps,
        **options,
    )


def grid_law(sampler: Planned, steps: int) -> Tensor:
    """The chain of `next_law` at the exact plan, propagated over all states."""
    exact, total = world(), torch.tensor(steps)
    alpha_of = sampler.schedule.alpha

    def step(states: Tensor, k: int) -> Tensor:
        t, s = (grid_time(torch.tensor(k + i), total, 0.0) for i in (0, 1))
        alpha = alpha_of(t)
        loo = exact(states, t=(1.0 - alpha).expand(len(states))).values.exp()
        clean = loo.gather(-1, states.unsqueeze(-1)).squeeze(-1)
        noise = noise_from_clean(clean, alpha, SYMBOLS)
        return sampler.next_law(loo, noise, states, t, s, last=k == steps - 1)

    start = torch.full((SYMBOLS**LENGTH,), 1.0 / SYMBOLS**LENGTH)
    return exact_chain_law(step, steps, length=LENGTH, vocab_size=SYMBOLS, start=start)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jump", ["integrated", "last"])
def test_the_sampled_law_is_the_propagated_law(jump: Jump, kind: PredictionKind) -> None:
    """Planning with the denoiser itself, whatever it predicts."""
    sampler = Planned(schedule=Cosine(0.01), jump=jump)
    out = run(world(kind), sampler, 12_000, 3)
    assert bool((out.nfe == 3).all()) and bool((out.steps == 3).all())
    law = grid_law(sampler, 3)
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p > P_LIMIT


@pytest.mark.parametrize("jump", ["integrated", "last"])
def test_a_planner_gives_the_same_law(jump: Jump) -> None:
    """Two networks, two NFE where something is redrawn and one where nothing is."""
    planner, steps, rows = Oracle(), 4, 12_000
    sampler = Planned(planner=planner, jump=jump)
    asked: list[int] = []
    toy = world()
    predict = toy._predict

    def counted(x: Tensor, alpha: Tensor) -> Tensor:
        asked.append(len(x))
        return predict(x, alpha)

    toy._predict = counted  # type: ignore[method-assign]
    out = run(toy, sampler, rows, steps)
    assert chi_square(count_states(out.tokens, SYMBOLS), grid_law(sampler, steps)).p > P_LIMIT
    assert planner.rows == rows * steps
    assert int(out.nfe.sum()) == planner.rows + sum(asked)
    assert steps < float(out.nfe.double().mean()) < 2 * steps


def test_a_wrong_plan_is_far_from_the_law() -> None:
    """Negative control: a planner that is a fifth too sure of noise."""

    class Eager(Oracle):
        def noise(self, x: Tensor, t: Tensor) -> Tensor:
            return (1.2 * super().noise(x, t)).clamp(max=1.0)

    sampler = Planned(planner=Eager())
    out = run(world(), sampler, 20_000, 4)
    assert chi_square(count_states(out.tokens, SYMBOLS), grid_law(sampler, 4)).p < 1e-12


def test_the_error_of_the_grid_falls_with_the_step() -> None:
    errors = [tv(grid_law(Planned(), n), joint().flatten()) for n in (8, 16, 64)]
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.4)
    assert errors[2] < 0.01


@pytest.mark.parametrize("by", ["itself", "planner"])
def test_thinned_gillespie_has_the_data_law(by: str) -> None:
    planner = Oracle() if by == "planner" else None
    sampler = PlannedGillespie(planner=planner, wait="thinned", t_end=0.005)
    out = run(world(), sampler, 30_000, LENGTH)
    counts = count_states(out.tokens, SYMBOLS)
    assert chi_square(counts, joint().flatten()).p > P_LIMIT
    rate = 2 * 5.3 + 1  # n ln(1 / t_end) proposals, and the final draw
    if planner is None:
        assert float(out.nfe.double().mean()) == pytest.approx(rate, rel=0.02)
        assert bool((out.nfe == out.steps).all())
    else:
        assert int(out.nfe.sum()) > planner.rows == int(out.steps.sum())


def test_waiting_at_a_frozen_plan_is_not_exact_for_models_that_see_the_time() -> None:
    """Negative control of the test above."""
    counts = count_states(run(world(), PlannedGillespie(), 20_000, LENGTH).tokens, SYMBOLS)
    assert chi_square(counts, joint().flatten()).p < 1e-12


def frozen_law(logits: Tensor, p: Tensor, t_end: float) -> Tensor:
    """Jumps of fixed rates over the time H(t_end), by the matrix exponential, then posteriors."""
    states = all_states(LENGTH, SYMBOLS)
    noise, rates = logits.sigmoid(), torch.zeros(len(states), len(states), dtype=torch.float64)
    final = torch.ones(len(states), len(states), dtype=torch.float64)
    for a, x in enumerate(states):
        for b, y in enumerate(states):
            differ = (x != y).nonzero().flatten().tolist()
            if len(differ) == 1:
                i = differ[0]
                rates[a, b] = noise[a, i] * p[a, i, y[i]]
            for i in range(LENGTH):
                stay = 1.0 - noise[a, i] if x[i] == y[i] else 0.0
                final[a, b] *= noise[a, i] * p[a, i, y[i]] + stay
    rates -= torch.diag(rates.sum(1))
    start = torch.full((len(states),), 1.0 / len(states), dtype=torch.float64)
    linalg: Any = torch.linalg
    return start @ linalg.matrix_exp(-torch.log(torch.tensor(t_end).double()) * rates) @ final


def test_frozen_gillespie_is_exact_for_a_planner_that_sees_no_time() -> None:
    generator = torch.Generator().manual_seed(2)
    shape = (SYMBOLS,) * LENGTH
    logits = torch.randn(*shape, LENGTH, generator=generator).double()
    p = torch.randn(*shape, LENGTH, SYMBOLS, generator=generator).double().softmax(-1)

    def planner(input_ids: Tensor) -> Tensor:
        return logits[tuple(input_ids.T)]

    toy = wrap(
        lambda input_ids: p[tuple(input_ids.T)].log(),
        vocab_size=SYMBOLS,
        mask_token_id=None,
        kind="leave_one_out",
    )
    sampler = PlannedGillespie(planner=planner, t_end=0.05)
    counts = count_states(run(toy, sampler, 40_000, 4).tokens, SYMBOLS)
    flat = logits.flatten(0, 1), p.flatten(0, 1)
    assert chi_square(counts, frozen_law(*flat, 0.05)).p > P_LIMIT
    assert chi_square(counts, frozen_law(*flat, 0.2)).p < 1e-6


def test_the_budget_ends_a_planner_that_never_has_enough() -> None:
    def planner(input_ids: Tensor) -> Tensor:
        return torch.full(input_ids.shape, 9.0)

    sampler = PlannedGillespie(planner=planner, t_end=1e-6, budget=2)
    out = run(world(), sampler, 50, 3)
    assert bool((out.steps == 6).all())
    assert bool((out.nfe <= 12).all())


def independent() -> float:
    p = joint()
    return tv((p.sum(1, keepdim=True) * p.sum(0, keepdim=True)).flatten(), p.flatten())


@pytest.mark.parametrize("planner", [None, TimelessOracle()], ids=["itself", "planner"])
@pytest.mark.parametrize("name", ["planned-adaptive", "planned-greedy"])
def test_without_a_clock_the_law_is_biased_but_better_than_independence(
    name: str, planner: TimelessOracle | None
) -> None:
    options = {"ending": "resample"} if name == "planned-greedy" else {}
    sampler = create(name, planner=planner, **options)
    rows, steps = 8_000, 8
    out = run(world(), sampler, rows, steps)
    law = count_states(out.tokens, SYMBOLS) / rows
    assert tv(law, joint().flatten()) < 0.7 * independent()
    longest = sampler.schedule_length(steps)
    assert longest is not None
    assert bool((out.nfe <= longest * (1 if planner is None else 2)).all())


def test_the_adaptive_sampler_stops_when_nothing_is_noise() -> None:
    """A planner that calls every 0 noise; the denoiser writes anything but 0."""
    toy = wrap(
        lambda input_ids: torch.tensor([-30.0, 0.0, 0.0]).expand(*input_ids.shape, 3),
        vocab_size=SYMBOLS,
        mask_token_id=None,
        kind="leave_one_out",
    )

    def planner(input_ids: Tensor) -> Tensor:
        return torch.where(input_ids == 0, 20.0, -20.0)

    for steps in (2, 12):
        out = run(toy, PlannedAdaptive(planner=planner), 200, steps, 12, return_trajectory=True)
        assert out.trajectory is not None
        zeros = (out.trajectory.initial == 0).sum(1)
        assert not bool((out.tokens == 0).any())
        kept = out.trajectory.initial != 0
        assert torch.equal(out.tokens[kept], out.trajectory.initial[kept])
        if steps == 12:  # a step per token, and one more that finds nothing, if any step is left
            assert torch.equal(out.steps, (zeros + 1).clamp(max=12))
            assert torch.equal(out.nfe, out.steps + zeros)


def test_the_adaptive_sampler_divides_the_noise_among_the_steps_that_are_left() -> None:
    """As above, with three steps: a third, a half of the rest, and the rest."""
    toy = wrap(
        lambda input_ids: torch.tensor([-30.0, 0.0, 0.0]).expand(*input_ids.shape, 3),
        vocab_size=SYMBOLS,
        mask_token_id=None,
        kind="leave_one_out",
    )

    def planner(input_ids: Tensor) -> Tensor:
        return torch.where(input_ids == 0, 60.0, -60.0)

    out = run(toy, PlannedAdaptive(planner=planner), 30, 3, 12, return_trajectory=True)
    assert out.trajectory is not None
    for row in range(30):
        left = [int((out.trajectory.initial[row] == 0).sum())]
        left += [int((event.tokens[r] == 0).sum()) for event, r in out.trajectory.steps(row)]
        first = left[0] - math.ceil(left[0] / 3)
        assert left == [left[0], first, first - math.ceil(first / 2), 0][: len(left)]


@pytest.mark.parametrize("jump", ["integrated", "last"])
def test_the_length_of_a_step_by_hand(jump: Jump) -> None:
    """On the linear schedule the share of noise falls from t to s, and both are (t - s) / t."""
    t, s = torch.tensor([0.9, 0.5]).double(), torch.tensor([0.6, 0.1]).double()
    found = Planned(schedule=LINEAR, jump=jump).amount(t, s)
    torch.testing.assert_close(found, (t - s) / t)
    curved = Planned(schedule=Cosine(0.0), jump=jump).amount(t, s)
    alpha = [torch.cos(0.5 * math.pi * u) for u in (t, s)]
    exact = (alpha[1] - alpha[0]) / (1 - alpha[0])
    if jump == "last":
        exact = (t - s) * 0.5 * math.pi * torch.sin(0.5 * math.pi * t) / (1 - alpha[0])
    torch.testing.assert_close(curved, exact)


def test_a_network_that_agrees_with_its_canvas_does_not_end_the_row_at_once() -> None:
    """It puts all mass on the tokens it sees; only what has been drawn can be called clean."""
    toy = wrap(
        lambda input_ids: 12.0 * torch.nn.functional.one_hot(input_ids, 50).float(),
        vocab_size=50,
        mask_token_id=None,
        kind="leave_one_out",
    )
    out = run(toy, PlannedAdaptive(), 20, 40, 40)
    assert bool((out.steps > 30).all())


def test_the_greedy_sampler_selects_by_softmax_of_the_log_odds() -> None:
    log_odds = torch.tensor([0.3, -1.2, 1.1, 0.0, 2.0])
    seen: list[Tensor] = []

    def planner(input_ids: Tensor) -> Tensor:
        return log_odds.expand(input_ids.shape)

    def network(input_ids: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.tensor([0.0, 1.0, -1.0]).expand(*input_ids.shape, 3)

    toy = wrap(network, vocab_size=3, mask_token_id=None, kind="leave_one_out")
    rows, law = 20_000, torch.tensor([0.0, 1.0, -1.0]).softmax(0)
    for heat in (1.0, 0.5):
        sampler = PlannedGreedy(planner, LINEAR, planner_temperature=heat)
        out = run(toy, sampler, rows, 1, 5, return_trajectory=True)
        assert out.trajectory is not None
        first = out.trajectory.events[0]
        where = first.logprob < 0
        assert bool((where.sum(1) == 1).all())
        assert chi_square(where.sum(0), next_position(log_odds, heat)).p > P_LIMIT
        assert chi_square(torch.bincount(first.tokens[where], minlength=3), law).p > P_LIMIT
        assert bool((out.nfe == 4).all())
        assert bool((out.tokens[:, log_odds.sigmoid() > 0.05] == 1).all())
    assert float(seen[0][0]) == pytest.approx(float(log_odds.sigmoid().mean()))


def test_the_final_pass_asks_the_planner_again() -> None:
    """The released loop ends on a plan from before its last update, and rewrites what it just did.

    Here the planner calls 0 noise and the denoiser's best token is 1: of five zeros two updates
    repair two, and the final pass sees three.
    """
    asked: list[int] = []

    def planner(input_ids: Tensor) -> Tensor:
        asked.append(int((input_ids == 0).sum()))
        return torch.where(input_ids == 0, 25.0, -25.0)

    toy = wrap(
        lambda input_ids: torch.tensor([-40.0, 40.0, 0.0]).expand(*input_ids.shape, 3),
        vocab_size=3,
        mask_token_id=None,
        kind="leave_one_out",
    )
    out = run(toy, PlannedGreedy(planner=planner), 1, 2, 20)
    assert len(asked) == 3 and asked[1] == asked[0] - 1 and asked[2] == asked[0] - 2 > 0
    assert not bool((out.tokens == 0).any())


def test_a_planner_that_is_sure_that_all_is_clean_is_no_division_by_zero() -> None:
    """The released loop redraws a token nevertheless; a posterior at level 1 is 0 / 0."""

    def planner(input_ids: Tensor) -> Tensor:
        return torch.full(input_ids.shape, -60.0)

    for kind in KINDS:
        out = run(world(kind), PlannedGreedy(planner), 20, 3, return_trajectory=True)
        assert out.trajectory is not None
        assert bool((out.trajectory.events[0].logprob != 0).sum(1).eq(1).all())
        assert bool(out.logprob.isfinite().all())


SAMPLERS: list[SamplerBase[Any]] = [
    Planned(planner=Oracle(3)),
    PlannedGillespie(planner=Oracle(3)),
    PlannedGillespie(planner=Oracle(3), wait="thinned"),
    PlannedAdaptive(planner=Oracle(3)),
    PlannedGreedy(planner=Oracle(3)),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_fixed_positions_are_no_noise(sampler: Any) -> None:
    """They stay, and the sums of the plan leave them out: the level is that of the others."""
    fixed = torch.tensor([True, False, True])
    out = run(world(length=3), sampler, 300, 4, 3, editable=~fixed.expand(300, 3))
    assert bool((out.tokens[:, fixed] == 0).all())
    # One position is left: at most a plan and a draw per step, and an event ends its noise.
    assert bool((out.nfe <= 2 * out.steps).all())


def test_the_level_counts_editable_positions_only() -> None:
    seen: list[Tensor] = []

    def network(input_ids: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.zeros(*input_ids.shape, 3)

    def planner(input_ids: Tensor) -> Tensor:
        return torch.tensor([9.0, 9.0, 0.0, 0.0]).expand(input_ids.shape)

    toy = wrap(network, vocab_size=3, mask_token_id=None, kind="leave_one_out")
    editable = torch.tensor([[False, True, True, True]])
    run(toy, PlannedAdaptive(planner, LINEAR), 1, 3, 4, editable=editable)
    noise = torch.tensor([9.0, 0.0, 0.0]).sigmoid().mean()
    assert float(seen[0]) == pytest.approx(float(noise), abs=1e-6)


class Ragged:
    """A planner that depends on every token it is shown."""

    def __init__(self) -> None:
        self.widths: set[int] = set()

    def __call__(self, input_ids: Tensor) -> Tensor:
        self.widths.add(input_ids.shape[1])
        return (input_ids.double().mean(1, keepdim=True) - input_ids).sin()


@pytest.mark.parametrize("name", ["planned", "planned-gillespie", "planned-adaptive"])
def test_rows_of_a_planner_do_not_depend_on_padding(name: str) -> None:
    """A planner without `attention_mask` never sees padding."""
    toy = wrap(
        lambda input_ids: torch.zeros(*input_ids.shape, 7),
        vocab_size=7,
        mask_token_id=None,
        kind="leave_one_out",
    )
    tokens = torch.tensor([[5, 5, 1, 0, 0], [1, 2, 3, 0, 0]])
    editable = torch.tensor([[False, False, False, True, True]]).expand(2, 5)
    attention = torch.tensor([[False, False, True, True, True], [True] * 5])
    planner = Ragged()
    together = sample(
        toy,
        create(name, planner=planner),
        tokens,
        editable,
        attention_mask=attention,
        seeds=[1, 2],
        steps=4,
    )
    assert planner.widths == {3, 5}
    alone = sample(
        toy, create(name, planner=Ragged()), tokens[:1, 2:], editable[:1, 2:], seeds=[1], steps=4
    )
    assert torch.equal(together.tokens[0, 2:], alone.tokens[0])
    assert int(together.nfe[0]) == int(alone.nfe[0])


def test_a_planner_by_name_is_loaded_once_and_equals_the_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy = wrap(
        lambda input_ids: torch.zeros(*input_ids.shape, 128),
        vocab_size=128,
        mask_token_id=None,
        kind="leave_one_out",
    )
    folder = MODELS / "ddpd_planner"
    options: dict[str, Any] = {"max_new_tokens": 6, "steps": 4, "seed": 3, "progress": False}
    given = DDPDPlanner.from_pretrained(folder)
    first = generate(
        toy, [[1, 2]], sampler="planned", sampler_options={"planner": given}, **options
    )
    loads: list[Any] = []
    load = DDPDPlanner.from_pretrained

    def counted(name: str | Path, **kwargs: Any) -> DDPDPlanner:
        loads.append(name)
        return load(name, **kwargs)

    monkeypatch.setattr(DDPDPlanner, "from_pretrained", staticmethod(counted))
    loaded_planner.cache_clear()
    sampler = create("planned", planner=str(folder))
    assert not loads
    for _ in range(2):
        second = generate(toy, [[1, 2]], sampler=sampler, **options)
        assert second.token_ids == first.token_ids
        assert torch.equal(second.nfe, first.nfe)
    assert loads == [str(folder)]


def test_the_released_networks_run_together() -> None:
    """A planner on tokens and a masked score network, as released for OpenWebText."""
    denoiser = AutoDenoiser.from_pretrained(MODELS / "ddpd_denoiser", tokenizer=None)
    assert denoiser.mask_token_id == 127
    for name in ("planned", "planned-gillespie", "planned-adaptive", "planned-greedy"):
        out = generate(
            denoiser,
            [[5, 6, 7], [9]],
            sampler=name,
            sampler_options={"planner": str(MODELS / "ddpd_planner")},
            max_new_tokens=7,
            steps=5,
            seed=1,
            progress=False,
        )
        assert [len(ids) for ids in out.token_ids] == [7, 7]
        assert not any(127 in ids for ids in out.token_ids)
        assert bool((out.nfe > out.steps).all())


def test_what_does_not_fit_is_refused_by_name() -> None:
    masked = wrap(lambda input_ids: torch.zeros(*input_ids.shape, 5), vocab_size=5, mask_token_id=4)
    tokens = torch.zeros(1, 3, dtype=torch.int64)
    for name in ("planned", "planned-gillespie", "planned-adaptive", "planned-greedy"):
        with pytest.raises(ValueError, match=r"planner=None.*planned-self"):
            sample(masked, create(name), tokens, tokens == 0, seeds=[0])
    with pytest.raises(ValueError, match=r"planner returned shape \(1, 3, 5\)"):
        run(masked, create("planned", planner=masked.fn), 1, 2, 3)  # type: ignore[attr-defined]
    small = DDPDPlanner.from_pretrained(MODELS / "ddpd_planner")
    large = wrap(
        lambda input_ids: torch.zeros(*input_ids.shape, 200), vocab_size=200, mask_token_id=None
    )
    with pytest.raises(ValueError, match="planner takes 128 ids, and the denoiser writes 200"):
        run(large, create("planned", planner=small), 1, 2, 3)
    for options in (
        {"jump": "euler"},
        {"wait": "never"},
        {"t_end": 0.0},
        {"t_end": 1.0},
        {"budget": 0},
        {"tol": -1.0},
        {"selection": "hard"},
        {"ending": "none"},
        {"planner_temperature": 0.0},
        {"threshold": 2.0},
    ):
        for name in ("planned", "planned-gillespie", "planned-adaptive", "planned-greedy"):
            try:
                create(name, **options)
            except ValueError as error:
                assert next(iter(options)) in str(error)
                break
            except TypeError:
                continue
        else:
            pytest.fail(f"{options} is accepted")


@pytest.mark.parametrize("kind", KINDS)
def test_one_number_of_the_network_gives_the_leave_one_out_probability(
    kind: PredictionKind,
) -> None:
    generator = torch.Generator().manual_seed(4)
    loo = torch.rand(40, 5, generator=generator).double()
    loo, x = loo / loo.sum(1, keepdim=True), torch.randint(5, (40,), generator=generator)
    alpha = torch.rand(40, generator=generator).double().clamp(0.05, 0.95)
    values = Uniform().convert(loo, x, alpha, "leave_one_out", kind)
    prob = (values / values.sum(1, keepdim=True)).gather(1, x.unsqueeze(1)).squeeze(1)
    expected = loo.gather(1, x.unsqueeze(1)).squeeze(1)
    found = clean_probability(prob, alpha, 5, kind)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_the_level_is_the_most_likely_one() -> None:
    """With a clean and a noisy position added: of the likelihood times alpha (1 - alpha)."""
    generator = torch.Generator().manual_seed(5)
    clean = torch.rand(1, 60, generator=generator).double() ** 2
    where = torch.ones_like(clean).bool()
    where[0, 50:] = False
    found = level_of(clean, where, torch.tensor([0.3]).double(), 8, iterations=400)
    grid = torch.linspace(0.001, 0.999, 999).double().unsqueeze(1)
    likelihood = (grid * clean[:, :50] + (1 - grid) / 8).log().sum(1)
    likelihood = likelihood + grid[:, 0].log() + (1 - grid[:, 0]).log()
    assert 0.05 < float(found) < 0.95
    assert float(found) == pytest.approx(float(grid[likelihood.argmax()]), abs=2e-3)
    started = torch.tensor([0.3]).double()
    short = level_of(clean, where, started, 8)
    assert float(started) < float(short) < float(found)


def test_temperature_cools_the_tokens_and_not_the_plan() -> None:
    """At temperature 0 the plan is the model's own: as many positions are redrawn as at 1."""
    toy = world()
    warm, cold = (
        run(toy, Planned(), 4_000, 4, law=TokenLaw(temperature=heat), return_trajectory=True)
        for heat in (1.0, 0.0)
    )
    for out in (warm, cold):
        assert out.trajectory is not None
    first = [out.trajectory.events[0] for out in (warm, cold) if out.trajectory is not None]
    assert torch.equal(first[0].before, first[1].before)
    moved = [(event.tokens != event.before).double().mean() for event in first]
    assert float(moved[1]) > 0.7 * float(moved[0])
    best = joint().flatten().argmax()
    counts = [float(count_states(out.tokens, SYMBOLS)[best]) for out in (warm, cold)]
    assert counts[1] > 1.4 * counts[0]
