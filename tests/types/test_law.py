"""The law of a token holds plain numbers, whatever it was given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dlm_sampling.types import TokenLaw


def test_numbers_of_numpy_and_torch_become_numbers_of_python() -> None:
    law = TokenLaw(np.int64(3), np.int32(5), np.float32(0.5), torch.tensor(0.25))  # pyright: ignore
    assert law == TokenLaw(3.0, 5, 0.5, 0.25)
    assert [type(value) for value in (law.temperature, law.top_k, law.top_p, law.min_p)] == [
        float,
        int,
        float,
        float,
    ]


@pytest.mark.parametrize(
    "field",
    [
        *("temperature", "top_k", "top_p", "min_p", "typical_p", "eta_cutoff", "top_n_sigma"),
        "repetition_penalty",
    ],
)
def test_other_types_and_values_out_of_range_name_the_field(field: str) -> None:
    for value in ("1", [1], torch.ones(2), -1, float("nan")):
        with pytest.raises((TypeError, ValueError), match=field):
            TokenLaw(**{field: value})


def test_what_a_law_needs_is_told() -> None:
    """Head filters have kernels, the others do not, and what reads the canvas needs one."""
    plain = TokenLaw(0.5, suppressed=(1,))
    assert plain.plain
    assert not (plain.filters or plain.reshapes or plain.reads_canvas)
    for field in ("typical_p", "eta_cutoff", "top_n_sigma"):
        law = TokenLaw(**{field: 0.5})
        assert law.reshapes
        assert not (law.plain or law.filters or law.reads_canvas)
    for given in ({"repetition_penalty": 1.1}, {"presence_penalty": -1}, {"logits_processor": max}):
        law = TokenLaw(**given)
        assert law.reads_canvas
        assert not (law.plain or law.reshapes)
    assert not TokenLaw(top_k=3).plain


def test_penalties_and_processors_that_are_none_are_named() -> None:
    for value in (float("inf"), float("nan"), 1e300, -1000.1):  # a float32 logit less 1e300 is none
        with pytest.raises(ValueError, match=r"presence_penalty=.*: must be in \[-1000, 1000\]"):
            TokenLaw(presence_penalty=value)
    for value in (float("inf"), float("nan"), 1e300, 1e-300, 0.0, -1.0):
        with pytest.raises(ValueError, match=r"repetition_penalty=.*: must be in \[0.001, 1000\]"):
            TokenLaw(repetition_penalty=value)
    edges = TokenLaw(repetition_penalty=0.001, presence_penalty=-1000.0)
    assert edges.reads_canvas and TokenLaw(repetition_penalty=1000, presence_penalty=1000)
    with pytest.raises(TypeError, match=r"logits_processor is a list: .* LogitsProcessorList"):
        TokenLaw(logits_processor=[max])  # pyright: ignore[reportArgumentType]
