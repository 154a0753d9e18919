"""Planned denoising with masked denoisers: a planner's canvas under masks, and self-planning."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.processes.planned import UniformTokens, level_of, noise_from_clean
from dlm_sampling.samplers import Planned, PlannedSelf, create
from dlm_sampling.schedules import LINEAR
from dlm_sampling.testing import EnumerableDenoiser, chi_square, count_states, tv
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import TokenLaw

LENGTH, SYMBOLS, MASK, P_LIMIT = 2, 3, 3, 1e-4
STATES = all_states(LENGTH, SYMBOLS)
CHOICES = torch.tensor(list(itertools.product([False, True], repeat=LENGTH)))


def joint(length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn([SYMBOLS] * length, generator=generator)
    return (1.5 * weights.double()).flatten().softmax(0).view_as(weights)


def run(toy: Any, sampler: Any, rows: int, steps: int, **options: Any) -> SampleOutput:
    tokens = torch.zeros(rows, LENGTH, dtype=torch.int64)
    seeds = ops.row_seeds(steps + 1, rows)
    return sample(toy, sampler, tokens, tokens == 0, seeds=seeds, steps=steps, **options)


def index(x: Tensor) -> int:
    return int((x * SYMBOLS ** torch.arange(LENGTH - 1, -1, -1)).sum())


def drawn(toy: EnumerableDenoiser, x: Tensor, hidden: Tensor, where: Tensor) -> Tensor:
    """Law of the next state when the positions of `where` are drawn with those of `hidden` masked.

    [S ** L].
    """
    p = toy.probs(x.masked_fill(hidden, MASK).unsqueeze(0))[0, :, :SYMBOLS]
    kept = torch.nn.functional.one_hot(x, SYMBOLS).double()
    laws = torch.where(where.unsqueeze(1), p, kept)
    return (laws[0].unsqueeze(1) * laws[1]).flatten()


def coin(probs: Tensor, outcome: Tensor) -> Tensor:
    return torch.where(outcome, probs, 1.0 - probs)


NOISE = torch.rand(SYMBOLS, LENGTH, generator=torch.Generator().manual_seed(1)).double()


def rho(x: Tensor) -> Tensor:
    """A planner that depends on each token alone."""
    return NOISE[x, torch.arange(LENGTH)]


def masked_chain(toy: EnumerableDenoiser, steps: int) -> Tensor:
    """Coins at J rho, then masks at those positions and, with probability rho, at the others."""
    law = torch.full((len(STATES),), 1.0 / len(STATES), dtype=torch.float64)
    for k in range(steps):
        after = torch.zeros_like(law)
        for x in STATES:
            for where in CHOICES:
                chance = coin(rho(x) / (steps - k), where).prod()
                for extra in CHOICES:
                    if bool((extra & where).any()):
                        continue
                    share = torch.where(where, 1.0, coin(rho(x), extra)).prod()
                    mass = law[index(x)] * chance * share
                    after += mass * drawn(toy, x, where | extra, where)
        law = after
    return law


def test_a_masked_denoiser_sees_masks_where_the_planner_sees_noise() -> None:
    toy = EnumerableDenoiser(joint())
    sampler = Planned(lambda input_ids: rho(input_ids).logit(), LINEAR)
    out = run(toy, sampler, 40_000, 3)
    counts = count_states(out.tokens, SYMBOLS)
    assert chi_square(counts, masked_chain(toy, 3)).p > P_LIMIT
    assert bool((out.nfe <= 6).all()) and bool((out.nfe >= 3).all())


def test_all_noise_at_once_is_the_product_of_the_marginals() -> None:
    toy = EnumerableDenoiser(joint())
    sampler = Planned(lambda input_ids: torch.full(input_ids.shape, 40.0), LINEAR)
    out = run(toy, sampler, 20_000, 1)
    p = joint()
    law = (p.sum(1, keepdim=True) * p.sum(0, keepdim=True)).flatten()
    assert chi_square(count_states(out.tokens, SYMBOLS), law).p > P_LIMIT


class Watched:
    """A masked network that keeps what it is shown."""

    def __init__(self, vocab_size: int = 6, mask: int = 2) -> None:
        self.seen: list[Tensor] = []
        self.times: list[Tensor] = []
        self.denoiser = wrap(self.forward, vocab_size=vocab_size, mask_token_id=mask)

    def forward(self, input_ids: Tensor, t: Tensor) -> Tensor:
        self.seen.append(input_ids.clone())
        self.times.append(t)
        return torch.zeros(*input_ids.shape, self.denoiser.vocab_size)


def test_the_first_canvas_is_uniform_over_all_ids_but_the_mask() -> None:
    for mask in (0, 2, 5):
        toy = Watched(6, mask).denoiser
        planner = torch.zeros_like
        sampler = Planned(lambda input_ids, f=planner: f(input_ids).double())
        tokens = torch.zeros(6_000, 2, dtype=torch.int64)
        out = sample(
            toy,
            sampler,
            tokens,
            tokens == 0,
            seeds=ops.row_seeds(1, 6_000),
            steps=1,
            return_trajectory=True,
        )
        assert out.trajectory is not None
        counts = torch.bincount(out.trajectory.initial.flatten(), minlength=6)
        law = torch.full((6,), 0.2)
        law[mask] = 0.0
        assert chi_square(counts, law).p > P_LIMIT
        assert not bool((out.tokens == mask).any())
        assert UniformTokens(mask).mask_token_id is None


def test_prompts_blocks_and_times_of_the_masked_denoiser() -> None:
    """The prompt is shown, later blocks are masked, the time is that of the masks of the block."""
    network = Watched()
    sampler = Planned(lambda input_ids: torch.full(input_ids.shape, -30.0), LINEAR)
    tokens = torch.full((1, 9), 4)
    editable = torch.arange(9).unsqueeze(0) >= 1
    run_one = dict(seeds=[1], steps=4, block_length=4)
    out = sample(network.denoiser, sampler, tokens, editable, **run_one)  # type: ignore[arg-type]
    assert not network.seen and bool((out.nfe == 4).all())  # no noise, nothing to ask about
    sampler = Planned(lambda input_ids: torch.full(input_ids.shape, 30.0), LINEAR)
    sample(network.denoiser, sampler, tokens, editable, **run_one)  # type: ignore[arg-type]
    first = network.seen[0][0]
    assert int(first[0]) == 4 and bool((first[1:] == 2).all())
    assert float(network.times[0]) == 1.0
    later = network.seen[-1][0]
    assert not bool((later[:5] == 2).any()) and bool((later[5:] == 2).all())


def test_the_chosen_position_is_masked_whatever_the_plan() -> None:
    """One position at a time: with a sure plan exactly the chosen one is masked."""
    network = Watched()
    log_odds = torch.tensor([-40.0, -40.0, -4.0, -40.0])
    sampler = create("planned-greedy", planner=lambda input_ids: log_odds.expand(input_ids.shape))
    tokens = torch.zeros(50, 4, dtype=torch.int64)
    sample(network.denoiser, sampler, tokens, tokens == 0, seeds=ops.row_seeds(1, 50), steps=2)
    assert len(network.seen) == 2  # the final pass finds nothing above its threshold
    for seen, t in zip(network.seen, network.times, strict=True):
        assert bool((seen[:, 2] == 2).all()) and bool(((seen == 2).sum(1) == 1).all())
        assert float(t[0]) == pytest.approx(0.25, abs=1e-3)


def test_the_final_argmax_is_never_the_mask() -> None:
    """The released one may be: its network is asked for the best of all columns."""
    toy = wrap(
        lambda input_ids: torch.tensor([0.0, 1.0, 2.0, 9.0]).expand(*input_ids.shape, 4),
        vocab_size=4,
        mask_token_id=MASK,
    )
    for ending in ("argmax", "resample"):
        sampler = create(
            "planned-greedy",
            planner=lambda input_ids: torch.full(input_ids.shape, 40.0),
            ending=ending,
        )
        out = run(toy, sampler, 200, 1)
        assert not bool((out.tokens == MASK).any())
        if ending == "argmax":
            assert bool((out.tokens == 2).all())


# Self-planning.


def self_law(toy: EnumerableDenoiser, rounds: int) -> Tensor:
    """Exact passes, one position each, every other token shown: all paths of canvas and level."""
    paths = {(index(x), 0.0): 1.0 / len(STATES) for x in STATES}
    single = torch.eye(LENGTH).bool()
    everywhere = torch.ones(1, LENGTH).bool()
    for k in range(rounds):
        following: dict[tuple[int, float], float] = {}
        for (state, level), mass in paths.items():
            x = STATES[state]
            p = torch.stack(
                [toy.probs(x.masked_fill(single[i], MASK).unsqueeze(0))[0, i] for i in (0, 1)]
            )[:, :SYMBOLS]
            clean = p.gather(1, x.unsqueeze(1)).T
            found = level_of(clean, everywhere, torch.tensor([level]).double(), SYMBOLS)
            noise = noise_from_clean(clean, found.unsqueeze(1), SYMBOLS)[0]
            laws = PlannedSelf().next_law(p, noise, x, torch.tensor(rounds - k))
            after = (laws[0].unsqueeze(1) * laws[1]).flatten()
            for target, chance in enumerate(after.tolist()):
                key = (target, float(found))
                following[key] = following.get(key, 0.0) + mass * chance
        paths = following
    law = torch.zeros(len(STATES), dtype=torch.float64)
    for (state, _), mass in paths.items():
        law[state] += mass
    return law


@pytest.mark.parametrize("rounds", [1, 2])
def test_self_planning_has_the_law_of_its_formula(rounds: int) -> None:
    toy = EnumerableDenoiser(joint())
    sampler = PlannedSelf(None, hide_noise=False)
    out = run(toy, sampler, 30_000, 2 * rounds)
    counts = count_states(out.tokens, SYMBOLS)
    assert chi_square(counts, self_law(toy, rounds)).p > P_LIMIT
    assert bool((out.nfe == 2 * rounds).all())
    cold = run(toy, sampler, 30_000, 2 * rounds, law=TokenLaw(temperature=0.9))
    assert chi_square(count_states(cold.tokens, SYMBOLS), self_law(toy, rounds)).p < P_LIMIT


def test_self_planning_beats_independence() -> None:
    p = joint()
    independent = tv((p.sum(1, keepdim=True) * p.sum(0, keepdim=True)).flatten(), p.flatten())
    for hide in (False, True):
        out = run(EnumerableDenoiser(p), PlannedSelf(None, hide), 4_000, 16)
        law = count_states(out.tokens, SYMBOLS) / 4_000
        assert tv(law, p.flatten()) < 0.5 * independent


def test_passes_ask_about_every_position_once_per_round() -> None:
    """Groups that differ by one position at most; in a pass its group is masked, nothing else."""
    network = Watched(9, 2)
    tokens = torch.full((1, 8), 4)
    editable = torch.arange(8).unsqueeze(0) >= 1
    sampler = PlannedSelf(3, hide_noise=False)
    out = sample(network.denoiser, sampler, tokens, editable, seeds=[1], steps=7)
    assert int(out.nfe) == 6 and int(out.steps) == 7  # two rounds of three, one step left over
    for k in (0, 3):
        masks = torch.cat([seen == 2 for seen in network.seen[k : k + 3]])
        assert torch.equal(masks.sum(0), editable[0].long())
        assert sorted(masks.sum(1).tolist()) == [2, 2, 3]
    assert not torch.equal(network.seen[0] == 2, network.seen[3] == 2)
    few = sample(network.denoiser, sampler, tokens, editable, seeds=[1], steps=2)
    assert int(few.nfe) == 2


def test_hidden_noise_starts_from_masks() -> None:
    network = Watched(9, 2)
    tokens = torch.full((1, 8), 4)
    editable = torch.arange(8).unsqueeze(0) >= 1
    sample(network.denoiser, PlannedSelf(4), tokens, editable, seeds=[1], steps=16)
    assert all(bool((seen[:, 1:] == 2).all()) for seen in network.seen[:4])
    assert not bool((network.seen[-1][:, 1:] == 2).all())
    assert all(int(seen[0, 0]) == 4 for seen in network.seen)


def test_what_does_not_fit_is_refused_by_name() -> None:
    uniform = wrap(
        lambda input_ids: torch.zeros(*input_ids.shape, 5), vocab_size=5, mask_token_id=None
    )
    tokens = torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"PlannedSelf is for absorbing noise"):
        sample(uniform, PlannedSelf(), tokens, tokens == 0, seeds=[0])
    with pytest.raises(ValueError, match="passes=0"):
        PlannedSelf(0)
