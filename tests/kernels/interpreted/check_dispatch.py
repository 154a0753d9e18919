"""The ops themselves run the kernels when DLM_KERNELS forces them."""

from __future__ import annotations

import pytest
import torch
from dlm_kernels import operators

from dlm_sampling import ops
from dlm_sampling.types import DrawRecord, TokenLaw

KERNELS = ["draw", "log_probs", "log_prob_of", "top_k_positions", "threshold_positions"]
KERNELS += ["budget_positions", "stochastic_positions", "divergence"]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that were called; DLM_KERNELS=triton."""
    names: list[str] = []

    def spy(name: str) -> None:
        kernel = getattr(operators, name)

        def called(*arguments: object, **options: object) -> object:
            names.append(name)
            return kernel(*arguments, **options)

        monkeypatch.setattr(operators, name, called, raising=False)

    for name in KERNELS:
        spy(name)
    monkeypatch.setenv("DLM_KERNELS", "triton")
    return names


def test_the_ops_run_the_kernels(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    score = torch.tensor([[0.5, 2.0, 2.0, -1.0]])
    noise = dict.fromkeys(("keys", "positions", "steps"), torch.tensor([7]))
    k = torch.tensor([1])
    found = (
        ops.draw(score, **noise),
        ops.log_probs(score),
        ops.log_prob_of(score, k),
        ops.top_k_positions(score, score > 0, k),
        ops.threshold_positions(score, score > 0, 0.1),
        ops.budget_positions(score, score, score > 0, 0.1),
        ops.stochastic_positions(score, score > 0, k, ops.Rng.from_seeds([3])),
        ops.divergence(score, score, score[:, 0], score[:, 0]),
    )
    assert launched == KERNELS
    monkeypatch.setenv("DLM_KERNELS", "torch")
    assert type(found[0]) is DrawRecord
    assert torch.equal(found[0].token, ops.draw(score, **noise).token)
    torch.testing.assert_close(found[1], ops.log_probs(score))
    torch.testing.assert_close(found[2], ops.log_prob_of(score, k))
    assert torch.equal(found[3], ops.top_k_positions(score, score > 0, k))
    assert torch.equal(found[4], ops.threshold_positions(score, score > 0, 0.1))
    assert torch.equal(found[5], ops.budget_positions(score, score, score > 0, 0.1))
    rng = ops.Rng.from_seeds([3])
    assert torch.equal(found[6], ops.stochastic_positions(score, score > 0, k, rng))
    assert launched == KERNELS


@pytest.mark.usefixtures("launched")
def test_what_the_kernels_cannot_do_is_said() -> None:
    score = torch.zeros(1, 4)
    noise = dict.fromkeys(("keys", "positions", "steps"), torch.tensor([7]))
    with pytest.raises(RuntimeError, match=r"'draw' cannot run: the logits are torch.float8_e5m2"):
        ops.draw(score.to(torch.float8_e5m2), **noise)


def test_nothing_waits_for_the_device_once_a_law_is_known() -> None:
    """Fake tensors hold no values, so whatever the host would ask of the device raises an error."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    law = TokenLaw(0.7, top_k=3, top_p=0.9, suppressed=(1,))
    score, number = torch.zeros(2, 4), torch.arange(2)
    known = score == 0

    def step(mode: FakeTensorMode | None) -> operators.Written:
        x, n, free = (v if mode is None else mode.from_tensor(v) for v in (score, number, known))
        noise = dict.fromkeys(("keys", "positions", "steps"), n)
        for options in ({}, {"temperatures": n.float(), "statistics": "law", "sub": n[0]}):
            drawn = operators.draw(x, **noise, law=law, check=False, **options)
        operators.log_prob_of(x, drawn.token, law=law, check=False)
        operators.divergence(x, x, drawn.entropy, drawn.entropy, suppressed=(1,))
        tokens = drawn.token[:, None].repeat(1, 4)
        gumbel = operators.Noise(n, n, n, n[0], 2)
        return operators.unmask_(
            tokens, free.clone(), tokens, x, free, k=n, threshold=0.5, cost=x, budget=0.1,
            window=torch.stack([n, n + 2], 1), noise=gumbel,
        )  # fmt: skip

    assert step(None).left.shape == (2,)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert step(mode).left.shape == (2,)
        noise = dict.fromkeys(("keys", "positions", "steps"), mode.from_tensor(number))
        with pytest.raises(DataDependentOutputException):  # the check of the rows does ask
            operators.draw(mode.from_tensor(score), **noise, law=law)


def test_a_step_compiles_into_one_graph() -> None:
    """No graph break, and a law with other numbers compiles too (torch makes those symbolic)."""
    place = dict.fromkeys(("keys", "positions", "steps"), torch.arange(2))
    logits = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))

    def step(law: TokenLaw, tokens: torch.Tensor, unknown: torch.Tensor) -> torch.Tensor:
        drawn = operators.draw(logits, **place, law=law, check=False)
        score = drawn.log_confidence[None]
        counts = operators.unmask_(tokens, unknown, drawn.token[None], score, unknown, k=1)
        return counts.left

    whole = torch.compile(step, fullgraph=True, backend="aot_eager")
    for law in (TokenLaw(), TokenLaw(0.8, top_p=0.9, suppressed=(3,))):
        canvas, unknown = torch.zeros(1, 2).long(), torch.ones(1, 2).bool()
        compiled, free = canvas.clone(), unknown.clone()
        assert torch.equal(step(law, canvas, unknown), whole(law, compiled, free))
        assert torch.equal(canvas, compiled) and torch.equal(unknown, free)
        assert unknown.sum() == 1
