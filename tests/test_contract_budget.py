"""One contract for every sampler: `max_nfe` is never exceeded, and nothing is left unknown."""

from __future__ import annotations

import pytest
import torch

from tests.test_contract import CASES, MASK, RAGGED, SEEDS, CountingToy, canvas, run

ROWS = slice(2, None)  # of two blocks and of one
NO_BUDGET = {"picard": "takes up to", "gillespie": "as many steps", "uniformization": "as many"}


def refused(name: str, kind: str) -> str | None:
    """Return the words with which a budget is refused, None if it has a meaning."""
    return NO_BUDGET.get(name) if name == "picard" or kind != "absorbing" else None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_budget_is_never_exceeded_and_nothing_is_left(name: str, kind: str) -> None:
    """At 4 passes for two blocks, or the least budget that is accepted."""
    toy, words = CountingToy(), refused(name, kind)
    if words is not None:
        with pytest.raises(ValueError, match=words):
            run(name, RAGGED[ROWS], SEEDS[ROWS], kind, steps=None, max_nfe=20)
        return
    budget = 4
    try:
        out = run(name, RAGGED[ROWS], SEEDS[ROWS], kind, toy, steps=None, max_nfe=budget)
    except ValueError as error:
        budget = int(str(error).split("use max_nfe=")[1].split(",")[0])
        assert budget > 4
        out = run(name, RAGGED[ROWS], SEEDS[ROWS], kind, toy, steps=None, max_nfe=budget)
    tokens, editable, _ = canvas(RAGGED[ROWS])
    assert bool((out.nfe <= budget).all())
    assert sum(toy.calls) == int(out.nfe.sum())
    assert torch.equal(out.tokens[~editable], tokens[~editable])
    if kind == "absorbing":
        assert not bool((out.tokens == MASK)[editable].any())
