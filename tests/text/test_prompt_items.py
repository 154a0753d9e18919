"""Values of one prompt: what is taken, and what is wrong with its place."""

from __future__ import annotations

import json

import pytest

from dlm_sampling.text.prompt_items import PromptItem, to_item


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": None}, 'needs "prompt"'),
        ({"text": "a"}, 'needs "prompt".*Try --column text'),
        ({"prompt": 3}, "'prompt' is of type int: must be a string"),
        ({"messages": [{"content": "a"}]}, "'messages' is a list, but neither of token ids nor"),
        (7, "'prompt' is of type int"),
        ({"prompt": json.loads('"ab\\ud83d"')}, r"\(\\ud83d\) at character 2"),
        ({"messages": [{"role": "user", "content": "\udc00"}]}, "surrogate"),
        ({"prompt": "a", "id": [1]}, "id=.*a string or a whole number"),
        ({"prompt": "a", "id": True}, "id=True"),
        ({"prompt": "a", "max_new_tokens": 1.5}, "max_new_tokens=1.5"),
        ({"prompt": "a", "seed": "x"}, "seed='x'"),
    ],
)
def test_wrong_values_are_named_with_their_place(record: object, words: str) -> None:
    item = to_item(record, "file, line 7", None)
    assert item.error is not None
    assert item.error.startswith("file, line 7: ")
    with pytest.raises(ValueError, match=words):
        raise ValueError(item.error)
    assert str(item.prompt).encode("utf-8")


@pytest.mark.parametrize(
    ("record", "item"),
    [
        ("a", PromptItem("a")),
        ({"prompt": ""}, PromptItem("")),
        ({"prompt": [5, 6]}, PromptItem([5, 6])),
        ({"prompt": "a", "seed": "12", "max_new_tokens": 3}, PromptItem("a", None, 3, 12)),
        ({"prompt": None, "messages": [{"role": "user", "content": "x", "name": None}]},
         PromptItem([{"role": "user", "content": "x"}])),
    ],
)  # fmt: skip
def test_right_values(record: object, item: PromptItem) -> None:
    assert to_item(record, "file", None) == item
