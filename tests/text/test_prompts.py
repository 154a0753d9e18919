"""Prompts of every kind become ids and places to fill; canvases are padded on the left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import wrap
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.text.prompts import PromptRow, build_rows, check_length, read_prompts

V, MASK, PAD = 12, 11, 9


class Letters:
    """One id per letter, a = 0; the template puts a role's first letter before each message."""

    chat_template = "roles"

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [MASK if letter == "_" else ord(letter) - ord("a") for letter in text]
        return {"input_ids": [8, *ids] if add_special_tokens else ids}

    def apply_chat_template(self, messages: list[Any], **options: Any) -> str:
        assert options == {"add_generation_prompt": True, "tokenize": False}
        return "".join(m["role"][0] + m["content"] for m in messages) + "a"


def denoiser(mask_token_id: int | None = MASK, **facts: Any) -> Denoiser:
    return wrap(lambda ids: torch.zeros(*ids.shape, V), vocab_size=V,
                mask_token_id=mask_token_id, **{"pad_token_id": PAD, **facts})  # fmt: skip


def read(prompts: Any, **options: Any) -> list[PromptRow]:
    given = {"infill": None, "attention_mask": None, "tokenizer": Letters(), **options}
    return read_prompts(
        prompts, denoiser(), given["tokenizer"], given["infill"], given["attention_mask"]
    )


CHAT = [{"role": "system", "content": "b"}, {"role": "user", "content": "cd"}]


@pytest.mark.parametrize(
    ("prompts", "ids"),
    [
        (None, [[]]),
        ("", [[]]),
        ("abc", [[8, 0, 1, 2]]),
        (["abc", "", [3, 4]], [[8, 0, 1, 2], [], [3, 4]]),
        ([3, 4], [[3, 4]]),
        ([[3, 4], [5]], [[3, 4], [5]]),
        (torch.tensor([3, 4]), [[3, 4]]),
        (torch.tensor([[3, 4], [5, 6]]), [[3, 4], [5, 6]]),
        ([torch.tensor([3, 4]), torch.tensor([5])], [[3, 4], [5]]),
    ],
)
def test_one_prompt_or_many(prompts: Any, ids: list[list[int]]) -> None:
    assert [row.ids for row in read(prompts)] == ids


def test_a_chat_is_one_prompt_and_gets_no_special_tokens() -> None:
    tokenizer = Letters()
    tokenizer.apply_chat_template = lambda messages, **_: "b" * len(messages)  # type: ignore
    assert [row.ids for row in read(CHAT, tokenizer=tokenizer)] == [[1, 1]]
    assert [row.ids for row in read([CHAT, CHAT[:1]], tokenizer=tokenizer)] == [[1, 1], [1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_a_tensor_may_be_on_either_side(side: str) -> None:
    left = side == "left"
    tokens = torch.tensor([[3, 4, 5], [0, 0, 6] if left else [6, 0, 0]])
    mask = torch.tensor([[1, 1, 1], [0, 0, 1] if left else [1, 0, 0]])
    infill = torch.zeros(2, 3, dtype=torch.bool)
    infill[1] = True  # at padding it means nothing
    rows = read(tokens, attention_mask=mask, infill=infill)
    assert [row.ids for row in rows] == [[3, 4, 5], [6]]
    assert [row.fill for row in rows] == [[False] * 3, [True]]


def test_mask_ids_are_filled_in_texts_and_where_it_is_said() -> None:
    assert read("a_")[0].fill == [False, False, True]
    assert read([[0, MASK]])[0].fill == [False, False]
    assert read([[0, MASK]], infill=True)[0].fill == [False, True]
    assert read("a_", infill=False)[0].fill == [False] * 3
    assert read([[0, MASK]], infill=[[True, False]])[0].fill == [True, False]
    assert not read("ab")[0].infill


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ("abc", {"tokenizer": None}, "Prompt 0 is text, and the denoiser has no tokenizer"),
        ([[1], [2, V]], {}, f"Prompt 1, position 1: id {V} is outside the vocabulary of {V}"),
        ([[1, -1]], {}, "Prompt 0, position 1: id -1 is outside"),
        ([], {}, r"prompts=\[\]: give at least one"),
        ([[1, 2]], {"infill": [[True]]}, "infill: row 0 has 1 entries for 2 tokens"),
        ([[1], [2]], {"infill": [[True]]}, "infill has 1 rows for 2 prompts"),
        ([[1]], {"attention_mask": torch.ones(1, 1)}, "attention_mask: goes with a tensor"),
        (torch.ones(1, 2), {}, "must be integer ids"),
        (torch.ones(0, 2).long(), {}, "no rows; give at least one"),
        (torch.ones(1, 2).long(), {"infill": torch.ones(1, 3)}, r"infill \(1, 3\): must be"),
        ([{"content": "no role"}], {}, "Prompt 0: dict is not understood"),
    ],
)
def test_errors_name_the_prompt(prompts: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(prompts, **options)


def test_filling_by_the_mask_id_needs_one() -> None:
    with pytest.raises(ValueError, match="infill=True fills the mask ids"):
        read_prompts([[1]], denoiser(None), None, True, None)


def test_a_chat_needs_a_template() -> None:
    bare = SimpleNamespace(chat_template=None)
    with pytest.raises(ValueError, match="Prompt 0 holds chat messages, and the tokenizer has no"):
        read(CHAT, tokenizer=bare)


ROWS = [PromptRow([1, 2, 3], [False, True, False]), PromptRow([], []), PromptRow([4], [False])]


def test_rows_are_padded_on_the_left_and_end_with_new_positions() -> None:
    made = build_rows(ROWS, [1, 2, 3], denoiser(), [5, 6, 7], "auto").canvases
    assert made.tokens.tolist() == [[1, 2, 3, MASK], [PAD, PAD, MASK, MASK], [4, MASK, MASK, MASK]]
    assert made.editable.long().tolist() == [[0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]]
    assert made.attention is not None
    assert made.attention.long().tolist() == [[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]]
    assert made.seeds == (5, 6, 7)


@pytest.mark.parametrize(
    ("facts", "filler"),
    [({"pad_token_id": PAD}, PAD), ({"pad_token_id": None, "eos_token_id": 7}, 7),
     ({"pad_token_id": None}, 0)],
)  # fmt: skip
def test_padding_is_the_pad_id_or_the_end_of_text_or_zero(facts: Any, filler: int) -> None:
    made = build_rows(ROWS, [1, 2, 3], denoiser(**facts), [0, 0, 0], "keep").canvases
    assert made.tokens[1].tolist() == [filler, filler, MASK, MASK]
    bare = build_rows(ROWS, [1, 2, 3], denoiser(None, **facts), [0, 0, 0], "keep").canvases
    assert bare.tokens[1].tolist() == [filler] * 4  # without a mask, new positions hold noise


@pytest.mark.parametrize("eos", ["auto", "keep", "cut", "stop"])
def test_only_completions_of_a_prompt_stop_by_themselves(eos: Any) -> None:
    made = build_rows(ROWS, [1, 2, 3], denoiser(), [0, 0, 0], eos)
    assert made.endings == (["keep", "keep", "stop"] if eos == "auto" else [eos] * 3)
    wanted = [ending == "stop" for ending in made.endings]
    assert isinstance(made.canvases.may_stop, Tensor)
    assert made.canvases.may_stop.tolist() == wanted


def test_lengths_are_checked_against_the_context() -> None:
    check_length(0, 3, 5, 8)
    check_length(0, 3, 5, None)
    for prompt, new, context, message in (
        (0, 0, 8, "Prompt 4 is empty and max_new_tokens=0"),
        (5, 5, 8, "5 tokens \\+ 5 new exceed the context of 8. Shorten the prompt by 2, or ask "
                  "for 3 new tokens."),
        (5, 2, 4, "Shorten the prompt by 3.$"),
        (1, 9, 4, "Ask for at most 3 new tokens."),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            check_length(4, prompt, new, context)
