"""Words, expressions and schemas against Python's own tools; classes of tokens; messages."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from dlm_sampling.constraints import Constraint, TokenAutomaton, as_constraint, dfa, expressions
from dlm_sampling.constraints.dfa import product, word_present, words_absent
from dlm_sampling.constraints.expressions import expression_dfa
from dlm_sampling.constraints.token_bytes import token_bytes

WORDS = [b"", b"a", b"b", b"ab", b"ba", b"\xc3", b"\xa9", b"aa"]


class Letters:
    """A tokenizer whose ids 1 to 7 write WORDS; 8 is special, 9 unknown."""

    all_special_ids = (8,)

    def __len__(self) -> int:
        return 9

    def decode(self, ids: list[int]) -> str:
        return b"".join(WORDS[i] for i in ids if i < 8).decode(errors="replace")


def texts(alphabet: str, longest: int) -> list[str]:
    every = (itertools.product(alphabet, repeat=n) for n in range(longest + 1))
    return ["".join(text) for part in every for text in part]


@pytest.mark.parametrize(
    "pattern", ["a|ab", "(a|ab)c?", "é+", "(?:éa)*b", "[^a]{1,2}", "(a|b)*?", "", "(ab?|abc)a*"]
)
def test_an_expression_accepts_what_re_matches(pattern: str) -> None:
    """Among them alternatives with a common beginning, and expressions that match nothing."""
    automaton = expression_dfa(pattern)
    for text in texts("abcé", 4):
        assert automaton.accepts(text.encode()) == bool(re.fullmatch(pattern, text)), text


def test_words_are_absent_present_and_both() -> None:
    absent, present = words_absent([b"ab", b"bba"], 256), word_present(b"aab", 256)
    both = product(words_absent([b"bb"], 256), present)
    for text in texts("ab", 7):
        word = text.encode()
        assert absent.accepts(word) == ("ab" not in text and "bba" not in text)
        assert present.accepts(word) == ("aab" in text)
        assert both.accepts(word) == ("aab" in text and "bb" not in text)


def compiled(constraint: Constraint, **options: Any) -> TokenAutomaton:
    return constraint.compile(Letters(), 10, **options)


def test_tokens_walk_by_their_bytes() -> None:
    """Ids that write part of a character, nothing, or no text are not in the text."""
    automaton = compiled(Constraint(regex="(ab|ba)*a?"))
    for ids in itertools.product(range(10), repeat=3):
        text = "".join(WORDS[i].decode() for i in ids if i in (1, 2, 3, 4, 7))
        plain = all(i in (1, 2, 3, 4, 7) for i in ids)
        assert automaton.accepts(ids) == (plain and bool(re.fullmatch("(ab|ba)*a?", text)))


def test_an_end_closes_the_text() -> None:
    options: dict[str, Any] = {"ends": [8], "never": [9]}
    free = compiled(Constraint(regex="ab"), **options)
    assert free.accepts([3, 8, 1, 8]) and not free.accepts([3, 8, 9]) and free.accepts([1, 2])
    assert not free.accepts([1, 8, 2]) and not free.accepts([3, 1])
    kept = compiled(Constraint(regex="ab"), **options, behind=[8, 0])
    assert kept.accepts([3, 8, 0, 8]) and not kept.accepts([3, 8, 1])


def test_sequences_of_ids_are_banned_and_required() -> None:
    rule = Constraint(banned=[[1, 2], "bb"], required=[(4,), (2, 1)])
    automaton = rule.compile(Letters(), 10, never=[9])
    for ids in itertools.product((1, 2, 4), repeat=4):
        text = "".join(WORDS[i].decode() for i in ids)
        pairs = list(itertools.pairwise(ids))
        wanted = (1, 2) not in pairs and (2, 1) in pairs and 4 in ids and "bb" not in text
        assert automaton.accepts(ids) == wanted, ids


def test_ids_alone_need_no_tokenizer() -> None:
    automaton = Constraint(banned=[[1, 1]]).compile(None, 3)
    assert automaton.accepts([1, 0, 1]) and not automaton.accepts([1, 1, 0])


def test_byte_level_tokens_give_back_every_text() -> None:
    from dlm_sampling import AutoDenoiser

    tokenizer = AutoDenoiser.from_pretrained("tiny-books").tokenizer
    table = token_bytes(tokenizer, 4096)
    text = "Once upon a time, é—there “was”\n 12"
    pieces = [table[token] for token in tokenizer(text)["input_ids"]]
    assert b"".join(piece or b"?" for piece in pieces).decode() == text
    assert table[4093] is table[4094] is None  # mask and end-of-text


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 3},
        "kind": {"enum": ["a", "ab"]},
        "tags": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
    },
    "required": ["name", "kind", "tags"],
}


def test_a_schema_accepts_its_own_json_only() -> None:
    automaton = Constraint(json_schema=SCHEMA).bytes_dfa()
    assert automaton is not None
    good = {"name": "é", "kind": "ab", "tags": [1, 20]}
    for value, valid in [
        (good, True),
        (good | {"name": "long"}, False),
        (good | {"kind": "b"}, False),
        (good | {"tags": [1, 2, 3]}, False),
        (good | {"tags": []}, True),
        ({"name": "a"}, False),
    ]:
        assert automaton.accepts(json.dumps(value, ensure_ascii=False).encode()) == valid, value


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constraint(), "asks for nothing"),
        (lambda: Constraint(banned=["a", ""]), "an empty word"),
        (lambda: Constraint(json_schema={"minimum": 3}).bytes_dfa(), "'minimum' cannot be kept"),
        (lambda: Constraint(json_schema="{").bytes_dfa(), "is no JSON"),
        (lambda: Constraint(regex="(").bytes_dfa(), "cannot be compiled"),
        (lambda: Constraint(grammar="start: x").bytes_dfa(), "Rule 'x' used but not defined"),
        (lambda: Constraint(grammar="start:").bytes_dfa(), "no terminal, so every text is empty"),
        (
            lambda: Constraint(grammar='start: "a" start').bytes_dfa(),
            "no text with grammar_depth=4",
        ),
        (lambda: Constraint(grammar="start: /(?<!a)b/").bytes_dfa(), "It is the terminal __ANON_0"),
        (lambda: Constraint(grammar='start: "a"', grammar_depth=0), "grammar_depth=0: must be at"),
        (lambda: compiled(Constraint(regex="c")), "no sequence of this model's tokens"),
        (lambda: compiled(Constraint(regex="a", required=["b"])), "may contradict"),
        (lambda: Constraint(regex="a").compile(None, 3), "no tokenizer"),
        (lambda: Constraint(banned=[[3]]).compile(None, 3), "3 is no token id"),
    ],
)
def test_what_cannot_be_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build()


def test_an_automaton_that_grows_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dfa, "MOST_STATES", 20)
    with pytest.raises(ValueError, match="more than 20 states; bound repetitions"):
        Constraint(required=["a" * 9, "ab" * 5]).bytes_dfa()


@pytest.mark.parametrize("value", [3, ["a"], {"regex": "a"}])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a regular expression as a string, or a Constr"):
        as_constraint(value)
    with pytest.raises(TypeError, match="must be a list of words"):
        Constraint(banned="war")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "dlm-sampling\[constraint\]"'):
        Constraint(regex="a").bytes_dfa()
    assert Constraint(banned=["a"]).bytes_dfa() is not None
