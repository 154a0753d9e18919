"""Laws of a rule at some positions: the rule gets its site, and the table of the token law."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling import ops, wrap
from dlm_sampling.prediction.law_rows import SiteLaws, log_probs_in
from dlm_sampling.prediction.model import Counts, RunModel
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.types import Site, TokenLaw

V, MASK = 5, 4
LOGITS = torch.randn(3, V, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
X = torch.tensor([[4, 1, 4], [0, 4, 2]])
LAW = TokenLaw(0.7, typical_p=0.8, suppressed=(MASK,))


def test_a_rule_gets_tokens_rows_columns_and_the_law_behind_what_changes_the_logits() -> None:
    denoiser = wrap(lambda ids: LOGITS[ids], vocab_size=V, mask_token_id=MASK)
    model = RunModel(denoiser, LAW, Counts.zero(2, X.device))
    logits = ops.LogitRows(lambda i: LOGITS[i], 3, V, X.device, block=2)
    sites = Sites.of(X == MASK)
    seen: list[tuple[list[int], list[int], list[int]]] = []

    def rule(site: Site) -> Tensor:
        seen.append((site.x.tolist(), site.row.tolist(), site.column.tolist()))
        return site.p * 0.5

    level = torch.full((2,), 0.3, dtype=torch.float64)
    laws = SiteLaws(model, sites, X, level, "posterior", lambda x, i: x - 2.0 * x)
    rows = laws.rows(logits, rule)
    assert (rows.count, rows.block, rows.dtype) == (3, 2, torch.float64)
    found = rows.fetch(torch.tensor([0, 2]))
    assert seen == [([MASK, MASK], [0, 1], [0, 1])]
    wanted = 0.5 * ops.log_probs(-LOGITS[[0, 2]], law=LAW).exp()
    torch.testing.assert_close(found, wanted)
    clean = laws.clean(logits, torch.tensor([0, 2]))
    plain = TokenLaw(suppressed=(MASK,))
    torch.testing.assert_close(clean, ops.log_probs(-LOGITS[[0, 2]], law=plain))
    again = laws.of_clean(clean, torch.tensor([0, 2]), rule)
    torch.testing.assert_close(again, 0.5 * clean.exp())


def test_log_probabilities_of_ids_are_those_of_the_normalised_laws() -> None:
    laws = LOGITS.exp()
    rows = ops.LogitRows(lambda i: laws[i], 3, V, X.device, block=2)
    ids = torch.tensor([0, 4, 2])
    wanted = LOGITS.log_softmax(1)[torch.arange(3), ids]
    torch.testing.assert_close(log_probs_in(rows, ids), wanted)
