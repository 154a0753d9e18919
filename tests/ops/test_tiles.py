"""One reading of the logits: peak, second, sums and entropy, against sums over the whole row."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.ops import tiles
from dlm_sampling.ops.reads import EVERYTHING
from dlm_sampling.ops.scratch import Scratch
from dlm_sampling.ops.sources import Block
from dlm_sampling.ops.temperature import MODEL_LAW, TemperedLaw
from dlm_sampling.ops.vocabulary import allowed_ids
from dlm_sampling.types import Statistics, TokenLaw

CPU = torch.device("cpu")


def logits(rows: int, vocab: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab, generator=g, dtype=torch.float64) * 3.0


@pytest.mark.parametrize("vocab", [50, 1024, 2100])
def test_a_reading_against_sums_over_the_row(vocab: int) -> None:
    x, law = logits(6, vocab), TemperedLaw(None, 0.5)
    suppressed = (3, vocab - 1)  # in the first tile and in the last
    x[:, suppressed] = 99.0
    allowed = allowed_ids(vocab, suppressed, CPU)
    found = tiles.read_tiles(Block.of(x, None), allowed, MODEL_LAW, law, Scratch(CPU))
    left = x.index_fill(1, torch.tensor(suppressed), -math.inf)
    two = left.topk(2, -1)
    assert torch.equal(found.best, two.indices[:, 0])
    assert torch.equal(found.peak, two.values[:, 0])
    assert torch.equal(found.second, two.values[:, 1])
    for sums, temperature in ((found.shown, 1.0), (found.drawn, 0.5)):
        weights = ((left - found.peak[:, None]) / temperature).exp()
        torch.testing.assert_close(sums.total, weights.sum(-1))
        for tile, part in enumerate(weights.split(1024, 1)):
            torch.testing.assert_close(sums.tiles[:, tile], part.sum(-1))
    assert found.shown.entropy is not None and found.drawn.entropy is None
    p = left.softmax(-1)
    torch.testing.assert_close(found.shown.entropy, torch.special.entr(p).sum(-1))


def test_filters_leave_the_sums_of_what_passes() -> None:
    """Weights 8, 4, 2, 1: top_k=2 leaves 1 + 1/2 of the largest, and the law 2/3, 1/3."""
    x = torch.tensor([[8.0, 4.0, 2.0, 1.0]], dtype=torch.float64).log()
    law = TemperedLaw(TokenLaw(top_k=2), 1.0)
    found = tiles.read_tiles(Block.of(x, None), allowed_ids(4, (), CPU), law, law, Scratch(CPU))
    assert found.shown is found.drawn
    assert found.drawn.total.item() == pytest.approx(1.5)
    entropy, boundary = found.drawn.entropy, found.drawn.boundary
    assert entropy is not None and boundary is not None
    assert entropy.item() == pytest.approx(math.log(3.0) - 2.0 / 3.0 * math.log(2.0))
    assert (boundary.single.item(), boundary.last_id.item()) == (False, 1)


def test_one_tile_is_weighed_by_its_largest_logit_where_no_token_is_asked_for() -> None:
    """Weights relative to another logit than the largest would overflow here: e^400, e^1000."""
    x = torch.tensor([[1.0, 200.0, -300.0, 199.5], [900.0, 3.0, 2.0, 1.0]])
    law, block = TemperedLaw(None, 0.5), Block.of(x, None)
    allowed, wanted = allowed_ids(4, (0,), CPU), EVERYTHING._replace(second=False)
    found = tiles.read_eagerly(block, allowed, None, law, Scratch(CPU), wanted=wanted, best=False)
    assert found.best is None and found.second is None and found.shown is None
    assert found.peak.tolist() == [200.0, 3.0]
    total = [1.0 + math.exp(-1.0), 1.0 + math.exp(-2.0) + math.exp(-4.0)]
    assert found.drawn.total.tolist() == pytest.approx(total, rel=1e-6)


def test_chunks_cover_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of 2048 float64 columns is 16 KiB: 64 KiB hold four; filters get a quarter of it."""
    monkeypatch.setattr(tiles, "_CHUNK_BYTES", {"cpu": 1 << 16})
    block = Block.of(logits(10, 2000), None)
    assert list(tiles.chunks(block, filters=False)) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert list(tiles.chunks(block, filters=True)) == [slice(i, i + 1) for i in range(10)]


LAWS = (TokenLaw(), TokenLaw(temperature=0.7), TokenLaw(top_k=20))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("statistics", ["model", "law"])
def test_one_tile_draws_as_the_first_of_two(law: TokenLaw, statistics: Statistics) -> None:
    """Ids behind the vocabulary that may not be drawn change nothing but the last digit."""
    x = logits(60, 1024)
    wide = torch.cat((x, logits(60, 1024, seed=1)), 1)
    more = TokenLaw(law.temperature, law.top_k, suppressed=(*law.suppressed, *range(1024, 2048)))
    where = torch.arange(60)
    place = {"keys": where, "positions": where, "steps": where, "statistics": statistics}
    one, two = ops.draw(x, law=law, **place), ops.draw(wide, law=more, **place)
    assert torch.equal(one.token, two.token)
    for left, right in zip(one[1:], two[1:], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)
