"""CCD: the released look-back rule, and the averaged form."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling.denoisers import wrap
from dlm_sampling.samplers import CCD, CCDAverage, LLaDA, create
from dlm_sampling.testing import chi_square, count_states
from dlm_sampling.types import Clock, TokenLaw
from tests.samplers.adaptive import (
    P_LIMIT,
    constant,
    enumerable,
    peaked,
    run,
    same_run,
    toys,
    written_per_step,
)

FALLING = [0.99 - 0.01 * i for i in range(20)]


def test_a_law_that_never_moves_is_read_faster_and_faster():
    """n: 1 in steps 0 to 3, then 2, 3, 4, 5, 5; a step writes what waited, all of which agrees."""
    out = run(peaked(FALLING), CCD(), 20, return_trajectory=True)
    assert [len(w) for w in written_per_step(out)] == [1, 1, 1, 1, 1, 2, 3, 4, 5, 1]


def test_without_seek_mode_every_step_writes_its_share():
    out = run(peaked(FALLING), CCD(seek_mode=False), 20, steps=10, return_trajectory=True)
    assert [len(w) for w in written_per_step(out)] == [2] * 10


@pytest.mark.parametrize("order", ["entropy", "confidence", "margin"])
def test_as_long_as_it_does_not_look_back_it_is_the_quota(order):
    options = {"prompt": [1, 2], "rows": 2, "steps": 5}
    ours = run(toys()["t3"], CCD(order=order), 15, **options)
    assert same_run(ours, run(toys()["t3"], LLaDA(order), 15, **options))
    ours = run(toys()["t3"], CCD(order=order, warm_up=99), 15, prompt=[1, 2], steps=15)
    assert same_run(ours, run(toys()["t3"], LLaDA(order), 15, prompt=[1, 2], steps=15))


def test_the_window():
    sampler, one = CCD(), torch.tensor([1])

    def window(step, before, unknown, total=100, share=1, expand=4.0):
        clock = Clock(torch.tensor([step]), torch.tensor([100]))
        sizes = [torch.tensor([n]) for n in (before, unknown, total, share)]
        return int(CCD(expand_ratio=expand).window(*sizes, clock))

    assert [window(i, 1, 90) for i in range(6)] == [1, 1, 1, 1, 2, 2]
    assert window(9, 4, 50) == 5
    assert window(9, 5, 50) == 5  # u + floor(4 u)
    assert window(9, 5, 11) == 5
    assert window(9, 5, 10) == 2  # a tenth is left
    assert window(9, 7, 50, share=2) == 8
    assert window(9, 99, 50, share=3, expand=0.5) == 4
    assert sampler.window(one, one, one, one, Clock(one * 4, one * 9)).item() == 2


def test_what_agrees_must_have_kept_its_argmax():
    """Position 7 ranks high but predicts another token in every call: it is written last, alone."""
    length, calls = 14, [0]

    def laws(input_ids):
        calls[0] += 1
        table = torch.empty(length, 5, dtype=torch.float64)
        for i in range(length):
            top = 0.97 - 0.01 * i
            table[i] = (1 - top) / 3
            table[i, calls[0] % 2 if i == 7 else 0] = top
        return table.log().unsqueeze(0)

    out = run(wrap(laws, vocab_size=5, mask_token_id=4), CCD(), length, return_trajectory=True)
    steady = [[0], [1], [2], [3], [4], [5, 6], [8, 9], [10, 11, 12], [13]]
    assert written_per_step(out) == [*steady, [7]]


def test_no_mask_is_left_where_the_released_code_leaves_some():
    """Deviation: u = floor(10 / 7) = 1; seven released steps that do not look back leave 3."""
    out = run(toys()["t3"], CCD(warm_up=99), 10, steps=7, return_trajectory=True)
    assert [len(w) for w in written_per_step(out)] == [1] * 6 + [4]
    assert int(out.nfe) == 7


def test_fewer_positions_left_than_a_share():
    """Deviation: with u = 2 and one position left the released code masks a written token again."""
    out = run(peaked(FALLING), CCD(), 20, steps=10, return_trajectory=True)
    sizes = [len(w) for w in written_per_step(out)]
    # n: 1, 1, 1, 1, 2, 3, 4: two at a time, then the two that wait, then three, then what is left.
    assert sizes == [2, 2, 2, 2, 2, 2, 3, 4, 1]
    assert sum(sizes) == 20


def test_more_steps_than_positions_stop_early():
    out = run(toys()["t3"], CCD(), 6, steps=50)
    assert int(out.nfe) <= 6


def test_blocks_start_anew_and_one_block_is_no_blocks():
    out = run(peaked(FALLING), CCD(), 20, block_length=10, return_trajectory=True)
    assert [len(w) for w in written_per_step(out)] == [1, 1, 1, 1, 1, 2, 3] * 2
    without = run(toys()["t6"], CCD(), 13, prompt=[1, 2, 3], rows=2)
    assert same_run(
        without, run(toys()["t6"], CCD(), 13, prompt=[1, 2, 3], rows=2, block_length=13)
    )


def test_tied_tokens_do_not_change_the_order_of_writing():
    """`exact` holds under ties: which of two best tokens was drawn says nothing of the mode."""
    probs = [[p, p, 1 - 2 * p] for p in (0.49, 0.48, 0.47, 0.46, 0.45, 0.44, 0.43, 0.42, 0.41)]
    out = run(
        constant(probs), CCD(warm_up=1), 9, rows=40, law=TokenLaw(), return_trajectory=True
    )  # fmt: skip
    assert len(set(map(tuple, out.tokens.tolist()))) > 20
    orders = {str(written_per_step(out, row)) for row in range(40)}
    assert len(orders) == 1 and len(written_per_step(out)) < 9


def test_averaging_one_law_is_the_quota():
    for steps, block in ((15, None), (6, None), (15, 4)):
        options = {"prompt": [1, 2], "rows": 2, "steps": steps, "block_length": block}
        ours = run(toys()["t3"], CCDAverage(depth=1), 15, **options)
        other = run(toys()["t3"], LLaDA("entropy"), 15, **options)
        assert torch.equal(ours.tokens, other.tokens)
        assert torch.equal(ours.nfe, other.nfe)


def test_a_law_that_never_moves_is_its_own_average():
    probs = [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [0.5, 0.25, 0.25]]
    for depth in (2, 3, 7):
        options = {"rows": 50, "law": TokenLaw()}
        ours = run(constant(probs), CCDAverage(depth), 4, **options)
        assert torch.equal(ours.tokens, run(constant(probs), CCDAverage(1), 4, **options).tokens)


def test_an_order_by_drawn_tokens_is_not_exact():
    assert CCDAverage().exact
    assert CCDAverage(order="margin").exact
    assert not CCDAverage(order="confidence").exact
    assert not CCDAverage(delayed_ids=(1,)).exact


@pytest.mark.parametrize("depth", [2, 3])
def test_the_averaged_law_is_exact(depth):
    """Every chain of draws, by hand: p_bar is the mean over this step's law and those before."""
    toy = enumerable("mask_strong")
    symbols, length, mask = toy.vocab_size - 1, 3, toy.vocab_size - 1
    final = torch.zeros(symbols**length, dtype=torch.float64)

    def follow(state, past, weight):
        unknown = [i for i in range(length) if state[i] == mask]
        if not unknown:
            final[sum(v * symbols ** (length - 1 - i) for i, v in enumerate(state))] += weight
            return
        now = toy.probs(torch.tensor([state]))[0, :, :symbols]
        laws = [*past, now][-depth:]
        mean = sum(laws) / len(laws)
        entropy = {i: -float((mean[i] * mean[i].log()).sum()) for i in unknown}
        i = min(unknown, key=lambda i: (entropy[i], i))
        for v in range(symbols):
            follow((*state[:i], v, *state[i + 1 :]), laws, weight * float(mean[i, v]))

    follow((mask,) * length, [], 1.0)
    out = run(toy, CCDAverage(depth), length, rows=6_000, law=TokenLaw())
    counts = count_states(out.tokens, symbols)
    assert chi_square(counts, final).p > P_LIMIT
    # Negative control: the law without averaging is another one.
    plain = run(toy, CCDAverage(1), length, rows=6_000, law=TokenLaw())
    assert chi_square(count_states(plain.tokens, symbols), final).p < P_LIMIT


def test_averages_do_not_cross_blocks():
    """The first step of a block reads its own law alone."""
    options = {"prompt": [1], "rows": 2, "law": TokenLaw()}
    deep = run(toys()["t3"], CCDAverage(5), 6, block_length=1, **options)
    plain = run(toys()["t3"], CCDAverage(1), 6, block_length=1, **options)
    assert torch.equal(deep.tokens, plain.tokens)


def test_the_two_are_named_apart():
    assert type(create("ccd")) is CCD
    assert type(create("ccd-average")) is CCDAverage
    assert "experimental" in (CCDAverage.__doc__ or "")
    assert "experimental" in create("ccd-average").paper


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: CCD(expand_ratio=-1.0), "expand_ratio=-1.0"),
        (lambda: CCD(warm_up=0), "warm_up=0"),
        (lambda: CCD(order="random"), "order='random'"),
        (lambda: CCDAverage(depth=0), "depth=0"),
        (lambda: CCDAverage(order="random"), "order='random'"),
    ],
)
def test_fields_out_of_range_are_refused(build, field):
    with pytest.raises(ValueError, match=field):
        build()
