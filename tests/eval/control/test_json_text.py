"""The judge of JSON, and the result of the constraint on the embedded model."""

from __future__ import annotations

import pytest
from dlm_eval.control.json_text import measure, valid

from dlm_sampling import AutoDenoiser


def test_the_judge_reads_json_itself() -> None:
    assert valid('{"name": "Jim", "age": 12}') and valid('{"age":-1,"name":"éé"}')
    for text in (
        "",
        "[]",
        '{"name": "J", "age": 1}',
        '{"name": "Jim", "age": 1.5}',
        '{"name": "Jim", "age": true}',
        '{"name": "Jim"}',
        '{"name": "Jim", "age": 1} ',
        '{"name": "Jim", "age": 1, "x": 2}',
    ):
        assert valid(text) == text.endswith(" "), text


@pytest.mark.slow
def test_every_constrained_text_is_json() -> None:
    denoiser = AutoDenoiser.from_pretrained("tiny-books")
    bound = measure(denoiser, 3, 3, constrained=True)
    assert bound["valid"] == 3 and bound["nfe"] <= 3.0
    assert bound["different"] > 1
