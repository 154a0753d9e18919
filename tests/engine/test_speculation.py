"""Drafts: how many rounds they save, with the block cache, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, samplers, wrap
from dlm_sampling.types import TokenLaw

MASK, LENGTH = 4, 12
TABLE = torch.randn(LENGTH, 4, generator=torch.Generator().manual_seed(2))
MIX = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))


def network(ids: Tensor) -> Tensor:
    """A law that depends a little on the token before."""
    rows = TABLE[: ids.shape[1]] + 0.3 * MIX[ids.roll(1, 1)]
    return torch.nn.functional.pad(rows, (0, 1), value=-20.0)


def run(name: str, width: int, temperature: float, **options: Any) -> Any:
    tokens = torch.zeros(3, LENGTH, dtype=torch.int64)
    editable = torch.ones(3, LENGTH, dtype=torch.bool)
    editable[:, 0] = False
    denoiser = wrap(network, vocab_size=5, mask_token_id=MASK)
    law = TokenLaw(temperature=temperature)
    return sample(
        denoiser, samplers.create(name), tokens, editable, law=law, seeds=[1, 2, 3],
        speculate=width, **options,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["llada", "remdm-cap"])
def test_any_number_of_drafts_gives_the_same_tokens(name: str, temperature: float) -> None:
    plain = run(name, 1, temperature)
    rounds = [plain.nfe]
    for width in (2, 4, 8):
        out = run(name, width, temperature)
        assert torch.equal(out.tokens, plain.tokens)
        torch.testing.assert_close(out.logprob, plain.logprob, atol=1e-5, rtol=0)
        rounds.append(out.nfe)
    assert bool((torch.stack(rounds[:-1]) >= torch.stack(rounds[1:])).all())
    assert int(rounds[-1].sum()) < int(rounds[0].sum())


def test_a_bound_of_passes_asks_for_the_tokens_that_it_asks_for_without_drafts() -> None:
    """Twelve positions are nearly sure, three a step; of the other eight a step writes one.

    Of these the bound asks for two a step, although drafts have spared passes by then.
    """
    law = torch.full((20, 5), -20.0)
    law[:12, 0], law[:12, 1:4] = 0.0, -4.6
    law[12:, :4] = 0.0
    denoiser = wrap(lambda ids: law.expand(len(ids), -1, -1), vocab_size=5, mask_token_id=MASK)
    sampler = samplers.create("eb-sampler", gamma=0.35)
    plain, drafts = (
        sample(
            denoiser, sampler, torch.zeros(1, 20).long(), torch.ones(1, 20).bool(), seeds=[3],
            law=TokenLaw(), max_nfe=8, speculate=width,
        )
        for width in (1, 4)
    )  # fmt: skip
    assert plain.nfe.tolist() == [8] and int(drafts.nfe) < 7
    assert torch.equal(plain.tokens, drafts.tokens)
    assert torch.equal(plain.logprob, drafts.logprob)
    assert plain.forced is not None and drafts.forced is not None
    assert plain.forced.tolist() == drafts.forced.tolist() == [4]


@pytest.mark.parametrize(
    ("width", "options", "words"),
    [
        (0, {}, "must be from 1, no drafts"),
        (65, {}, "to 64"),
        (2, {"cuda_graph": True}, "goes without cuda_graph=True"),
    ],
)
def test_drafts_that_cannot_be_made_are_refused(
    width: int, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run("llada", width, 1.0, **options)
