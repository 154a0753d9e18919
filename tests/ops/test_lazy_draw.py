"""Statistics that are made when they are read are the numbers of a draw that makes all at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dlm_sampling import ops
from dlm_sampling.ops.reads import Reads
from dlm_sampling.types import Draw, DrawRecord, Statistics, TokenLaw

FIELDS: dict[str, Callable[[Draw], Tensor]] = {
    "token": lambda draw: draw.token,
    "logprob": lambda draw: draw.logprob,
    "log_confidence": lambda draw: draw.log_confidence,
    "max_logprob": lambda draw: draw.max_logprob,
    "margin": lambda draw: draw.margin,
    "entropy": lambda draw: draw.entropy,
    "log_normalizer": lambda draw: draw.log_normalizer,
}
LAWS = (TokenLaw(), TokenLaw(0.0), TokenLaw(0.7, top_k=3))


def lazily(source: Any, rows: int, law: TokenLaw, **options: Any) -> Draw:
    zero = torch.zeros(rows, dtype=torch.int64)
    places = (zero + 5, torch.arange(rows), zero)
    settled = Reads(settled=True)
    return ops.draw_lazily(source, lambda: places, law=law, reads=settled, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("vocab", "statistics"), [(20, "model"), (20, "law"), (1030, "law")])
def test_every_table_read_alone_is_that_of_the_whole_record(
    vocab: int, statistics: Statistics
) -> None:
    logits = torch.randn(260, vocab, generator=torch.Generator().manual_seed(vocab)) * 3.0
    weight, hidden = torch.randn(vocab, 4), torch.randn(260, 4)
    row = torch.tensor([1.0, 0.0, 0.5, 1.0] * 65)
    for law in LAWS:
        for source in (logits, ops.head_rows(hidden, weight, block=64)):
            for temperatures in (None, row):
                options = {"statistics": statistics, "temperatures": temperatures}
                zero = torch.zeros(260, dtype=torch.int64)
                whole = ops.draw(
                    source, keys=zero + 5, positions=torch.arange(260), steps=zero, law=law,
                    **options,
                )  # fmt: skip
                assert type(whole) is DrawRecord
                for name, table in FIELDS.items():
                    alone = lazily(source, 260, law, **options)
                    assert torch.equal(table(alone), table(whole)), (law, name)


class Counted(TorchDispatchMode):
    """Count the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_only_what_is_read_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """At temperature 0 a token costs no exponential, its confidence no entropy."""
    monkeypatch.setenv("DLM_FUSED_CPU", "off")  # its operators cannot be counted
    logits = torch.randn(4, 3000)
    with Counted() as ran:
        draw = lazily(logits, 4, TokenLaw(0.0))
        assert draw.token.tolist() == logits.argmax(-1).tolist()
    assert ran.names["exp2"] == ran.names["log"] == 0
    with Counted() as ran:
        assert draw.log_confidence.shape == (4,)
    assert ran.names["exp2"] == 1
    for law, exponentials in ((TokenLaw(), 1), (TokenLaw(0.5), 1), (TokenLaw(top_k=9), 1)):
        with Counted() as ran:
            assert lazily(logits, 4, law).logprob.shape == (4,)
        # One for the weights, one for the winning tile; logits stay where they are.
        assert ran.names["exp2"] + ran.names["exp2_"] == exponentials + 1, law


@pytest.mark.parametrize("statistics", ["model", "law"])
@pytest.mark.parametrize("law", [TokenLaw(0.7), TokenLaw(1.6, top_k=3), TokenLaw(0.0)])
def test_every_table_is_its_formula_in_float64(law: TokenLaw, statistics: Statistics) -> None:
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(4)) * 2.0
    draw = lazily(logits, 40, law, statistics=statistics)
    x = logits.double()
    kept = x if law.top_k is None else x.masked_fill(x < x.topk(law.top_k).values[:, -1:], -1e300)
    drawn = (kept / (law.temperature or 1.0)).log_softmax(-1)
    tempered = statistics == "law" and law.temperature > 0
    shown_logits = kept / law.temperature if tempered else x
    shown = shown_logits.log_softmax(-1)
    token = draw.token.unsqueeze(-1)
    two = shown.exp().topk(2).values
    scored = drawn.gather(-1, token) if law.temperature else torch.zeros(40, 1)
    wanted = {
        "logprob": scored.squeeze(-1),
        "log_confidence": shown.gather(-1, token).squeeze(-1),
        "max_logprob": shown.amax(-1),
        "margin": two[:, 0] - two[:, 1],
        "entropy": -(shown.exp() * shown.clamp(min=-1e9)).sum(-1),
        "log_normalizer": shown_logits.logsumexp(-1),
    }
    for name, values in wanted.items():
        found = FIELDS[name](draw).double()
        torch.testing.assert_close(found, values.double(), atol=2e-6, rtol=2e-6, msg=name)
