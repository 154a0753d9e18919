"""A real causal language model as judge: it tells a paragraph from its shuffled words."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.external

# L. Frank Baum, The Wonderful Wizard of Oz, 1900, first lines.
PARAGRAPH = (
    "Dorothy lived in the midst of the great Kansas prairies, with Uncle Henry, who was a farmer, "
    "and Aunt Em, who was the farmer's wife. Their house was small, for the lumber to build it had "
    "to be carried by wagon many miles."
)


def test_a_paragraph_is_likelier_than_its_shuffled_words(smollm2_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder)

    def perplexity(text: str) -> float:
        """exp of the mean negative log-probability of all tokens but the first."""
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return float(model(input_ids=ids, labels=ids).loss.exp())

    words = PARAGRAPH.split()
    random.Random(0).shuffle(words)
    plain, shuffled = perplexity(PARAGRAPH), perplexity(" ".join(words))
    print(f"perplexity {plain:.1f}, shuffled {shuffled:.0f}")
    assert plain < 60 < 300 < shuffled
