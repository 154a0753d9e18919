"""Compare classifier-free guidance with the product law, exactly, and with particles.

A world is two random joint laws P and Q over three tokens at three positions; the target is
P^g Q^(1 - g) / Z.  Guidance draws each token from p^g q^(1 - g), normalised, of the exact
conditionals, one position per step in random order, so that its law is a sum over orders.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import samplers
from dlm_sampling.smc import ProductDenoiser, TiltedTarget, sample_particles
from dlm_sampling.testing import EnumerableDenoiser, tv

SIZE = 3
Record = dict[str, Any]


def world(seed: int) -> tuple[Tensor, Tensor]:
    """Return the laws P and Q, float64 [3, 3, 3] each."""
    g = torch.Generator().manual_seed(seed)
    laws = [torch.rand(SIZE, SIZE, SIZE, generator=g, dtype=torch.float64) ** 2 for _ in range(2)]
    p, q = (law / law.sum() for law in laws)
    return p, q


def guided_law(p: Tensor, q: Tensor, gamma: float) -> Tensor:
    """Return the exact law of guidance, float64 [3, 3, 3]: the mean over the orders of writing."""
    total = torch.zeros_like(p)
    for order in permutations(range(3)):
        law, left = torch.ones_like(p), set(order)
        for i in order:
            left = left - {i}
            law = law * _conditional(p, q, gamma, i, tuple(left))
        total = total + law / 6
    return total


def _conditional(p: Tensor, q: Tensor, gamma: float, i: int, hidden: tuple[int, ...]) -> Tensor:
    """Return the guided law of position i given the positions that are not hidden."""
    seen = [law.sum(hidden, keepdim=True) if hidden else law for law in (p, q)]
    laws = [law / law.sum(i, keepdim=True) for law in seen]
    mixed = laws[0] ** gamma * laws[1] ** (1.0 - gamma)
    return mixed / mixed.sum(i, keepdim=True)


def measure(seed: int, gamma: float, counts: tuple[int, ...], draws: int) -> Record:
    """Return the distances of one world.

    Args:
        seed: of the world.
        gamma: weight of P.
        counts: K, particles per row.
        draws: rows times K.
    """
    p, q = world(seed)
    table = p**gamma * q ** (1.0 - gamma)
    mass = float(table.sum())
    target = (table / mass).flatten()
    denoiser = ProductDenoiser([EnumerableDenoiser(p), EnumerableDenoiser(q)], [gamma, 1.0 - gamma])
    record: Record = {
        "seed": seed, "Z": mass, "guidance": tv(guided_law(p, q, gamma).flatten(), target),
        "particles": [],
    }  # fmt: skip
    for count in counts:
        groups = draws // count
        empty = torch.zeros(groups, 3, dtype=torch.int64)
        out = sample_particles(
            denoiser, samplers.create("llada-random"), empty, empty == 0, TiltedTarget(),
            particles=count, seeds=range(groups),
        )  # fmt: skip
        place = (out.tokens @ torch.tensor([9, 3, 1])).flatten()
        weights = out.log_weights.exp().flatten() / groups
        law = torch.zeros(27, dtype=torch.float64).index_add(0, place, weights)
        z = out.log_normalizer.exp()
        error = float(z.std() / math.sqrt(groups))
        record["particles"].append(
            {"K": count, "tv": tv(law, target), "Z": float(z.mean()), "Z_error": error}
        )
    g = torch.Generator().manual_seed(seed)
    exact = torch.multinomial(target, draws, replacement=True, generator=g)
    record["draws"] = tv(torch.bincount(exact, minlength=27).double() / draws, target)
    return record
