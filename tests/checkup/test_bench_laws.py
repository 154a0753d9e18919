from __future__ import annotations

import pytest
import torch

from dlm_sampling.checkup.bench_laws import LAWS, READ, cases, drawn, measure_laws
from tests.ops.laws import chi_square_p


@pytest.mark.parametrize("name", LAWS)
def test_both_draws_of_a_row_are_of_its_law(name: str) -> None:
    """60 tokens, so that top-k leaves some out."""
    logits = 2.0 * torch.randn(60, generator=torch.Generator().manual_seed(0))
    rows, generator = logits.expand(4000, 60), torch.Generator().manual_seed(1)
    law, _, other = LAWS[name]
    weights = logits.double().softmax(-1)
    ranked = weights.sort(descending=True)
    if law.top_k is not None:
        weights[ranked.indices[law.top_k :]] = 0.0
    if law.top_p is not None:
        weights[ranked.indices[ranked.values.cumsum(0) - ranked.values >= law.top_p]] = 0.0
    if law.min_p is not None:
        weights[weights < law.min_p * weights.max()] = 0.0
    model, expected = logits.double().softmax(-1), weights / weights.sum()
    for method in (drawn(law, not law.filters), other):
        token, p = method(rows, 1.0, generator)
        if law.temperature == 0.0:
            assert (token == logits.argmax()).all()
            assert torch.allclose(p.double(), model[token], atol=1e-6)
            continue
        assert bool((expected[token] > 0.0).all())
        assert torch.allclose(p.double(), expected[token], atol=1e-6)
        assert chi_square_p(torch.bincount(token, minlength=60), expected) > 1e-3


def test_the_table_is_in_reads_of_the_same_logits() -> None:
    names, asked = list(cases()), list[str]()

    def times(methods: object, logits: torch.Tensor) -> dict[str, tuple[float, float]]:
        assert logits.shape == (2, 3)
        return {name: (-1.0, 2.0 * (i + 1)) for i, name in enumerate(names)}

    def logits(dtype: str) -> torch.Tensor:
        asked.append(dtype)
        return torch.zeros(2, 3)

    rows = measure_laws(logits, times)
    assert asked == ["float32", "bfloat16"] and len(rows) == 2 * len(names) == 28
    assert [row.by for row in rows[:3]] == [READ, "dlm_sampling", "softmax, multinomial"]
    assert [row.reads for row in rows[:4]] == [1.0, 2.0, 3.0, 4.0]
    assert [row.of_plain for row in rows[:4]] == [0.5, 1.0, 1.5, 2.0]
    assert [row.cpu_milliseconds for row in rows[:2]] == [2.0, 4.0]
