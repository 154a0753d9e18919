from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.ops import sources as rows_module
from dlm_sampling.ops import tiles as tiles_module
from dlm_sampling.ops.philox import Stream, lane_exponentials
from dlm_sampling.types import DrawRecord, TokenLaw
from tests.ops.laws import brute_law, chi_square_p

STATISTICS = ("log_confidence", "max_logprob", "margin", "entropy", "log_normalizer")


def rand_logits(rows: int, vocab: int, scale: float = 2.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def draw(source: ops.Source, count: int, seed: int = 0, **options: object) -> DrawRecord:
    """`count` draws at positions 0, 1, ... of one row at step 0."""
    return ops.draw(
        source,
        keys=torch.full((count,), seed),
        positions=torch.arange(count),
        steps=torch.zeros(count, dtype=torch.int64),
        **options,  # type: ignore[arg-type]
    )


def frequencies(logits: Tensor, count: int, **options: object) -> Tensor:
    """Token counts of many draws from one row of logits [V]."""
    rows = torch.zeros(count, dtype=torch.int64)
    token = draw(logits[None], count, rows=rows, **options).token
    return torch.bincount(token, minlength=logits.shape[0])


# ---- the law of the tokens


@pytest.mark.parametrize("vocab", [2, 3, 31, 33, 1000, 1024, 1025, 3001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_follow_the_softmax(vocab: int, dtype: torch.dtype) -> None:
    logits = rand_logits(1, vocab)[0].to(dtype)
    law = logits.double().softmax(-1)
    counts = frequencies(logits, 12_000)
    assert chi_square_p(counts, law) > 1e-3
    if vocab >= 31:  # the test would see a temperature that is off by 5 percent
        wrong = (logits.double() * 1.05).softmax(-1)
        assert vocab > 2000 or chi_square_p(counts, wrong) < 1e-3


def test_every_part_of_the_address_gives_fresh_draws() -> None:
    """Draws that differ in the key, the step or the sub-draw only are independent and right."""
    logits, count = rand_logits(1, 5, 1.0).expand(12_000, 5), 12_000
    law = logits[0].double().softmax(-1)
    numbers, zero = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    base = ops.draw(logits, keys=zero, positions=numbers, steps=zero).token
    others = (
        ops.draw(logits, keys=zero + 1, positions=numbers, steps=zero).token,
        ops.draw(logits, keys=zero, positions=numbers, steps=zero + 1).token,
        ops.draw(logits, keys=zero, positions=numbers, steps=zero, sub=1).token,
        ops.draw(logits, keys=numbers, positions=zero, steps=zero).token,
        ops.draw(logits, keys=zero, positions=zero, steps=numbers).token,
    )
    for other in others:
        pairs = torch.bincount(base * 5 + other, minlength=25)
        assert chi_square_p(pairs, torch.outer(law, law).flatten()) > 1e-3


LAWS = [
    TokenLaw(temperature=0.6),
    TokenLaw(temperature=3.0, suppressed=(0, 7, 1050)),
    TokenLaw(top_k=6),
    TokenLaw(top_p=0.7),
    TokenLaw(top_p=0.7, crossing="exclude"),
    TokenLaw(min_p=0.1),
    TokenLaw(temperature=1.5, top_k=40, top_p=0.9, min_p=0.02, suppressed=(3,)),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_tokens_follow_the_filtered_law(law: TokenLaw) -> None:
    logits = rand_logits(1, 1100, 3.0, seed=1)[0].to(torch.bfloat16).float()
    exact = brute_law(logits, law)
    counts = frequencies(logits, 6_000, law=law)
    assert not counts[exact == 0.0].any()
    assert chi_square_p(counts, exact) > 1e-3


@pytest.mark.parametrize("vocab", [1, 2, 13, 31, 32])
def test_a_small_vocabulary_has_the_lanes_of_its_ids(vocab: int) -> None:
    """One race of lanes 0 to V - 1, as in the first of the runs of a larger vocabulary."""
    logits, zero = rand_logits(300, vocab), torch.zeros(300, dtype=torch.int64)
    clocks = lane_exponentials(zero + 9, torch.arange(300), zero, stream=Stream.TOKEN, lanes=33)
    for suppressed in ((), (0,)) if vocab > 1 else ((),):
        law = logits.double().softmax(-1)
        law[:, list(suppressed)] = 0.0
        token = draw(logits, 300, seed=9, law=TokenLaw(suppressed=suppressed)).token
        assert torch.equal(token, (law / clocks[:, :vocab]).argmax(-1))


def test_temperature_extremes() -> None:
    near = torch.tensor([1.0, 1.0 - 1e-4, -3.0])
    gap = float(near.double()[0] - near.double()[1])
    p = 1.0 / (1.0 + math.exp(-gap / 1e-4))
    counts = frequencies(near, 20_000, law=TokenLaw(temperature=1e-4))
    assert chi_square_p(counts, torch.tensor([p, 1.0 - p, 0.0])) > 1e-3
    wide = rand_logits(1, 2500, 5.0)[0]
    counts = frequencies(wide, 8_000, law=TokenLaw(temperature=100.0))
    assert chi_square_p(counts, (wide.double() / 100.0).softmax(-1)) > 1e-3
    for cold in (1e-12, 1e-300):
        token = draw(rand_logits(50, 3000), 50, law=TokenLaw(temperature=cold)).token
        assert torch.equal(token, rand_logits(50, 3000).argmax(-1))


def test_far_apart_logits() -> None:
    """Shifts, huge values and -inf change nothing but what they should."""
    logits = rand_logits(1, 2100)[0]
    law = logits.double().softmax(-1)
    for shift in (-3e4, 250.0, 3e4):
        moved = (logits.double() + shift).float()
        exact = moved.double().softmax(-1)
        assert chi_square_p(frequencies(moved, 5_000), exact) > 1e-3
    holes = logits.clone()
    holes[::3], holes[1::3] = -math.inf, -1e30
    law = holes.double().softmax(-1)
    counts = frequencies(holes, 5_000)
    assert not counts[law == 0.0].any() and chi_square_p(counts, law) > 1e-3


def test_lowest_id_wins_ties_at_temperature_zero() -> None:
    logits = torch.zeros(4, 4000)
    logits[0, [1023, 1024, 3999]] = 1.0
    logits[1, [2047, 2050]] = 1.0
    logits[2, [3999]] = 1.0
    greedy = TokenLaw(temperature=0.0)
    found = draw(logits, 4, law=greedy)
    assert found.token.tolist() == [1023, 2047, 3999, 0]
    assert found.logprob.tolist() == [0.0] * 4
    assert found.margin.tolist()[0] == found.margin.tolist()[1] == 0.0
    shut = TokenLaw(temperature=0.0, suppressed=(0, 1023, 3999))
    assert draw(logits, 4, law=shut).token.tolist() == [1024, 2047, 1, 1]


def test_lowest_ids_win_ties_at_a_boundary() -> None:
    logits = torch.zeros(1, 3000)
    logits[0, 2900] = 1.0
    law = ops.log_probs(logits, law=TokenLaw(top_k=4)).exp()[0]
    assert law.nonzero().flatten().tolist() == [0, 1, 2, 2900]
    exact = brute_law(logits[0], TokenLaw(top_p=0.01))
    assert torch.equal(ops.log_probs(logits, law=TokenLaw(top_p=0.01)).exp()[0] > 0, exact > 0)
    assert frequencies(logits[0], 3000, law=TokenLaw(top_k=4)).nonzero().numel() == 4
    assert set(draw(torch.ones(200, 9), 200, law=TokenLaw(top_k=1)).token.tolist()) == {0}


# ---- the record


def reference(
    logits: Tensor, token: Tensor, law: TokenLaw, kept: Tensor | None
) -> dict[str, Tensor]:
    """The fields of the record in float64, from their definitions; `kept` where of the law."""
    if kept is not None:
        scaled = torch.where(kept, logits.double() / (law.temperature or 1.0), -math.inf)
    else:
        scaled = logits.double().clone()
        scaled[:, list(law.suppressed)] = -math.inf
    log_p = scaled.log_softmax(-1)
    best = log_p.exp().topk(2).values
    return {
        "log_confidence": log_p.gather(1, token[:, None])[:, 0],
        "max_logprob": log_p.amax(-1),
        "margin": best[:, 0] - best[:, 1],
        "entropy": -(log_p.exp() * log_p.clamp(min=-1e9)).sum(-1),
        "log_normalizer": scaled.logsumexp(-1),
    }


def _at(law: TokenLaw, heat: float) -> TokenLaw:
    return TokenLaw(heat, law.top_k, law.top_p, law.min_p, law.crossing, law.suppressed)


RECORD_LAWS = [
    TokenLaw(),
    TokenLaw(suppressed=(5, 2099)),
    TokenLaw(temperature=0.3, suppressed=(5,)),
    TokenLaw(temperature=2.0, top_k=50, top_p=0.8),
    TokenLaw(temperature=0.7, min_p=0.3),
    TokenLaw(top_k=1),
    TokenLaw(temperature=0.0),
    TokenLaw(temperature=0.0, top_k=7, suppressed=(5,)),
]


@pytest.mark.parametrize("law", RECORD_LAWS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_record_against_float64(law: TokenLaw, dtype: torch.dtype) -> None:
    """Rows of three tiles, the last one ragged."""
    logits = torch.cat((rand_logits(6, 2100, 4.0), rand_logits(6, 2100, 0.3, seed=1) + 20.0))
    logits[2, 100:2000] = -math.inf
    logits[3, 17] = 60.0
    logits = logits.to(dtype)
    tight = 1e-11 if dtype == torch.float64 else 2e-5
    exact = torch.stack([brute_law(row, law) for row in logits])
    kept = exact if law.temperature else torch.stack([brute_law(x, _at(law, 1.0)) for x in logits])
    for statistics, of_law in (("model", None), ("law", kept > 0)):
        found = draw(logits, 12, law=law, statistics=statistics)
        want = reference(logits, found.token, law, of_law)
        for name in STATISTICS:
            value = getattr(found, name)
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert torch.allclose(value.double(), want[name], rtol=tight, atol=tight), name
        chosen = exact.gather(1, found.token[:, None])[:, 0]
        assert torch.allclose(found.logprob.double(), chosen.log(), rtol=tight, atol=tight)


def test_the_record_of_one_token_and_of_no_rows() -> None:
    found = draw(torch.full((3, 1), 7.0), 3)
    assert found.token.tolist() == [0, 0, 0]
    for field, value in (
        ("entropy", 0.0),
        ("logprob", 0.0),
        ("margin", 1.0),
        ("log_normalizer", 7.0),
    ):
        assert getattr(found, field).tolist() == pytest.approx([value] * 3, abs=1e-6)
    empty = draw(torch.empty(0, 10), 0)
    assert all(field.shape == (0,) for field in empty) and empty.token.dtype == torch.int64


def test_gradients_are_not_needed() -> None:
    logits = rand_logits(3, 50).requires_grad_()
    assert not draw(logits, 3).logprob.requires_grad


# ---- log-laws


# ---- what must not matter


def same(one: DrawRecord, other: DrawRecord) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("vocab", [30, 1023, 2600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "law", [TokenLaw(suppressed=(9,)), TokenLaw(0.7, top_p=0.9), TokenLaw(0.0)], ids=str
)
def test_rows_do_not_depend_on_the_batch(
    vocab: int, dtype: torch.dtype, law: TokenLaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 70
    logits = rand_logits(count, vocab, 3.0).to(dtype)
    logits[3, ::2] = -math.inf
    keys, positions = torch.arange(count) * 7919, torch.arange(count) - 5
    steps = torch.arange(count) % 4

    def run(who: Tensor, source: ops.Source | None = None, **extra: Tensor) -> DrawRecord:
        source = logits[who] if source is None else source
        at = {"keys": keys[who], "positions": positions[who], "steps": steps[who]}
        return ops.draw(source, law=law, statistics="law", **at, **extra)

    everything = torch.arange(count)
    whole = run(everything)
    mixed = torch.randperm(count, generator=torch.Generator().manual_seed(3))[:33]
    expected = DrawRecord(*(field[mixed] for field in whole))
    assert same(run(mixed), expected)
    assert same(run(mixed, logits, rows=mixed), expected)
    alone = [run(torch.tensor([i])) for i in (0, 3, 69)]
    assert same(
        DrawRecord(*map(torch.cat, zip(*alone, strict=True))),
        DrawRecord(*(f[[0, 3, 69]] for f in whole)),
    )

    head = ops.LogitRows(lambda i: logits[i], count, vocab, logits.device, block=9)
    assert same(run(everything, head), whole)
    assert same(run(mixed, head, rows=mixed), expected)

    wide = torch.zeros(count, 2, vocab + 3, dtype=dtype)
    wide[:, 1, 3:] = logits
    assert same(run(everything, wide[:, 1, 3:]), whole)
    assert same(run(everything, logits.T.contiguous().T), whole)

    monkeypatch.setitem(tiles_module._CHUNK_BYTES, "cpu", 3 * vocab * 4)
    monkeypatch.setitem(rows_module._BLOCK, "cpu", 9000)
    assert same(run(everything), whole)
    assert same(run(mixed, logits, rows=mixed), expected)


def test_padding_does_not_matter() -> None:
    logits = rand_logits(6, 40)
    plain = ops.Rng.from_seeds([77])
    where = torch.ones(1, 6, dtype=torch.bool)
    keys, positions, steps = plain.at(*where.nonzero(as_tuple=True))
    alone = ops.draw(logits, keys=keys, positions=positions, steps=steps)
    padded = ops.Rng(torch.tensor([1, 77]), torch.tensor([0, 0]), torch.tensor([0, 4]))
    where = torch.zeros(2, 10, dtype=torch.bool)
    where[1, 4:] = True
    keys, positions, steps = padded.at(*where.nonzero(as_tuple=True))
    assert same(ops.draw(logits, keys=keys, positions=positions, steps=steps), alone)


def test_tokens_of_this_random_stream_are_pinned() -> None:
    """Fails when tokens at a fixed seed change: then RANDOM_STREAM must be raised."""
    logits = rand_logits(8, 5000, 1.0)
    assert ops.RANDOM_STREAM == 1
    assert draw(logits, 8, seed=42).token.tolist() == PINNED


PINNED = [3883, 2574, 3861, 2221, 4145, 4480, 897, 4197]


def test_global_generators_are_untouched() -> None:
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    rng = ops.Rng.from_seeds(ops.row_seeds(ops.fresh_seed(), 4))
    rng.gumbel(ops.Stream.TIME, torch.empty(4, 3))
    draw(rand_logits(4, 3000), 4, law=TokenLaw(0.9, top_p=0.9, top_k=20, min_p=0.1))
    k = torch.tensor([1, 2, 3, 3])
    ops.stochastic_positions(torch.zeros(4, 3), torch.ones(4, 3).bool(), k, rng)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()


def test_logits_are_not_written() -> None:
    logits = rand_logits(5, 2000)
    copy = logits.clone()
    for law in (TokenLaw(suppressed=(1,)), TokenLaw(0.5, top_p=0.5, suppressed=(1,))):
        draw(logits, 5, law=law)
        ops.log_probs(logits, law=law)
    assert torch.equal(logits, copy)


# ---- refusals


@pytest.mark.parametrize("law", [TokenLaw(), TokenLaw(0.0), TokenLaw(0.5, top_p=0.5)], ids=str)
def test_rows_without_a_law_are_refused(law: TokenLaw) -> None:
    for value, word in ((math.nan, "NaN"), (math.inf, "inf"), (-math.inf, "no token")):
        logits = rand_logits(300, 1500)
        logits[200] = -math.inf if value == -math.inf else logits[200]
        logits[200, 1499] = value
        for run in (lambda x: draw(x, 300, law=law), lambda x: ops.log_probs(x, law=law)):
            with pytest.raises(ValueError, match=f"row 200 .*{word}"):
                run(logits)
        unchecked = draw(logits, 300, law=law, check=False)
        good = torch.arange(300) != 200
        clean = draw(logits[good], 299, law=law) if law.temperature == 0.0 else None
        assert ((unchecked.token >= 0) & (unchecked.token < 1500)).all()
        if clean is not None:
            assert torch.equal(unchecked.token[good], clean.token)


def test_everything_suppressed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"row 0 .*suppress fewer"):
        draw(rand_logits(2, 3), 2, law=TokenLaw(suppressed=(0, 1, 2)))
    one_left = draw(rand_logits(2, 3), 2, law=TokenLaw(suppressed=(0, 2)))
    assert one_left.token.tolist() == [1, 1]


def test_bad_values_at_suppressed_ids_do_not_matter() -> None:
    logits = rand_logits(40, 1100)
    law = TokenLaw(suppressed=(4, 1050))
    clean = draw(logits, 40, law=law)
    for value in (math.nan, math.inf, 1e30, -math.inf):
        logits[:, [4, 1050]] = value
        found = draw(logits, 40, law=law)
        assert torch.equal(found.token, clean.token)
        assert torch.allclose(found.entropy, clean.entropy, atol=1e-6)
        assert torch.allclose(found.log_normalizer, clean.log_normalizer, atol=1e-6)


def test_wrong_arguments_are_refused() -> None:
    logits = rand_logits(4, 10)
    three = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"keys .*\(4,\)"):
        ops.draw(logits, keys=three, positions=three, steps=three)
    with pytest.raises(ValueError, match="floating point"):
        draw(torch.zeros(4, 10, dtype=torch.int64), 4)
    with pytest.raises(ValueError, match=r"id 10 .*\[0, 10\)"):
        draw(logits, 4, law=TokenLaw(suppressed=(10,)))
    with pytest.raises(ValueError, match=r"10..10: .*\[0, 10\)"):
        ops.log_prob_of(logits[:1], torch.tensor([10]))
