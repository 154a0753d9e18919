"""The fused head under the interpreter draws what dlm_sampling.ops.draw draws from its logits.

Hidden states and weights are small multiples of 1/4, so that every order of summation gives the
same logits, and a token that differs is an error of the kernels and not of rounding.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from dlm_kernels import operators
from dlm_kernels.head import launch as fused_head
from dlm_kernels.head.kernel import largest_along, run_at
from dlm_kernels.head.launch import Shape
from torch import Tensor

from dlm_sampling import ops, samplers
from dlm_sampling.denoisers import wrap
from dlm_sampling.engine.sample import sample
from dlm_sampling.types import DenoiserOutput, DrawRecord, TokenLaw
from tests.kernels.interpreted.twins import CLOSE, noise, normal

INF = math.inf
HALF, BRAIN = torch.float16, torch.bfloat16
SHAPES = [Shape(16, 32, 4, 64, 4, 1), Shape(16, 64, 8, 32, 4, 1), Shape(32, 128, 8, 16, 4, 1)]


def quarters(*shape: int, seed: int = 0, most: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=generator) / 4


def logits_of(hidden: Tensor, weight: Tensor, bias: Tensor | None, rounded: bool) -> Tensor:
    found = hidden.float() @ weight.float().T
    found = found if bias is None else found + bias.float()
    return found.to(hidden.dtype) if rounded else found


def agree(
    hidden: Tensor, weight: Tensor, count: int, *, bias: Tensor | None = None, rounded: bool = True,
    shape: Shape | None = None, **options: Any,
) -> DrawRecord:  # fmt: skip
    """Draw fused and from the logits; tokens equal, record close.  Returns the fused draw."""
    call = noise(count) | options
    expected = ops.draw(logits_of(hidden, weight, bias, rounded), **call)
    found = operators.head_draw(hidden, weight, bias=bias, rounded=rounded, shape=shape, **call)
    assert found._fields == expected._fields
    assert found.token.tolist() == expected.token.tolist()
    for name, left, right in zip(found._fields[1:], found[1:], expected[1:], strict=True):
        assert left.dtype == right.dtype == torch.float32
        torch.testing.assert_close(
            left, right, rtol=CLOSE, atol=CLOSE, msg=lambda m, n=name: f"{n}: {m}"
        )
    return DrawRecord(*found)


@triton.jit
def _reduced(x, index, out, tops, NATIVE: tl.constexpr):
    """Reductions over x [16, 4, 32], as a GPU makes them or as the interpreter does."""
    row, run, lane = tl.arange(0, 16), tl.arange(0, 4)[None, :, None], tl.arange(0, 32)
    values = tl.load(x + row[:, None, None] * 128 + run * 32 + lane[None, None, :])
    wanted = tl.load(index + row)[:, None, None]
    place = row[:, None, None] * 32 + lane[None, None, :]
    tl.store(out + place, run_at(values, wanted, run, NATIVE))
    tl.store(tops + row[:, None, None] * 4 + run, largest_along(values, 2, NATIVE))


def test_both_ways_to_reduce_are_one() -> None:
    """The checks below run the simple way; a GPU runs the other."""
    x, index = normal(16, 128).view(16, 4, 32), torch.arange(16, dtype=torch.int32) % 4
    x[0, 1], x[1, 1, 3], x[2, 2, 5] = -INF, INF, math.nan
    index[2] = 1
    for native in (True, False):
        out, tops = torch.empty(16, 1, 32), torch.empty(16, 4)
        _reduced[(1,)](x, index, out, tops, NATIVE=native)
        assert torch.equal(out[:, 0], x[torch.arange(16), index.long()])
        torch.testing.assert_close(tops, x.amax(2), rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "width", "vocab", "law", "statistics", "options"),
    [
        (HALF, 64, 3, TokenLaw(), "model", {}),
        (BRAIN, 128, 1024, TokenLaw(0.7), "model", {}),
        (HALF, 64, 1101, TokenLaw(1.5), "law", {"rounded": False, "shape": SHAPES[0]}),
        (BRAIN, 40, 2100, TokenLaw(suppressed=(0, 7, 1023, 1024, 2099)), "model",
         {"shape": SHAPES[1]}),
        (BRAIN, 7, 1100, TokenLaw(0.0, suppressed=(1097,)), "law", {"shape": SHAPES[2]}),
    ],
)  # fmt: skip
def test_tokens_and_record_agree(
    dtype: torch.dtype, width: int, vocab: int, law: TokenLaw, statistics: str, options: Any
) -> None:
    hidden, weight = quarters(3, width).to(dtype), quarters(vocab, width, seed=1).to(dtype)
    bias = quarters(vocab, seed=2).to(dtype) if vocab in (3, 1101, 2100) else None
    agree(hidden, weight, 3, bias=bias, law=law, statistics=statistics, sub=2, **options)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_cut_of_the_product_draws_the_same(shape: Shape) -> None:
    """16 rows of a flat law, 16 of a peaked one: every level of the race decides some of them."""
    hidden = torch.cat([torch.zeros(16, 16), quarters(16, 16, most=9)]).half()
    weight = quarters(2100, 16, seed=1).half()
    found = agree(hidden, weight, 32, shape=shape)
    assert len(set(found.token.tolist())) > 20
    assert len({t // 1024 for t in found.token.tolist()}) == 3
    torch.testing.assert_close(found.entropy[:16], torch.full((16,), math.log(2100.0)))
    if shape == SHAPES[-1]:
        wrong = operators.head_draw(hidden, weight, **noise(32, seed=1), shape=shape)
        assert (wrong.token != found.token).sum() > 20


def test_logits_that_are_not_exact() -> None:
    """Sums in another order: nothing but rounding may differ, and no token of these does."""
    hidden, weight = normal(24, 48).bfloat16(), (normal(1100, 48, 1) / 20).bfloat16()
    call = noise(24)
    logits = logits_of(hidden, weight, None, rounded=False)
    for rounded, error in ((False, 2e-5), (True, 2e-2)):
        found = operators.head_draw(hidden, weight, rounded=rounded, shape=SHAPES[-1], **call)
        expected = ops.draw(logits.bfloat16() if rounded else logits, **call)
        assert torch.equal(found.token, expected.token)
        for left, right in zip(found[1:], expected[1:], strict=True):
            torch.testing.assert_close(left, right, rtol=error, atol=error)


def test_row_index_temperature_per_row_and_strides() -> None:
    hidden = torch.stack([quarters(9, 32), quarters(9, 32)], 2).flatten(1).bfloat16()[:, ::2]
    weight = quarters(32, 1100, seed=1).bfloat16().T
    rows = torch.tensor([3, 8, 0, 8, 3, 8])[::2]
    assert hidden.stride(1) == 2 and weight.stride(1) == 1100 and not rows.is_contiguous()
    temperatures = torch.tensor([0.0, 1e-20, 0.4])
    for statistics in ("model", "law"):
        found = agree(
            hidden, weight, 3, rows=rows, temperatures=temperatures, statistics=statistics
        )
        peaks = logits_of(hidden, weight, None, True)[rows].argmax(-1)
        assert torch.equal(found.token[:2], peaks[:2])
    with pytest.raises(ValueError, match=r"temperatures\[1\]=-0.5"):
        operators.head_draw(hidden, weight, **noise(9), temperatures=torch.arange(9.0) * -0.5)


@pytest.mark.parametrize("law", [TokenLaw(0.7, suppressed=(1,)), TokenLaw(0.0)])
def test_places_without_a_row_are_passed_over(law: TokenLaw) -> None:
    """Alone in a block of 16 rows, and beside rows that are there."""
    hidden, weight = quarters(4, 16).half(), quarters(1100, 16, seed=1).half()
    hidden[0] = torch.nan  # the nearest row
    rows = torch.tensor([-1] * 20 + [2, -1, 1, 3])
    kept, place = torch.tensor([20, 22, 23]), noise(24)
    call = {**place, "rows": rows, "law": law, "shape": SHAPES[1]}
    found = operators.head_draw(hidden, weight, **call, check=False)
    some = {name: value[kept] for name, value in place.items()}
    logits = logits_of(hidden, weight, None, True)
    expected = ops.draw(logits, **some, rows=rows[kept], law=law)
    assert torch.equal(found.token[kept], expected.token)
    torch.testing.assert_close(found.entropy[kept], expected.entropy)
    assert ((found.token >= 0) & (found.token < 1100)).all()
    assert found.log_normalizer[rows < 0].isneginf().all()
    with pytest.raises(ValueError, match=r"rows\[0\] is no row"):
        operators.head_draw(hidden, weight, **call)


def test_ties_go_to_the_lowest_id() -> None:
    weight = torch.zeros(2100, 16).half()
    weight[[70, 900, 901, 1050]] = 1.0
    hidden, law = torch.ones(1, 16).half() / 4, TokenLaw(0.0)
    for shape in SHAPES:
        found = agree(hidden, weight, 1, law=law, shape=shape)
        assert found.token.item() == 70 and found.margin.item() == 0.0
        if shape != SHAPES[-1]:
            continue
        fewer = TokenLaw(0.0, suppressed=(70, 900))
        assert agree(hidden, weight, 1, law=fewer, shape=shape).token.item() == 901
        last = TokenLaw(0.0, suppressed=(70, 900, 901))
        found = agree(hidden, weight, 1, law=last, shape=shape)
        assert found.token.item() == 1050 and found.margin.item() > 0.0


def test_tokens_of_no_probability_are_never_drawn() -> None:
    """Whole tiles of -inf, whole runs of -inf, and a single token."""
    bias = torch.full((3, 2100), -INF)
    bias[0, 1024:2048] = 0.0
    bias[1, [5, 2099]] = 0.0
    bias[2, 2050] = -3.0
    for row, shape in ((0, SHAPES[0]), (1, SHAPES[1]), (2, SHAPES[2])):
        found = agree(
            torch.zeros(2, 16).half(), torch.zeros(2100, 16).half(), 2, bias=bias[row].half(),
            shape=shape,
        )  # fmt: skip
        assert not bias[row][found.token].isinf().any()


@pytest.mark.parametrize(
    ("value", "law", "what"),
    [
        (0.0, TokenLaw(suppressed=tuple(range(33))), "no token that may be drawn"),
        (math.nan, TokenLaw(0.5), "NaN"),
        (INF, TokenLaw(0.0), r"\+inf"),
    ],
)
def test_rows_without_a_law_are_refused(value: float, law: TokenLaw, what: str) -> None:
    hidden, weight = torch.tensor([[1.0], [value]]).half(), torch.ones(33, 1).half()
    row = 0 if law.suppressed else 1
    for draw in (
        lambda **call: operators.head_draw(hidden, weight, **call),
        lambda **call: ops.draw(logits_of(hidden, weight, None, True), **call),
    ):
        with pytest.raises(ValueError, match=f"row {row} of the logits holds {what}"):
            draw(**noise(2), law=law)
    found = operators.head_draw(hidden, weight, **noise(2), law=law, check=False)
    assert ((found.token >= 0) & (found.token < 33)).all()
    if row:
        assert found.token[0] == ops.draw(torch.ones(1, 33), **noise(1), law=law).token[0]


def test_what_the_fused_head_cannot_do_is_said() -> None:
    hidden, weight = torch.zeros(2, 8).half(), torch.zeros(5, 8).half()
    call = noise(2)
    with pytest.raises(ValueError, match=r"no top_k, top_p or min_p"):
        operators.head_draw(hidden, weight, law=TokenLaw(top_k=3), **call)
    with pytest.raises(TypeError, match=r"torch.float32, the fused head reads float16"):
        operators.head_draw(hidden.float(), weight.float(), **call)
    with pytest.raises(ValueError, match=r"weight is torch.bfloat16: must be torch.float16"):
        operators.head_draw(hidden, weight.bfloat16(), **call)
    with pytest.raises(ValueError, match=r"\(2, 8\) and \(5, 7\)"):
        operators.head_draw(hidden, weight[:, :7], **call)
    with pytest.raises(ValueError, match=r"bias has shape \(4,\): must be \(5,\)"):
        operators.head_draw(hidden, weight, bias=torch.zeros(4).half(), **call)
    with pytest.raises(ValueError, match=r"hidden has 1 rows: must be 2"):
        operators.head_draw(hidden[:1], weight, **call)
    with pytest.raises(ValueError, match=r"ids \* blocks must divide 1024"):
        operators.head_draw(hidden, weight, shape=Shape(16, 32, 3, 64, 4, 1), **call)
    with pytest.raises(ValueError, match=r"rows\[1\] is no row of the logits"):
        operators.head_draw(hidden, weight, rows=torch.tensor([1, 2]), **call)
    with pytest.raises(ValueError, match="suppressed id 5"):
        operators.head_draw(hidden, weight, law=TokenLaw(suppressed=(5,)), **call)
    assert [f.shape for f in operators.head_draw(hidden[:0], weight, **noise(0))] == [(0,)] * 7


def test_the_environment_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = quarters(4, 8).half(), quarters(50, 8, seed=1).half()
    launched: list[int] = []
    run = fused_head.head_rows
    monkeypatch.setattr(fused_head, "head_rows", lambda *a: launched.append(1) or run(*a))
    monkeypatch.setenv("DLM_KERNELS", "triton")
    source, rows = ops.head_rows(hidden, weight), torch.tensor([3, 0, 3])
    laws = (TokenLaw(0.8), TokenLaw(top_k=4))
    plain = [ops.draw(source.fetch(rows).clone(), **noise(3), law=law) for law in laws]
    for choice, times in (("auto", 0), ("off", 0), ("on", 1)):
        monkeypatch.setenv("DLM_FUSED_HEAD", choice)
        for law, expected in zip(laws, plain, strict=True):
            found = ops.draw(source, **noise(3), rows=rows, law=law)
            assert found.token.tolist() == expected.token.tolist()
            torch.testing.assert_close(found.entropy, expected.entropy)
        assert len(launched) == times, "a law with filters takes the ordinary way"
    other = replace(source, fetch=lambda i: -source.fetch(i))
    assert torch.equal(
        ops.draw(other, **noise(4)).token, ops.draw(other.fetch(torch.arange(4)), **noise(4)).token
    )
    assert len(launched) == 1, "what is done to the logits is done"
    wide = ops.head_rows(hidden.float(), weight.float())
    ops.draw(wide, **noise(4))
    assert len(launched) == 1, "float32 takes the ordinary way"
    monkeypatch.setitem(fused_head.FASTER_BELOW, 8, 4)
    monkeypatch.setenv("DLM_FUSED_HEAD", "auto")
    ops.draw(source, **noise(4))
    ops.draw(source, **noise(5), rows=torch.arange(5) // 2)
    assert len(launched) == 2, "no more rows than were measured faster"
    monkeypatch.setenv("DLM_FUSED_HEAD", "yes")
    with pytest.raises(ValueError, match=r"DLM_FUSED_HEAD='yes': must be one of auto, on, off"):
        ops.draw(source, **noise(4))


def test_the_operator_is_what_its_schema_and_its_fake_say() -> None:
    from dlm_kernels.common.device_tables import row_inverse_temperatures
    from dlm_kernels.head.launch import head_rows

    rows, inverses = torch.tensor([1, 0]), row_inverse_temperatures(torch.tensor([0.5, 2.0]), 1.0)
    hidden, weight = quarters(2, 8).half(), quarters(5, 8).half()
    tests = ("test_schema", "test_faketensor")
    for number, temperatures, greedy in ((torch.tensor(0), inverses, 2), (None, None, 0)):
        place = (hidden, weight, weight[:, 0], rows, *noise(2).values(), 0, number, temperatures)
        law = (1.0, 0.7, [3], greedy, False, True, [])
        torch.library.opcheck(head_rows, (*place, *law), test_utils=tests)


def test_nothing_waits_for_the_device_and_a_step_compiles_into_one_graph() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    hidden, weight = quarters(3, 8).half(), quarters(40, 8, seed=1).half()
    law = TokenLaw(0.7, suppressed=(1,))

    def step(hidden: Tensor, weight: Tensor, keys: Tensor) -> Tensor:
        place = dict.fromkeys(("keys", "positions", "steps"), keys)
        return operators.head_draw(hidden, weight, **place, law=law, check=False).token

    keys = torch.arange(3)
    expected = step(hidden, weight, keys)
    whole = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(whole(hidden, weight, keys), expected)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert step(*(mode.from_tensor(x) for x in (hidden, weight, keys))).shape == (3,)


def test_the_loop_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that hands out hidden states and a head of 16 bits; two steps, the same tokens."""
    table, head = quarters(4, 8).half(), torch.nn.Linear(8, 9).half().requires_grad_(False)
    head.weight.copy_(quarters(9, 8, seed=1)), head.bias.copy_(quarters(9, seed=2))
    launched: list[int] = []
    run = fused_head.head_rows
    monkeypatch.setattr(fused_head, "head_rows", lambda *a: launched.append(1) or run(*a))

    def network(ids: Tensor) -> DenoiserOutput:
        return DenoiserOutput(table[: ids.shape[1]] + (ids % 3)[..., None].half() / 4, head)

    def tokens(kernels: str, fused: str) -> Tensor:
        monkeypatch.setenv("DLM_KERNELS", kernels)
        monkeypatch.setenv("DLM_FUSED_HEAD", fused)
        model = wrap(network, vocab_size=9, mask_token_id=8)
        canvas = torch.zeros(2, 4, dtype=torch.int64)
        free = torch.tensor([[False, True, True, True], [True, True, False, True]])
        return sample(
            model, samplers.create("llada"), canvas, free, seeds=[3, 4], steps=2, law=TokenLaw(0.8)
        ).tokens

    expected = tokens("torch", "on")
    assert not launched
    assert torch.equal(tokens("triton", "on"), expected)
    assert launched
