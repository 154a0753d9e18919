"""What the tests of adaptive samplers share: small denoisers, runs, and the exact law of a rule."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers import wrap
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.testing import (
    ChiSquare,
    EnumerableDenoiser,
    FixtureToy,
    chi_square,
    count_states,
    load_toys,
)
from dlm_sampling.types import Sampler, TokenLaw
from tests.parity.folders import fixtures_folder

GREEDY = TokenLaw(temperature=0.0)
P_LIMIT = 1e-4

Choose = Callable[[dict[int, list[float]], dict[int, int]], set[int]]
"""The rule of a paper in plain Python: laws and drawn tokens by position -> positions to write."""


@cache
def toys() -> dict[str, FixtureToy]:
    """The toys of the fixtures; every logit depends on every token of the canvas."""
    return load_toys(fixtures_folder() / "samplers" / "toys.safetensors")


def enumerable(name: str) -> EnumerableDenoiser:
    """An exact denoiser of the law fixtures."""
    joint = json.loads((fixtures_folder() / "laws" / "toys.json").read_text())["toys"][name]
    return EnumerableDenoiser(torch.tensor(joint, dtype=torch.float64))


def constant(probs: Sequence[Sequence[float]]) -> Denoiser:
    """Fixed laws, one per position; the canvas does not matter and the mask has the last column."""
    table = torch.tensor(probs, dtype=torch.float64).log()
    table = torch.nn.functional.pad(table, (0, 1), value=float("-inf"))
    return wrap(
        lambda input_ids: table[: input_ids.shape[1]].expand(len(input_ids), -1, -1),
        vocab_size=table.shape[1],
        mask_token_id=table.shape[1] - 1,
    )


def peaked(confidences: Sequence[float], symbols: int = 4) -> Denoiser:
    """`constant` with token 0 at the given probability and the others sharing the rest."""
    return constant([[c] + [(1.0 - c) / (symbols - 1)] * (symbols - 1) for c in confidences])


def run(
    denoiser: Denoiser,
    sampler: Sampler[Any],
    length: int,
    *,
    prompt: Sequence[int] = (),
    rows: int = 1,
    law: TokenLaw = GREEDY,
    seed: int = 20261121,
    **options: Any,
) -> SampleOutput:
    """Write `length` positions after a prompt, in `rows` rows."""
    tokens = torch.zeros(rows, len(prompt) + length, dtype=torch.int64)
    tokens[:, : len(prompt)] = torch.tensor(list(prompt), dtype=torch.int64)
    editable = (torch.arange(tokens.shape[1]) >= len(prompt)).expand(tokens.shape)
    seeds = ops.row_seeds(seed, rows)
    return sample(denoiser, sampler, tokens, editable, seeds=seeds, law=law, **options)


def written_per_step(out: SampleOutput, row: int = 0) -> list[list[int]]:
    """The columns that each step of a row wrote; the run must have kept its trajectory."""
    assert out.trajectory is not None
    steps = out.trajectory.steps(row)
    return [event.written[i].nonzero().squeeze(1).tolist() for event, i in steps]


def same_run(a: SampleOutput, b: SampleOutput) -> bool:
    """Same tokens, NFE and, bit for bit, log-probabilities."""
    return all(
        torch.equal(x, y) for x, y in ((a.tokens, b.tokens), (a.nfe, b.nfe), (a.logprob, b.logprob))
    )


def rule_law(toy: EnumerableDenoiser, choose: Choose) -> Tensor:
    """The exact law of the final states under a rule, at temperature 1, by enumerating all draws.

    From every partly written state all joint draws at the unknown positions are followed with their
    probability; the rule says which of the drawn tokens are written.
    """
    assert toy.max_length is not None
    length, symbols, mask = toy.max_length, toy.vocab_size - 1, toy.vocab_size - 1
    mass: dict[tuple[int, ...], float] = {(mask,) * length: 1.0}
    final = torch.zeros(symbols**length, dtype=torch.float64)
    while mass:
        state = max(mass, key=lambda s: s.count(mask))
        weight = mass.pop(state)
        unknown = [i for i in range(length) if state[i] == mask]
        if not unknown:
            final[sum(v * symbols ** (length - 1 - i) for i, v in enumerate(state))] += weight
            continue
        probs = toy.probs(torch.tensor([state]))[0]
        laws = {i: probs[i, :symbols].tolist() for i in unknown}
        for draws in itertools.product(range(symbols), repeat=len(unknown)):
            drawn = dict(zip(unknown, draws, strict=True))
            chance = weight
            for i, v in drawn.items():
                chance *= laws[i][v]
            chosen = choose(laws, drawn)
            assert chosen, "a rule writes at least one position"
            after = tuple(drawn[i] if i in chosen else state[i] for i in range(length))
            mass[after] = mass.get(after, 0.0) + chance
    return final


def against_rule(
    sampler: Sampler[Any], choose: Choose, toy_name: str = "mask_strong", rows: int = 6_000
) -> ChiSquare:
    """Chi-square of real draws against the exact law of the rule."""
    toy = enumerable(toy_name)
    assert toy.max_length is not None
    out = run(toy, sampler, toy.max_length, rows=rows, law=TokenLaw())
    return chi_square(count_states(out.tokens, toy.vocab_size - 1), rule_law(toy, choose))


def confidence(laws: dict[int, list[float]], drawn: dict[int, int]) -> dict[int, float]:
    """Probability of the drawn token at every position."""
    return {i: laws[i][v] for i, v in drawn.items()}


def best(score: dict[int, float]) -> int:
    """The position of largest score, the lowest of equals."""
    return min(score, key=lambda i: (-score[i], i))
