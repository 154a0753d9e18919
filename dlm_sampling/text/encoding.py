"""Turn texts and chats into token ids, with special tokens where they belong.

A begin token that a text already has is not put before it again.  Tokens that close a text, such as
BERT's [SEP], are kept apart, because they must not stand before positions that are to be written.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, cast

from dlm_sampling.errors import check_mapping, suggestion

OUR_TEMPLATE_ARGUMENTS = (
    "tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask", "padding",
    "truncation", "max_length", "tokenizer_kwargs",
)  # fmt: skip
"""Arguments of `apply_chat_template` that decide its result, and are not passed on."""

_OURS = frozenset({
    "messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now",
    "bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token",
})  # fmt: skip
"""Names in templates that are no arguments of a caller."""

_ENDS = {"add_generation_prompt", "continue_final_message"}


class Encoded(NamedTuple):
    """Hold the token ids of a text; the last `closing` of them only close it."""

    ids: list[int]
    closing: int = 0


@dataclass(frozen=True)
class Encoder:
    """Turn texts and chats into token ids.

    Fields:
        tokenizer: a transformers tokenizer, or None if there is none.
        add_special_tokens: True encodes texts as the tokenizer does, False without special tokens,
            None with special tokens, but without a second begin token.
        template: further arguments of the chat template, such as {"enable_thinking": False}.
    """

    tokenizer: Any = None
    add_special_tokens: bool | None = None
    template: Mapping[str, Any] | None = None

    def text(self, text: str, index: int) -> Encoded:
        """Encode a text.

        Args:
            text: the text; "" has no tokens.
            index: number of the prompt, for messages.

        Raises:
            ValueError: there is no tokenizer, the text holds half of a surrogate pair, or
                characters that the tokenizer would read as positions to fill.
        """
        if not text:
            return Encoded([])
        tokenizer = self._needed(index)
        check_encodable(text, f"Prompt {index}")
        check_no_blanks(tokenizer, text, f"Prompt {index}")
        if self.add_special_tokens is not None:
            return Encoded(_ids(tokenizer, text, self.add_special_tokens))
        whole, bare = _ids(tokenizer, text, True), _ids(tokenizer, text, False)
        at = _place(bare, whole)
        if at is None:  # the tokenizer changes the text itself when it adds special tokens
            return Encoded(whole)
        opening, closing = whole[:at], whole[at + len(bare) :]
        if opening and bare[:1] == opening[:1]:
            opening = []
        if closing and bare[-len(closing) :] == closing:
            closing = []
        return Encoded([*opening, *bare, *closing], len(closing))

    def chat(self, messages: Sequence[Mapping[str, Any]], index: int) -> Encoded:
        """Encode chat messages through the chat template, up to where the answer goes on.

        A last message of the assistant is a started answer, and is continued.

        Args:
            messages: mappings with a role, and mostly a content.
            index: number of the prompt, for error messages.

        Raises:
            ValueError: there is no tokenizer or no template, or the template refuses the messages.
        """
        tokenizer, own = self._needed(index), self.template or {}
        if not (tokenizer.chat_template or own.get("chat_template")):
            raise ValueError(
                f"Prompt {index} holds chat messages, and the tokenizer has no chat template. "
                "Give a string, or set tokenizer.chat_template."
            )
        check_names_read(tokenizer, own)
        _check_messages(messages, index)
        messages, ends = _answer(messages, index)
        if _ENDS & own.keys():
            ends = {}
        try:
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, **ends, **own)
        except Exception as error:
            kind = type(error).__name__
            raise ValueError(
                f"Prompt {index}: the chat template refuses the messages ({kind}: {error})."
            ) from error
        return Encoded(_ids(tokenizer, text, bool(self.add_special_tokens)))

    def _needed(self, index: int) -> Any:
        if self.tokenizer is None:
            raise ValueError(
                f"Prompt {index} is text, and the denoiser has no tokenizer. Pass tokenizer=, "
                "or token ids."
            )
        return self.tokenizer


def check_encodable(text: str, name: str) -> None:
    """Check that a text has no half of a surrogate pair, which no tokenizer can encode.

    Args:
        text: the text.
        name: names the text in the message, such as "Prompt 3".

    Raises:
        ValueError: it has one; the message says where.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise ValueError(
            f"{name}, character {error.start}: {half} is half of a surrogate pair, which is no "
            'character. Mend the text: text.encode("utf-16", "surrogatepass").decode("utf-16", '
            '"replace").'
        ) from None


def check_no_blanks(tokenizer: Any, text: str, name: str) -> None:
    """Check that a tokenizer whose unknown token is its mask has a token for every character.

    It would read other characters as positions to fill, and they would be overwritten.

    Args:
        tokenizer: a transformers tokenizer.
        text: the text.
        name: names the text in the message, such as "Prompt 3".

    Raises:
        ValueError: a character has no token; the message has up to five of them.
    """
    try:  # no protocol: from Python 3.12 on it would not see what `__getattr__` gives
        mask, blank, unknown = tokenizer.mask_token_id, tokenizer.mask_token, tokenizer.unk_token_id
    except AttributeError:
        return
    if mask is None or blank is None or unknown != mask:
        return
    if _ids(tokenizer, text, False).count(mask) == text.count(blank):
        return
    rest = dict.fromkeys(text.replace(blank, ""))
    lost = [letter for letter in rest if mask in _ids(tokenizer, letter, False)]
    shown = ", ".join(map(repr, lost[:5])) + (" and others" if len(lost) > 5 else "")
    raise ValueError(
        f"{name}: the tokenizer has no token for {shown or 'a part of the text'}, and would fill "
        f"its place. Leave it out; write {blank!r} where a token is to be filled in."
    )


def check_template(template: object) -> None:
    """Check the argument `chat_template_kwargs` of `generate`.

    Raises:
        TypeError: it is no mapping from names to values.
        ValueError: it names an argument that is not passed on.
    """
    check_mapping("chat_template_kwargs", template, '{"enable_thinking": False}')
    ours = sorted(set(OUR_TEMPLATE_ARGUMENTS) & set(cast("Mapping[str, object]", template or {})))
    if ours:
        raise ValueError(
            f"chat_template_kwargs: {ours[0]!r} cannot be set; the rendered chat is encoded here."
        )


def check_names_read(tokenizer: Any, template: Mapping[str, Any]) -> None:
    """Check that a chat template reads every argument that it is given.

    A template that cannot be parsed here is left to the tokenizer.

    Raises:
        ValueError: it has no such name.
    """
    given: object = template.get("chat_template") or tokenizer.chat_template
    taken = inspect.signature(tokenizer.apply_chat_template).parameters
    rest = [name for name in template if name not in taken]
    if not rest:
        return
    names: set[str] = set()
    texts = cast("Mapping[str, object]", given).values() if isinstance(given, Mapping) else [given]
    for text in texts:
        found = _names_read(str(text))
        if found is None:
            return
        names |= found
    for name in rest:
        if name not in names:
            mine = sorted(names - _OURS)
            hint = suggestion(name, mine) or f"It reads {', '.join(mine) or 'no arguments'}."
            raise ValueError(f"chat_template_kwargs: the chat template reads no {name!r}. {hint}")


@cache
def _names_read(template: str) -> frozenset[str] | None:
    """Return the names that a template reads from outside, None where it cannot be parsed."""
    from jinja2 import Environment, TemplateError
    from jinja2.meta import find_undeclared_variables

    environment = Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"])
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)  # marks of transformers
    try:
        return frozenset(find_undeclared_variables(environment.parse(plain)))
    except TemplateError:
        return None


def _ids(tokenizer: Any, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def _place(part: list[int], whole: list[int]) -> int | None:
    """Return the first place of `part` inside `whole`, or None."""
    last = len(whole) - len(part)
    return next((i for i in range(last + 1) if whole[i : i + len(part)] == part), None)


def _check_messages(messages: Sequence[Mapping[str, Any]], index: int) -> None:
    """Check that every message has a role, and a content that can be encoded.

    Content may be missing where something else stands for it, such as tool_calls.
    """
    for number, message in enumerate(messages):
        name = f"Prompt {index}, message {number}"
        role: object = message.get("role")
        if not isinstance(role, str):
            raise ValueError(f"{name}: role={role!r}: must be a text, such as 'user'.")
        content: object = message.get("content")
        if isinstance(content, str):
            check_encodable(content, name)
        elif not isinstance(content, list | tuple) and (
            content is not None or set(message) <= {"role", "content"}
        ):
            raise ValueError(
                f"{name}: content={content!r}: must be a text, or a list of parts as the template "
                "takes them."
            )


def _answer(
    messages: Sequence[Mapping[str, Any]], index: int
) -> tuple[Sequence[Mapping[str, Any]], dict[str, bool]]:
    """Return the messages to render, and how the template ends them: a new or a started answer."""
    last = messages[-1]
    if last["role"] != "assistant":
        return messages, {"add_generation_prompt": True}
    content: object = last.get("content")
    if content is None:
        raise ValueError(
            f"Prompt {index} ends with a message of the assistant without content: give the "
            "started answer as its content, or add the message that follows."
        )
    if content == "":  # nothing to find in the rendered chat, and the same as a new answer
        return messages[:-1], {"add_generation_prompt": True}
    return messages, {"continue_final_message": True}
