"""The law of the positions of a step: all trajectories add up to 1, and runs follow it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from dlm_sampling import Rollout, generate, replay, samplers, wrap
from dlm_sampling.likelihood.tables import Steps, Writes
from dlm_sampling.testing import chi_square
from dlm_sampling.types import Drawn, TokenLaw
from dlm_sampling.types.values import distinct
from tests.likelihood.test_retake import Noisy, runs_of, table
from tests.samplers.small import MASK, SYMBOLS, run, small_toy

LAW = TokenLaw()
CHOOSING: dict[str, tuple[Any, dict[str, Any]]] = {
    "ancestral": (samplers.Ancestral(t_end=0.1), {"steps": 2}),
    "tweedie": (samplers.Tweedie(t_end=0.1), {"steps": 2}),
    "euler": (samplers.Euler(t_end=0.3), {"steps": 3}),
    "tau-leaping": (samplers.TauLeaping(t_end=0.3), {"steps": 2, "times": (1.0, 0.7, 0.3)}),
    "psi": (samplers.create("psi-constant", eta=0.3), {"steps": 3}),
    "predictor-corrector": (samplers.PredictorCorrector(), {"steps": 2}),
    "dream-origin": (samplers.DreamOrigin(), {"steps": 3}),
    "reddit": (samplers.ReDDiT(t_end=0.2), {"steps": 2}),
    "llada-random": (samplers.create("llada-random"), {"steps": 2}),
    "llada-random in blocks": (samplers.create("llada-random"), {"steps": 3, "block_length": 2}),
    "p2-ancestral": (samplers.create("p2-ancestral"), {"steps": 2}),
    "p2-random in blocks": (samplers.create("p2-random"), {"steps": 4, "block_length": 2}),
    "p2-random": (samplers.create("p2-random"), {"steps": 3}),
    "remdm-cap": (samplers.create("remdm-cap", eta=0.4, t_end=0.1), {"steps": 3}),
    "remdm-loop": (samplers.create("remdm-loop", eta=0.1), {"steps": 4}),
    "dfm-corrector": (samplers.DFMCorrector(strength=0.5, t_end=0.3), {"steps": 3}),
    "first-hitting": (samplers.FirstHitting(), {"steps": 2}),
    "first-hitting on a grid": (samplers.FirstHitting(grid=True, t_end=0.2), {"steps": 2}),
    "bd3lm": (samplers.BD3LM(), {}),
}


def every_trajectory(name: str, length: int) -> Rollout:
    """All sequences of canvases in which masks are written and tokens at most masked again."""
    sampler, options = CHOOSING[name]
    out = run(small_toy(length=length), sampler, length=length, law=LAW, every_step=True, **options)
    one = Rollout.from_output(out)
    number = len(one.steps.row)
    again = (*range(SYMBOLS), MASK)
    paths = [
        path
        for path in itertools.product(again, repeat=number)
        if path[-1] != MASK
        and all(a == MASK or b in (a, MASK) for a, b in itertools.pairwise((MASK, *path)))
    ]
    chains = torch.tensor(list(itertools.product(paths, repeat=length)))  # [n, length, steps]
    before = torch.cat([torch.full_like(chains[..., :1], MASK), chains[..., :-1]], -1)
    step, row, position = (before != chains).permute(2, 0, 1).nonzero(as_tuple=True)
    token = chains[row, position, step]
    rollout = one.select(torch.zeros(len(chains), dtype=torch.int64))
    writes = Writes(
        row.int(), step.int(), position.int(), token.int(), token == MASK,
        torch.full_like(row, Drawn.FROM_LAW, dtype=torch.int8), torch.zeros(len(row)),
    )  # fmt: skip
    return replace(
        rollout, rows=rollout.rows._replace(tokens=chains[..., -1]), writes=writes,
        steps=Steps(*rollout.steps),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ancestral", "llada-random", "p2-random", "remdm-cap", "first-hitting", "psi"]
)
def test_all_trajectories_on_masks_add_up_to_one(name: str) -> None:
    rollout = every_trajectory(name, 2)
    found = replay(small_toy(length=2), rollout, positions=True)
    assert found.reveal_logprob is not None
    chance = (found.total + found.reveal_logprob.sum(1)).exp()
    assert abs(float(chance.sum()) - 1.0) <= 1e-12
    assert int((chance > 0).sum()) >= 9
    assert float(found.total.exp().sum()) > 1.5  # the tokens alone are no law of trajectories


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOOSING)
def test_runs_choose_their_positions_by_that_law(name: str) -> None:
    sampler, options = CHOOSING[name]
    out = run(small_toy(), sampler, rows=2000, seed=3, law=LAW, **options)
    assert out.trajectory is not None
    found = replay(small_toy(), out, positions=True, grad=False).reveal_logprob
    assert found is not None
    pattern = torch.zeros(2000, dtype=torch.int64)
    for event in out.trajectory.events:
        code = (event.unknown * torch.tensor([1, 2, 4])).sum(1)
        pattern[event.rows] = pattern[event.rows] * 8 + code
    same, place = distinct(pattern)
    first = torch.zeros_like(same).scatter(0, place, torch.arange(len(place)))
    chance, number = found.sum(1).exp(), torch.bincount(place)
    assert torch.allclose(chance, chance[first][place])  # it depends on the positions alone
    law = chance[first]
    often = law * len(place) > 10.0  # which of the rare ones were seen is no chance of theirs
    law, number = (
        torch.cat([x, (all_ - x.sum()).unsqueeze(0)])
        for x, all_ in ((law[often], 1.0), (number[often], len(place)))
    )
    assert len(law) >= 3
    assert chi_square(number, law.clamp_min(0.0)).p > 1e-4


def test_what_the_canvas_decides_is_certain() -> None:
    toy = small_toy()
    for name, law in (
        ("llada", TokenLaw(temperature=0.0)),
        ("fast-dllm", TokenLaw(temperature=0.0)),
        ("llada-margin", LAW),
        ("eb-sampler", LAW),
        ("sdar-sequential", LAW),
        ("glauber", LAW),
    ):
        out = run(toy, samplers.create(name), rows=2, law=law)
        found = replay(toy, out, positions=True, grad=False).reveal_logprob
        assert found is not None
        assert found.shape[1] >= 1
        assert found.abs().max() == 0.0
    out = run(toy, samplers.Glauber(scan="random"), rows=2, law=LAW, steps=5)
    found = replay(toy, out, positions=True, grad=False).reveal_logprob
    wanted = -torch.tensor([3.0, 2.0, 1.0, 3.0, 3.0]).double().log()
    assert found is not None
    assert (found - wanted).abs().max() <= 1e-12


@pytest.mark.parametrize("name", ["ancestral", "psi", "predictor-corrector", "theta-trapezoidal"])
def test_without_a_mask_every_position_is_drawn(name: str) -> None:
    out = runs_of(samplers.create(name), [5, 6])
    found = replay(Noisy(table()), Rollout.from_output(out), positions=True, grad=False)
    assert found.reveal_logprob is not None
    assert found.reveal_logprob.shape == (2, int(out.steps.max()))
    assert found.reveal_logprob.abs().max() == 0.0


@pytest.mark.parametrize(
    "name",
    ["llada", "maskgit", "dream-maskgit-plus", "remdm-conf", "theta-trapezoidal", "ccd", "klass"],
)
def test_choices_that_read_what_was_drawn_are_refused_by_name(name: str) -> None:
    toy = small_toy()
    sampler = samplers.create(name)
    if name == "ccd":
        sampler = samplers.create(name, order="confidence")
    out = run(toy, sampler, rows=1, law=LAW)
    kind = type(sampler).__name__
    with pytest.raises(ValueError, match=f"positions=True: run was sampled by {kind}, whose"):
        replay(toy, out, positions=True)
    with pytest.raises(TypeError, match="positions=1"):
        replay(toy, out, positions=1)  # pyright: ignore[reportArgumentType]


def test_positions_that_something_else_chose_are_refused() -> None:
    def flat(input_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*input_ids.shape, 4)

    toy = wrap(flat, vocab_size=4, mask_token_id=3)
    for options, name in (
        ({"start": [[2, 3, 3]], "t_start": 0.8}, "start"),
        ({"max_nfe": 2}, "max_nfe"),
        ({"eos": "fill", "eos_token_id": 0}, "fill behind its stop"),
    ):
        given: Any = options
        out = generate(
            toy, [[0, 1]], sampler="ancestral", max_new_tokens=3, return_trajectory=True, seed=0,
            **given,
        )  # fmt: skip
        with pytest.raises(ValueError, match=f"positions=True: the run had a {name}"):
            replay(toy, out, positions=True)
