"""Tables of open sites, made in parts, are those made at once."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.constraints import Constraint
from dlm_sampling.constraints.messages import Masses
from dlm_sampling.prediction import open_sites
from dlm_sampling.prediction.open_sites import OpenSites
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.types import TokenLaw


def test_parts_make_the_same_masses_and_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    automaton = Constraint(banned=[[0, 1]]).compile(None, 5, never=[4])
    where = torch.ones(2, 4, dtype=torch.bool)
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).double()
    rows = ops.LogitRows(lambda i: logits[i], 8, 5, logits.device)
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    known = Masses.known(automaton, tokens, where, where)
    sites = OpenSites(Sites.of(where), rows, known, lambda law: None)
    law = logits.log_softmax(1)
    found: list[tuple[torch.Tensor, ...]] = []
    for size in (8, 3):
        monkeypatch.setattr(open_sites, "head_block", lambda *_, size=size: size)
        laws = sites.law(TokenLaw())
        own = torch.arange(8) % 4
        numbers = sites.statistics(laws, lambda i: torch.zeros(len(i), 5), own)
        found.append((sites.masses(laws, automaton).log, sites.log_prob_of(laws, own), *numbers))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert torch.equal(found[0][1], law.gather(1, (torch.arange(8) % 4)[:, None])[:, 0])
    top = law.exp().sort(1).values
    torch.testing.assert_close(found[0][4], top[:, -1] - top[:, -2])
    torch.testing.assert_close(found[0][5], -(law.exp() * law).sum(1))
