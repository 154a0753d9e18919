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


@pytest.mark.parametrize("field", ["temperature", "top_k", "top_p", "min_p"])
def test_other_types_and_values_out_of_range_name_the_field(field: str) -> None:
    for value in ("1", [1], torch.ones(2), -1, float("nan")):
        with pytest.raises((TypeError, ValueError), match=field):
            TokenLaw(**{field: value})
