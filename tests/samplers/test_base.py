"""Rules that many samplers share, against loops over rows and positions."""

from __future__ import annotations

import torch

from dlm_sampling.samplers.base import block_total, even_quota, unmask_probs
from dlm_sampling.types import Canvas, Clock

MASK = 3


def canvas() -> Canvas:
    tokens = torch.tensor([[0, MASK, MASK, 1, 2], [MASK, MASK, 2, MASK, 0]])
    editable = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]]).bool()
    return Canvas(tokens, tokens == MASK, editable, torch.zeros(2, dtype=torch.int64), MASK)


def test_what_a_block_has_to_write_is_counted_when_a_row_enters_it() -> None:
    """Row 0 has one unknown position that it may write, row 1 has two."""
    steps, before = torch.tensor([4, 4]), torch.tensor([7, 8])
    for step, wanted in (([0, 0], [1, 2]), ([1, 0], [7, 2]), ([0, 3], [1, 8]), ([1, 1], [7, 8])):
        found = block_total(before, canvas(), Clock(torch.tensor(step), steps))
        assert found.tolist() == wanted, step


def test_a_quota_is_the_total_dealt_out_over_the_steps() -> None:
    for total in range(9):
        for steps in range(1, 6):
            dealt = [0] * steps
            for i in range(total):
                dealt[i % steps] += 1
            found = [
                int(
                    even_quota(
                        torch.tensor([total]), Clock(torch.tensor([k]), torch.tensor([steps]))
                    )
                )
                for k in range(steps)
            ]
            assert found == dealt


def test_positions_that_are_revealed_independently_have_a_mixture_of_token_and_mask() -> None:
    given = canvas()
    generator = torch.Generator().manual_seed(0)
    prob = torch.rand(2, 5, MASK + 1, generator=generator, dtype=torch.float64)
    prob[..., MASK] = 0.0
    prob /= prob.sum(-1, keepdim=True)
    for chance in (torch.tensor([[0.3], [0.8]], dtype=torch.float64), torch.tensor(0.25)):
        found = unmask_probs(given, prob.log(), chance)
        for b in range(2):
            for i in range(5):
                wanted = torch.zeros(MASK + 1, dtype=torch.float64)
                c = float(chance.expand(2, 5)[b, i])
                if bool(given.editable[b, i]) and int(given.tokens[b, i]) == MASK:
                    wanted += c * prob[b, i]
                    wanted[MASK] += 1.0 - c
                else:
                    wanted[given.tokens[b, i]] = 1.0
                assert (found[b, i] - wanted).abs().max() <= 1e-7
