"""Psi-samplers: their law at the end where it is known."""

from __future__ import annotations

from dlm_sampling.processes import Absorbing
from dlm_sampling.processes.psi import psi_law
from tests.processes.random_laws import MASK, masked, number, same


def test_psi_at_one_is_the_reverse_step() -> None:
    p, x = masked(11)
    a, b = number(0.3), number(0.5)
    same(psi_law(Absorbing(MASK), p, x, a, b, 1.0), Absorbing(MASK).reverse(p, x, a, b))
