"""Arguments that come in several forms: ids, seeds, stop strings, flags."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dlm_sampling import ops, wrap
from dlm_sampling.errors import SamplingWarning
from dlm_sampling.text.arguments import (
    RowSeed,
    eos_ids,
    read_ids,
    read_seeds,
    read_stops,
    whole_number,
)

V, END = 12, 7
DENOISER = wrap(lambda ids: torch.zeros(*ids.shape, V), vocab_size=V, mask_token_id=11,
                eos_token_id=END)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (3, (3,)),
        (np.int64(3), (3,)),
        (torch.tensor(3), (3,)),
        ([3, 4], (3, 4)),
        ((), ()),
        (range(3, 5), (3, 4)),
        ({3}, (3,)),
        (np.array([3, 4]), (3, 4)),
        (torch.tensor([3]), (3,)),
        ([np.int32(3), torch.tensor(4)], (3, 4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ids_that_end_a_text(given: Any, ids: tuple[int, ...]) -> None:
    found = eos_ids(given, DENOISER)
    assert found == ids
    assert all(type(token) is int for token in found)


def test_a_model_may_have_further_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert eos_ids(None, DENOISER) == (END,)
    monkeypatch.setattr(type(DENOISER), "further_eos_ids", (5,))
    assert eos_ids(None, DENOISER) == (END, 5)


@pytest.mark.parametrize("ids", [V, -1, [3, 99], np.int64(-1), torch.tensor([V])])
def test_ids_outside_of_the_vocabulary_are_refused(ids: Any) -> None:
    with pytest.raises(ValueError, match=r"eos_token_id: .* is no token id; must be in \[0, 12\)"):
        read_ids("eos_token_id", ids, V)


@pytest.mark.parametrize("ids", ["3", b"3", 3.0, [3.0], True, [True], {3: 4}, None, [[3]], [None],
                                 torch.tensor([3.0]), torch.tensor(True)])  # fmt: skip
def test_what_is_no_id_is_refused_by_name(ids: Any) -> None:
    with pytest.raises(TypeError, match=r"suppress_tokens=.*: must be token ids"):
        read_ids("suppress_tokens", ids, V)


def test_whole_numbers_are_no_floats_flags_or_tables() -> None:
    assert whole_number(np.uint8(3)) == 3
    for wrong in (3.0, True, np.bool_(True), "3", torch.tensor([3]), torch.tensor(True), None):
        with pytest.raises(TypeError):
            whole_number(wrong)


def test_one_seed_or_one_per_row() -> None:
    one = ops.row_seeds(9, 2)
    for seed in (9, np.int64(9), torch.tensor(9), np.array(9)):
        assert read_seeds(seed, 2) == one
    for seeds in ([3, 4], (3, 4), range(3, 5), np.array([3, 4]), torch.tensor([3, 4])):
        assert read_seeds(seeds, 2) == [3, 4]
    assert read_seeds(None, 2) != read_seeds(None, 2)


def test_the_seed_of_a_row_in_place_of_a_list_is_told(recwarn: pytest.WarningsRecorder) -> None:
    """It draws what the number draws, and a list of it the row."""
    assert read_seeds([RowSeed(9)], 1) == [9] and read_seeds([RowSeed(9), 4], 2) == [9, 4]
    assert not recwarn
    with pytest.warns(SamplingWarning, match=r"seed=9 is the seed of one row.* seed=\[9\] repeats"):
        assert read_seeds(RowSeed(9), 2) == ops.row_seeds(9, 2)


@pytest.mark.parametrize("seed", ["9", b"ab", 9.0, [1.0, 2.0], True, [True, 1], {1: 2, 3: 4},
                                  {1, 2}, torch.tensor(9.0), object()])  # fmt: skip
def test_seeds_of_another_type_are_refused(seed: Any) -> None:
    with pytest.raises(TypeError, match=r"seed=.*: must be a whole number"):
        read_seeds(seed, 2)


def test_seeds_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="seed has 3 entries for 2 rows"):
        read_seeds([1, 2, 3], 2)
    with pytest.raises(ValueError, match="must fit in 64 bits"):
        read_seeds(2**64, 2)


@pytest.mark.parametrize(
    ("stop", "rows"),
    [
        (None, [(), ()]),
        ("\n", [("\n",), ("\n",)]),
        (["\n", "Q:"], [("\n", "Q:"), ("\n", "Q:")]),
        ([], [(), ()]),
        ([["\n"], []], [("\n",), ()]),
        ([("\n", "Q:"), None], [("\n", "Q:"), ()]),
    ],
)
def test_stop_strings_for_all_prompts_or_for_each(stop: Any, rows: Any) -> None:
    assert read_stops(stop, 2, object()) == rows


@pytest.mark.parametrize(
    ("stop", "kind", "message"),
    [
        (3, TypeError, "stop=3: must be a string"),
        (b"x", TypeError, "stop=b'x': must be a string"),
        ({"a": 1}, TypeError, "stop=.*: must be a string"),
        ([3, 4], TypeError, "stop=3: must be a string"),
        ([["a"], [3]], TypeError, "must be a string"),
        ([["a"], "b"], TypeError, "stop='b': must be a string"),
        ("", ValueError, "stop: '' stands in every text"),
        (["a", ""], ValueError, "stop: '' stands in every text"),
        (["\ud800"], ValueError, "character 0: U.D800"),
        ([["a"]], ValueError, "stop has 1 lists for 2 prompts"),
    ],
)
def test_other_stop_strings_are_refused(stop: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_stops(stop, 2, object())


def test_stop_strings_need_a_tokenizer() -> None:
    with pytest.raises(ValueError, match=r"stop: .* no tokenizer"):
        read_stops("a", 2, None)
    assert read_stops([], 2, None) == [(), ()]
