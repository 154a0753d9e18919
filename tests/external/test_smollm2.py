"""A real causal language model as judge: it tells a paragraph from its shuffled words."""

from __future__ import annotations

from pathlib import Path

import pytest
from dlm_eval.external.measure import OZ, perplexity, shuffled

pytestmark = pytest.mark.external


def test_a_paragraph_is_likelier_than_its_shuffled_words(smollm2_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder)
    plain, mixed = (perplexity(model, tokenizer, text) for text in (OZ, shuffled(OZ)))
    print(f"perplexity {plain:.1f}, shuffled {mixed:.0f}")
    assert plain < 60 < 300 < mixed
