"""Predictions made beforehand: a pass over several canvases of a row counts once."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling import sample, samplers, wrap
from dlm_sampling.types import TokenLaw

MASK, LENGTH = 4, 12
TABLE = torch.randn(LENGTH, 4, generator=torch.Generator().manual_seed(2))


def constant(ids: Tensor) -> Tensor:
    rows = torch.nn.functional.pad(TABLE[: ids.shape[1]], (0, 1), value=-20.0)
    return rows.expand(len(ids), -1, -1)


def test_without_a_change_of_the_law_every_draft_is_right() -> None:
    """A network that reads no token: K canvases a pass, behind the first, which has no draft."""
    fixed = wrap(constant, vocab_size=5, mask_token_id=MASK)
    tokens, editable = torch.zeros(1, LENGTH).long(), torch.ones(1, LENGTH).bool()
    law = TokenLaw()
    for width, rounds in ((1, 12), (2, 7), (4, 4), (12, 2)):
        out = sample(
            fixed, samplers.create("llada"), tokens, editable, law=law, seeds=[1], speculate=width
        )
        assert out.nfe.tolist() == [rounds]
        assert out.work.tolist() == [12.0]


def test_rows_with_drafts_of_their_own_are_as_without() -> None:
    """A network that reads its tokens: the rows' drafts are right in different rounds."""
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def reading(ids: Tensor) -> Tensor:
        return constant(ids) + 2.0 * table[ids].mean(1, keepdim=True)

    network = wrap(reading, vocab_size=5, mask_token_id=MASK)
    tokens, editable = torch.zeros(3, LENGTH).long(), torch.ones(3, LENGTH).bool()
    plain, ahead = (
        sample(
            network, samplers.create("llada"), tokens, editable, law=TokenLaw(), seeds=[1, 2, 3],
            speculate=width,
        )
        for width in (1, 4)
    )  # fmt: skip
    assert torch.equal(ahead.tokens, plain.tokens)
    torch.testing.assert_close(ahead.logprob, plain.logprob)
    assert bool((ahead.nfe < plain.nfe).all()) and len(set(ahead.nfe.tolist())) > 1
    assert bool((ahead.work >= plain.work).all()) and float(ahead.work[0]) > 12.0
