"""ReDDiT: blind networks make it ancestral; the ids that a network sees are uniform and fresh."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.samplers import Ancestral, ReDDiT
from dlm_sampling.schedules import LINEAR, LOG_LINEAR
from dlm_sampling.testing import EnumerableDenoiser, chi_square, count_states
from dlm_sampling.types import Canvas
from tests.samplers.chains import P_LIMIT, SYMBOLS, draws, joint

LENGTH, IDS = 2, (3, 4, 5)


class Blind:
    """The exact posterior, whatever the mask id; keeps the canvases that it was asked about."""

    def __init__(self, extra: float = -torch.inf) -> None:
        self.exact = EnumerableDenoiser(joint())
        self.extra = extra
        self.seen: list[Tensor] = []

    def __call__(self, input_ids: Tensor) -> Tensor:
        self.seen.append(input_ids.clone())
        logits = self.exact.logits(input_ids.clamp(max=SYMBOLS))
        return torch.nn.functional.pad(logits, (0, 2), value=self.extra)


def model(net: Any) -> Denoiser:
    return wrap(net, vocab_size=6, mask_token_id=3)


def test_a_blind_network_makes_it_ancestral_token_for_token() -> None:
    for steps in (1, 2, 5):
        ours = draws(model(Blind()), ReDDiT(IDS), steps, rows=400)
        theirs = draws(model(Blind()), Ancestral(LOG_LINEAR, 1e-5, "sample"), steps, rows=400)
        assert torch.equal(ours.tokens, theirs.tokens)
        assert torch.equal(ours.nfe, theirs.nfe)


def test_a_blind_network_gives_the_law_of_ancestral_sampling() -> None:
    """One reveal at a time is exact, so many steps give the data law; two steps do not."""
    seen = count_states(draws(model(Blind()), ReDDiT(IDS, LINEAR), 2).tokens, SYMBOLS)
    half = joint().sum(1).unsqueeze(1) * joint().sum(0).unsqueeze(0)
    law = 0.5 * (joint() + half)  # both positions fall into the same of two steps with chance 1/2
    assert chi_square(seen, law.flatten()).p > P_LIMIT
    assert chi_square(seen, joint().flatten()).p < 1e-6


def test_masks_are_rehashed_before_every_pass() -> None:
    """Uniform ids in every pass, whatever was seen before; tokens and prompts stay."""
    net = Blind()
    out = draws(model(net), ReDDiT(IDS), 6, rows=3000)
    for canvas in net.seen[:3]:
        ids = canvas[canvas >= 3] - 3
        assert chi_square(torch.bincount(ids, minlength=3), torch.ones(3)).p > P_LIMIT
    assert out.trajectory is not None
    assert bool((out.trajectory.initial == 3).all())

    tokens, rows = torch.tensor([[3, 1, 3]]).expand(2000, 3), 2000
    unknown = tokens == 3
    canvas = Canvas(tokens, unknown, torch.ones_like(unknown), torch.zeros(rows).long(), 3)
    rng = ops.Rng.from_seeds(ops.row_seeds(1, rows))
    first, second = (
        ReDDiT(IDS).rehashed(canvas, rng.with_step(torch.full((rows,), k))) for k in (0, 1)
    )
    assert bool((first[:, 1] == 1).all())
    pairs = (first[:, [0, 2]] - 3).flatten() * 3 + (second[:, [0, 2]] - 3).flatten()
    assert chi_square(torch.bincount(pairs, minlength=9), torch.ones(9)).p > P_LIMIT


def test_no_mask_id_is_ever_drawn() -> None:
    """A network that would like to answer with mask ids."""
    out = draws(model(Blind(extra=5.0)), ReDDiT(IDS), 3, rows=2000)
    assert bool((out.tokens < SYMBOLS).all())
    law = joint()
    seen = torch.bincount(out.tokens[:, 0], minlength=SYMBOLS)
    assert chi_square(seen, law.sum(1)).p > P_LIMIT


def test_a_network_that_reads_ids_is_read_at_each_of_them() -> None:
    """Its law is the average over the ids: one position, three tables."""
    tables = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]]).double()

    def net(input_ids: Tensor) -> Tensor:
        rows = torch.nn.functional.pad(tables.log(), (0, 3), value=-torch.inf)
        return rows[(input_ids - 3).clamp(min=0)]

    out = draws(model(net), ReDDiT(IDS[:2]), 1, rows=20_000, length=1)
    seen = torch.bincount(out.tokens[:, 0], minlength=3)
    assert chi_square(seen, tables[:2].mean(0)).p > P_LIMIT
    assert chi_square(seen, tables.mean(0)).p < 1e-6


def test_without_ids_the_mask_of_the_denoiser_is_used() -> None:
    net = Blind()
    draws(model(net), ReDDiT(), 3, rows=50)
    assert {int(v) for canvas in net.seen for v in canvas.unique()} <= {0, 1, 2, 3}


@pytest.mark.parametrize("ids", [(3, 3), (-1, 2)])
def test_ids_are_checked(ids: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="mask_ids"):
        ReDDiT(ids)


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_ids.*6 columns"):
        draws(model(Blind()), ReDDiT((3, 6)), 2, rows=2)
