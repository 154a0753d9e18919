"""Prompts of every kind become ids and places to fill, or are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from dlm_sampling import wrap
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.text.encoding import Encoder
from dlm_sampling.text.prompts import read_prompts
from dlm_sampling.text.rows import PromptRow

V, MASK, PAD = 12, 11, 9


class Letters:
    """One id per letter, a = 0, behind a begin token; a chat has a role's letter and a text."""

    chat_template = "roles"

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [MASK if letter == "_" else ord(letter) - ord("a") for letter in text]
        return {"input_ids": [8, *ids] if add_special_tokens else ids}

    def apply_chat_template(self, messages: list[Any], **options: Any) -> str:
        assert options == {"add_generation_prompt": True, "tokenize": False}
        return "".join("b" + m["content"] for m in messages) + "a"


def denoiser(mask_token_id: int | None = MASK) -> Denoiser:
    return wrap(lambda ids: torch.zeros(*ids.shape, V), vocab_size=V,
                mask_token_id=mask_token_id, pad_token_id=PAD)  # fmt: skip


def read(prompts: Any, tokenizer: Any = "letters", **masks: Any) -> list[PromptRow]:
    encoder = Encoder(Letters() if tokenizer == "letters" else tokenizer)
    return read_prompts(prompts, denoiser(), encoder, **masks)


CHAT = [{"role": "system", "content": "b"}, {"role": "user", "content": "cd"}]
CHAT_IDS = [1, 1, 1, 2, 3, 0]
ROWS = {"input_ids": [[3, 4], [5, 0]], "attention_mask": [[1, 1], [1, 0]]}


def several(*prompts: Any) -> Iterator[Any]:
    yield from prompts


@pytest.mark.parametrize(
    ("prompts", "ids"),
    [
        (None, [[]]),
        ("", [[]]),
        ("abc", [[8, 0, 1, 2]]),
        (["abc", "", [3, 4]], [[8, 0, 1, 2], [], [3, 4]]),
        (("abc", "a"), [[8, 0, 1, 2], [8, 0]]),
        ([3, 4], [[3, 4]]),
        ([[3, 4], [5]], [[3, 4], [5]]),
        ([[], [5]], [[], [5]]),
        (range(3), [[0, 1, 2]]),
        (torch.tensor([3, 4]), [[3, 4]]),
        (torch.tensor([[3, 4], [5, 6]]), [[3, 4], [5, 6]]),
        ([torch.tensor([3, 4]), torch.tensor([5])], [[3, 4], [5]]),
        ([torch.tensor([[3, 4]]), torch.tensor([[5]])], [[3, 4], [5]]),
        ([torch.tensor(3), torch.tensor(4)], [[3, 4]]),
        (np.array([3, 4], dtype=np.int32), [[3, 4]]),
        (np.array([[3, 4], [5, 6]], dtype=np.uint16), [[3, 4], [5, 6]]),
        (np.array([3, 4]).astype(">i8"), [[3, 4]]),
        ([np.int64(3), np.int64(4)], [[3, 4]]),
        ([np.array([[3, 4]]), [np.int32(5)]], [[3, 4], [5]]),
        (np.array(["abc", "a"]), [[8, 0, 1, 2], [8, 0]]),
        (np.array(["abc", "a"], dtype=object), [[8, 0, 1, 2], [8, 0]]),
        (np.str_("abc"), [[8, 0, 1, 2]]),
        (several("abc", [3, 4], CHAT), [[8, 0, 1, 2], [3, 4], CHAT_IDS]),
        (several(3, 4), [[3, 4]]),
        (map(str, ["abc", "a"]), [[8, 0, 1, 2], [8, 0]]),
        (CHAT, [CHAT_IDS]),
        ([CHAT, CHAT[1:]], [CHAT_IDS, [1, 2, 3, 0]]),
        (tuple(CHAT), [CHAT_IDS]),
        (CHAT[1], [[1, 2, 3, 0]]),
        ([[CHAT[1]], "a"], [[1, 2, 3, 0], [8, 0]]),
        ({"input_ids": [3, 4]}, [[3, 4]]),
        (ROWS, [[3, 4], [5]]),
        (BatchEncoding(ROWS), [[3, 4], [5]]),
        ({k: torch.tensor(v) for k, v in ROWS.items()}, [[3, 4], [5]]),
        ({k: np.array(v) for k, v in ROWS.items()}, [[3, 4], [5]]),
        ({"input_ids": [[3, 4], [5]], "token_type_ids": [[0, 0], [0]]}, [[3, 4], [5]]),
        ([{"input_ids": torch.tensor([[3, 4]]), "attention_mask": torch.tensor([[0, 1]])}], [[4]]),
        ([{"input_ids": [3, 4]}, {"input_ids": [[5]]}], [[3, 4], [5]]),
        ({"input_ids": [[3, 4]], "attention_mask": [[0, 0]]}, [[]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_prompt_or_many(prompts: Any, ids: list[list[int]]) -> None:
    rows = read(prompts)
    assert [row.ids for row in rows] == ids
    assert all(type(token) is int for row in rows for token in row.ids)
    assert not any(row.infill for row in rows)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("form", [torch.tensor, np.array, list])
def test_padding_may_be_on_either_side(side: str, form: Any) -> None:
    left = side == "left"
    tokens = form([[3, 4, 5], [0, 0, 6] if left else [6, 0, 0]])
    mask = form([[1, 1, 1], [0, 0, 1] if left else [1, 0, 0]])
    infill = torch.zeros(2, 3, dtype=torch.bool)
    infill[1] = True  # at padding it means nothing
    rows = read(tokens, attention_mask=mask, infill=infill)
    assert [row.ids for row in rows] == [[3, 4, 5], [6]]
    assert [row.fill for row in rows] == [[False] * 3, [True]]


def test_mask_ids_are_filled_in_texts_and_where_it_is_said() -> None:
    assert read("a_")[0].fill == [False, False, True]
    assert read([[0, MASK]])[0].fill == [False, False]
    assert read({"input_ids": [0, MASK]})[0].fill == [False, False]
    assert read([[0, MASK]], infill=True)[0].fill == [False, True]
    assert read("a_", infill=False)[0].fill == [False] * 3
    for form in (list, tuple, np.array, torch.tensor):
        assert read([[0, MASK]], infill=form([[True, False]]))[0].fill == [True, False]
        assert read([0, MASK], infill=form([1, 0]))[0].fill == [True, False]
    assert not read("ab")[0].infill


KINDS = "Give a string, chat messages"


@pytest.mark.parametrize(
    ("prompts", "masks", "message"),
    [
        ("abc", {"tokenizer": None}, "Prompt 0 is text, and the denoiser has no tokenizer"),
        ([[1], [2, V]], {}, f"Prompt 1, position 1: id {V} is outside the vocabulary of {V}"),
        ([[1, -1]], {}, "Prompt 0, position 1: id -1 is outside"),
        ([], {}, r"prompts=\[\]: give at least one"),
        (several(), {}, r"prompts=\[\]: give at least one"),
        ([[1, 2]], {"infill": [[True]]}, "infill: row 0 has 1 entries for 2 tokens"),
        ([[1], [2]], {"infill": [[True]]}, "infill has 1 rows for 2 prompts"),
        ("ab", {"attention_mask": torch.ones(1, 2)}, "attention_mask: goes with token ids"),
        (ROWS, {"attention_mask": torch.ones(2, 2)}, "attention_mask: goes with token ids"),
        ([[1, 2, 3]], {"attention_mask": [[1, 0, 1]]}, "attention_mask: row 0 has a gap"),
        (torch.ones(1, 2), {}, r"prompts \(1, 2\) torch.float32: must be integer ids"),
        (np.ones(2), {}, "prompts .* must be integer ids"),
        (torch.ones(2).bool(), {}, "torch.bool: must be integer ids"),
        (torch.ones(1, 1, 2).long(), {}, r"prompts \(1, 1, 2\)"),
        (torch.tensor(3.5), {}, f"Prompt 0: float is not understood. {KINDS}"),
        (torch.tensor(3), {}, "Prompt 0: int is not understood"),
        (torch.ones(0, 2).long(), {}, "no rows; give at least one"),
        ([torch.ones(2).long(), torch.ones(2)], {}, "Prompt 1 .* must be integer ids"),
        ([torch.ones(2, 2).long()], {}, "Prompt 0 holds 2 rows"),
        ([ROWS], {}, "Prompt 0 holds 2 rows"),
        (torch.ones(1, 2).long(), {"infill": torch.ones(1, 3)}, "infill: row 0 has 3 entries"),
        (b"Once", {}, "Prompt 0: bytes are no text yet"),
        (["a", bytearray(b"b")], {}, "Prompt 1: bytes are no text yet"),
        ({"prompt": "a", "id": 3}, {}, "Prompt 0: a dict with the keys 'prompt', 'id' is not"),
        ([{"content": "no role"}], {}, "Prompt 0: a dict with the keys 'content' is not"),
        ([{"text": "a"}, {"text": "b"}], {}, "Prompt 0: a dict with the keys 'text'"),
        ({}, {}, "Prompt 0: an empty dict is not understood"),
        ([CHAT[0], {"content": "a"}], {}, "Prompt 0, message 1: must be a mapping with a role"),
        ([CHAT[0], "a"], {}, "Prompt 0, message 1: must be a mapping with a role"),
        ({"a", "b"}, {}, "Prompt 0: a set, which has no order, is not understood"),
        ({"a": 1}.keys(), {}, "which has no order"),
        ({**ROWS, "pixel_values": 1}, {}, "prompts: 'pixel_values' beside input_ids is not read"),
        ({"input_ids": "ab"}, {}, "prompts, input_ids: str is not understood"),
        ({"input_ids": [[1], "b"]}, {}, "prompts, input_ids, row 1: str is not understood"),
        ([3, "a"], {}, "Prompt 0, position 1: 'a' is no token id"),
        ([[3, 2.5]], {}, "Prompt 0, position 1: 2.5 is no token id"),
        ([[3, True]], {}, "Prompt 0, position 1: True is no token id"),
        ([True], {}, "Prompt 0: bool is not understood"),
        (["a", None], {}, "Prompt 1: NoneType is not understood"),
        ([["a", "b"]], {}, "Prompt 0: list is not understood"),
        (3, {}, "Prompt 0: int is not understood"),
        (object(), {}, "Prompt 0: object is not understood"),
        (torch.tensor([[1, 2]]).to_sparse(), {}, "prompts: a sparse tensor is not read"),
        (torch.nested.nested_tensor([torch.tensor([1])]), {}, "prompts: a nested tensor is not"),
    ],
)  # fmt: skip
def test_errors_name_the_prompt(prompts: Any, masks: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(prompts, **masks)


def test_filling_by_the_mask_id_needs_one() -> None:
    with pytest.raises(ValueError, match="infill=True fills the mask ids"):
        read_prompts([[1]], denoiser(None), Encoder(), True)
