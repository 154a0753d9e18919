"""Texts and chats become ids with special tokens where they belong."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from dlm_sampling import AutoDenoiser, generate
from dlm_sampling.constraints import token_bytes
from dlm_sampling.text import arguments, encoding
from dlm_sampling.text.encoding import Encoder, check_encodable, check_template
from tests.text.tokenizers_of_all_kinds import KINDS, ids_of, script, tokenizer

ASK = [{"role": "user", "content": "why?"}]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_get_the_special_tokens_of_their_tokenizer(kind: str) -> None:
    own = tokenizer(kind)
    bare = ids_of(own, "Once upon")
    opening = {"byte-level": [], "metaspace": [own.bos_token_id], "wordpiece": [own.bos_token_id]}
    closing = {"byte-level": [], "metaspace": [], "wordpiece": [own.eos_token_id]}
    encoded = Encoder(own).text("Once upon", 0)
    assert encoded.ids == [*opening[kind], *bare, *closing[kind]] == own("Once upon")["input_ids"]
    assert encoded.closing == len(closing[kind])
    assert Encoder(own, False).text("Once upon", 0) == (bare, 0)
    assert Encoder(own, True).text("Once upon", 0) == (own("Once upon")["input_ids"], 0)
    assert Encoder(own).text("", 0) == ([], 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rendered_chat_gets_no_second_begin_token(kind: str) -> None:
    own = tokenizer(kind)
    rendered = own.apply_chat_template(ASK, add_generation_prompt=True, tokenize=False)
    as_messages = Encoder(own).chat(ASK, 0).ids
    encoded = Encoder(own).text(rendered, 0)
    assert encoded.ids[: len(encoded.ids) - encoded.closing] == as_messages
    assert encoded.ids.count(own.bos_token_id) == 1
    closed = f"{own.bos_token}why?{own.eos_token}"
    assert Encoder(own).text(closed, 0) == (ids_of(own, closed), 0)


def test_no_closing_token_stands_before_positions_to_write() -> None:
    own = tokenizer("wordpiece")
    opened, closed = [own.bos_token_id, *ids_of(own, "far")], own("far")["input_ids"]
    denoiser = script("wordpiece", "away", "away")
    out = generate(denoiser, "far", max_new_tokens=2)
    assert out.sequences[0, :-2].tolist() == opened
    assert out.prompt_lengths == [len(opened)]
    filled = generate(denoiser, "far [MASK]")
    assert filled.sequences[0, -1] == own.eos_token_id  # nothing is written behind it
    both = generate(denoiser, ["far [MASK]", "far"], max_new_tokens=2)
    assert own.eos_token_id not in both.sequences[:, :-2].tolist()[0]
    assert generate(denoiser, "far", max_new_tokens=2, add_special_tokens=True).prompt_lengths == [
        len(closed)
    ]
    assert generate(denoiser, "far", max_new_tokens=2, add_special_tokens=False).prompt_lengths == [
        len(opened) - 1
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_started_answer_is_continued(kind: str) -> None:
    own = tokenizer(kind)
    chat = [*ASK, {"role": "assistant", "content": "far away"}]
    begun = f"{own.bos_token}[user]why?{own.eos_token}[assistant]"
    assert Encoder(own).chat(chat, 0).ids == ids_of(own, f"{begun}far away")
    empty = [*ASK, {"role": "assistant", "content": ""}]
    now = Encoder(own, template={"hurry": True})
    assert now.chat(empty, 0) == now.chat(ASK, 0) == (ids_of(own, f"{begun}now "), 0)
    space = [*ASK, {"role": "assistant", "content": "\n"}]
    assert Encoder(own).chat(space, 0).ids == ids_of(own, f"{begun}\n")
    assert generate(script(kind, [9] * 60), chat, max_new_tokens=1).prompt_lengths == [
        len(ids_of(own, f"{begun}far away"))
    ]
    closed = Encoder(own, template={"continue_final_message": False}).chat(chat, 0).ids
    assert closed == ids_of(own, f"{begun}far away{own.eos_token}")


def test_arguments_of_the_template_pass_through() -> None:
    own = tokenizer("byte-level")
    hurry = {"hurry": True}
    wanted = ids_of(own, "<s>[user]why?</s>[assistant]now ")
    assert Encoder(own, template=hurry).chat(ASK, 0).ids == wanted
    out = generate(
        script("byte-level", [9] * 40), ASK, max_new_tokens=1, chat_template_kwargs=hurry
    )
    assert out.prompt_lengths == [len(wanted)]
    other = {"chat_template": "{{ messages[0].content }}"}
    assert Encoder(own, template=other).chat(ASK, 0).ids == ids_of(own, "why?")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": 3, "content": "a"}], "Prompt 2, message 0: role=3: must be a text"),
        ([{"role": "user", "content": "a\ud800"}], "Prompt 2, message 0, character 1: U.D800"),
        ([*ASK, {"role": "assistant", "tool_calls": []}], "Prompt 2 ends with a message of the"),
        ([{"role": "user"}], "Prompt 2, message 0: content=None: must be a text"),
        ([*ASK, {"role": "tool", "content": 5}], "Prompt 2, message 1: content=5: must be a text"),
        ([{"role": "user", "content": "a"}], "Prompt 2: the chat template refuses the messages"),
    ],
)
def test_errors_of_chats(messages: Any, message: str) -> None:
    own = SimpleNamespace(chat_template="x", apply_chat_template=lambda *_, **__: 1 / 0)
    with pytest.raises(ValueError, match=message):
        Encoder(own).chat(messages, 2)


def test_a_chat_needs_a_template() -> None:
    bare = SimpleNamespace(chat_template=None)
    with pytest.raises(ValueError, match="Prompt 0 holds chat messages, and the tokenizer has no"):
        Encoder(bare).chat(ASK, 0)


def test_half_a_surrogate_pair_is_named_with_its_place() -> None:
    check_encodable("Zoë 東京 \U0001f600", "Prompt 0")
    with pytest.raises(ValueError, match=r"Prompt 1, character 2: U\+DE00 is half of a surrogate"):
        generate(script("byte-level", "a"), ["ab", "ab\ude00"], max_new_tokens=1)
    with pytest.raises(ValueError) as caught:
        check_encodable("\ud83d\ude00 and \ud83d", "Prompt 0")
    text = "\ud83d\ude00 and \ud83d"  # the remedy of the message, word for word
    assert '.encode("utf-16", "surrogatepass").decode("utf-16", "replace")' in str(caught.value)
    mended = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert mended == "\U0001f600 and \ufffd"


def test_arguments_of_the_template_are_checked() -> None:
    check_template(None)
    check_template({"enable_thinking": False})
    for wrong in ("enable_thinking", [1], {1: 2}):
        with pytest.raises(TypeError, match="chat_template_kwargs="):
            check_template(wrong)
    own = tokenizer("byte-level")
    own.chat_template = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{% if enable_thinking is defined and not enable_thinking %}{{ eos_token }}{% endif %}"
    )
    assert Encoder(own, template={"enable_thinking": True}).chat(ASK, 0).ids == ids_of(own, "why?")
    with pytest.raises(ValueError, match=r"reads no 'enable_thinkin'. Did you mean 'enable_thinki"):
        Encoder(own, template={"enable_thinkin": False}).chat(ASK, 0)
    with pytest.raises(ValueError, match=r"reads no 'xyz'. It reads enable_thinking\."):
        Encoder(own, template={"add_generation_prompt": False, "xyz": 1}).chat(ASK, 0)
    own.chat_template = "{% own_tag %}"
    with pytest.raises(ValueError, match="Prompt 0: the chat template refuses the messages"):
        Encoder(own, template={"xyz": 1}).chat(ASK, 0)
    with pytest.raises(ValueError, match="'tokenize' cannot be set"):
        check_template({"tokenize": True})


def test_a_character_without_a_token_is_no_position_to_fill() -> None:
    """The tokenizer of the sudoku model reads everything that is no digit as its mask."""
    own = AutoDenoiser.from_pretrained("sudoku4x4").tokenizer
    for text in ("1..4", "1 . 2\n3", "."):
        assert Encoder(own).text(text, 0).ids == ids_of(own, text)
    with pytest.raises(ValueError, match=r"Prompt 2: the tokenizer has no token for 'a', 'b', and"):
        Encoder(own).text("ab1.2a", 2)
    with pytest.raises(ValueError, match=r"'a', 'b', 'c', 'd', 'e' and others, .* write '\.'"):
        Encoder(own).text("abcdefg", 0)
    for kind in KINDS:  # their unknown token is not their mask
        assert Encoder(tokenizer(kind)).text("\u2603 far", 0).ids


def test_protocols_ask_tokenizers_only_for_what_every_python_sees() -> None:
    """From 3.12 on `isinstance` asks no `__getattr__`, by which transformers 5 gives some ids."""
    own = AutoDenoiser.from_pretrained("sudoku4x4").tokenizer
    for module in (arguments, encoding, token_bytes):
        for protocol in vars(module).values():
            if "_is_runtime_protocol" not in vars(
                protocol if inspect.isclass(protocol) else object
            ):
                continue
            names = {
                n for n in {*vars(protocol), *protocol.__annotations__} if not n.startswith("_")
            }
            if all(hasattr(own, name) for name in names):
                seen = {name for name in names if inspect.getattr_static(own, name, None)}
                assert seen == names, protocol
