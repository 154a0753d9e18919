"""What the checks share: inputs, and a draw of both implementations that must agree."""

from __future__ import annotations

from typing import Any

import torch
from dlm_kernels import operators
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.types import DrawRecord

CLOSE = 3e-6


def normal(rows: int, vocab: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def noise(rows: int, seed: int = 0) -> dict[str, Tensor]:
    return {
        "keys": torch.tensor(ops.row_seeds(seed, rows)),
        "positions": torch.arange(rows) - 1,
        "steps": torch.full((rows,), 5),
    }


def agree(source: Any, count: int, **options: Any) -> DrawRecord:
    """Draw with both; the tokens must be equal and the record close.  Returns the kernels' draw."""
    call = noise(count) | options
    expected, found = ops.draw(source, **call), operators.draw(source, **call)
    assert found._fields == expected._fields
    assert found.token.tolist() == expected.token.tolist()
    for name, left, right in zip(found._fields[1:], found[1:], expected[1:], strict=True):
        assert left.dtype == right.dtype == torch.float32
        torch.testing.assert_close(
            left, right, rtol=CLOSE, atol=CLOSE, msg=lambda m, n=name: f"{n}: {m}"
        )
    return DrawRecord(*found)


def same_law(source: Any, tokens: Tensor | None = None, **options: Any) -> Tensor:
    """Log-laws of both: the same tokens pass, and the rest is close.  Returns the kernels' law."""
    expected, found = ops.log_probs(source, **options), operators.log_probs(source, **options)
    assert torch.equal(found.isneginf(), expected.isneginf())
    torch.testing.assert_close(found, expected, rtol=CLOSE, atol=CLOSE)
    if tokens is not None:
        one = operators.log_prob_of(source, tokens, **options)
        torch.testing.assert_close(one, found.gather(1, tokens[:, None])[:, 0], rtol=0.0, atol=0.0)
    return found
