from __future__ import annotations

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.types import TokenLaw


@pytest.mark.parametrize("bias", [True, False])
def test_draws_from_a_head_are_those_from_its_logits(bias: bool) -> None:
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(40, 16, generator=g), torch.randn(1100, 16, generator=g)
    offset = torch.randn(1100, generator=g) if bias else None
    weight.requires_grad_()
    head = ops.head_rows(hidden, weight, bias=offset, block=7)
    rows = torch.tensor([3, 39, 3, *range(20)])
    noise = dict.fromkeys(("keys", "positions", "steps"), torch.arange(23))
    logits = torch.nn.functional.linear(hidden, weight, offset).detach()
    for law in (TokenLaw(), TokenLaw(0.7, top_p=0.9)):
        found = ops.draw(head, rows=rows, law=law, **noise)
        expected = ops.draw(logits, rows=rows, law=law, **noise)
        assert torch.equal(found.token, expected.token)
        assert torch.allclose(found.entropy, expected.entropy, atol=1e-5)


def test_every_block_is_written_into_one_aligned_buffer() -> None:
    hidden, weight = torch.randn(40, 8), torch.randn(50, 8)
    head = ops.head_rows(hidden, weight, block=16)
    first = head.fetch(torch.arange(16))
    place, kept = first.data_ptr(), first.clone()
    second = head.fetch(torch.arange(16, 25))
    assert second.shape == (9, 50) and second.stride() == (64, 1)
    assert second.data_ptr() == place
    assert torch.allclose(kept, hidden[:16] @ weight.T, atol=1e-5)
    assert torch.allclose(second, hidden[16:25] @ weight.T, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 8\) and \(50, 7\)"):
        ops.head_rows(torch.zeros(4, 8), torch.zeros(50, 7))
    with pytest.raises(ValueError, match="block=0"):
        ops.head_rows(torch.zeros(4, 8), torch.zeros(50, 8), block=0)


def test_a_vocabulary_has_a_token_and_a_table_two_dimensions() -> None:
    one = ops.log_probs(torch.full((3, 1), 2.0))
    assert one.tolist() == [[0.0]] * 3
    for bad in (torch.zeros(3, 0), torch.zeros(3), torch.zeros(1, 2, 3), torch.zeros(2, 3).long()):
        with pytest.raises(ValueError, match="floating point"):
            ops.log_probs(bad)


@pytest.mark.parametrize("block", [1, 2, 7, 8])
def test_rows_on_demand_are_asked_for_in_blocks(block: int) -> None:
    table, asked = torch.arange(21.0).view(7, 3), list[list[int]]()

    def fetch(i: torch.Tensor) -> torch.Tensor:
        asked.append(i.tolist())
        return table[i]

    source = ops.LogitRows(fetch, 7, 3, table.device, block=block)
    assert torch.equal(ops.log_probs(source), ops.log_probs(table))
    assert asked == [list(range(s, min(s + block, 7))) for s in range(0, 7, block)]
