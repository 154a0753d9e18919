"""The likelihood bound: tight with exact conditionals, equal to enumeration with a wrong model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
from dlm_eval.judges.bound import bound

from dlm_sampling import wrap
from dlm_sampling.testing import EnumerableDenoiser

LAWS = Path(__file__).resolve().parents[2] / "fixtures" / "laws"


def test_tight_with_exact_conditionals() -> None:
    joint = json.loads((LAWS / "toys.json").read_text())["toys"]["mask_strong"]
    law = torch.tensor(joint, dtype=torch.float64)
    x = torch.tensor([[0, 1, 2]])
    exact = -float(law[0, 1, 2].log())
    nats = bound(EnumerableDenoiser(law), x.expand(3000, -1), samples=1, seed=0, batch=3000)
    assert abs(float(nats.mean()) - exact) < 4 * float(nats.std()) / 3000**0.5
    assert float(nats.std()) > 0.01  # the check above can fail


def test_equals_the_enumeration_of_masks_for_any_model() -> None:
    table = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    model = wrap(
        lambda input_ids: (
            table.expand(len(input_ids), -1, -1)
            + (input_ids == 1).sum(1)[:, None, None] * table.flip(0)
        ),
        vocab_size=6,
        mask_token_id=5,
    )
    x = torch.tensor([[1, 0, 1, 3]])
    exact = 0.0
    for size in range(1, 5):
        subsets = list(itertools.combinations(range(4), size))
        for subset in subsets:
            masked = torch.zeros(1, 4, dtype=torch.bool)
            masked[0, list(subset)] = True
            logits = model.logits(x.masked_fill(masked, 5))[..., :5]
            nll = -logits.log_softmax(-1).gather(2, x.unsqueeze(2))[masked].sum()
            exact += float(nll) * 4 / size / len(subsets) / 4
    nats = bound(model, x.expand(20000, -1), samples=1, seed=1, batch=20000)
    assert abs(float(nats.mean()) - exact) < 4 * float(nats.std()) / 20000**0.5
