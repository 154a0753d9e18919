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
        (lambda: Constraint(grammar="start:"), "no terminal, so every text is empty"),
        (lambda: Constraint(grammar='start: "a" start'), "no text with grammar_depth=4"),
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


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a(b", "'(' at position 1 is not closed; end it with ), or write \\( for the"),
        (r"\p{L}(?:b", "'(?:' at position 5 is not closed"),
        ("[ab", "'[' at position 0 is not closed"),
        ("[a[b]", "'[' at position 2 stands in a class; write \\["),
        (r"[\b]", r"'\b' at position 1 is a word boundary"),
        ("a)b", "')' at position 1 closes nothing"),
        ("a)|(b", "')' at position 1 closes nothing"),
        (r"[)]\)a)|(b", "')' at position 6 closes nothing"),
        ('{"a": 1}', "'{' at position 0 begins no repetition, such as {3} or {0,3}; write \\{"),
        ("(?P<n>a){3,2}", "'{' at position 8 begins {3,2}, whose second number is the smaller"),
        ("a|*b", "'*' at position 2 repeats nothing"),
        ("^a$", "'^' at position 0 is not needed and cannot be kept"),
        ("x(?<!a)b", "'(?<!' at position 1 looks around, which cannot be kept"),
        (r"(a)\1", r"'\1' at position 3 refers back"),
        (r"\q", r"'\q' at position 0 is no escape that is known"),
        ("a\\", "'\\' at position 1 escapes nothing; write \\\\"),
        (r"\x4", r"needs the number of a character, such as \x41"),
        ("[z-a]", "bad character range z-a at position 1"),
        ("a{1,99999999999}", "the repetition number is too large"),
        ("a" * 90 + ")" + "b" * 90, f"regex='...{'a' * 30}){'b' * 29}...': ')' at position 90"),
    ],
)
def test_what_is_wrong_with_an_expression_is_told_with_its_place(pattern: str, said: str) -> None:
    """In the expression itself, the pattern of a schema and a terminal of a grammar."""
    with pytest.raises(ValueError, match=re.escape(said)) as found:
        Constraint(regex=pattern)
    assert str(found.value).startswith("constraint: regex='")
    assert "Allowed is the syntax of Python" in str(found.value)
    assert "NFA" not in str(found.value)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ('{\n"type"', "json_schema, line 2, column 7: is no JSON (Expecting ':' delimiter)."),
        ("my.json", "is no JSON (Expecting value). It is the schema itself"),
        (["a"], "json_schema is a list: must be a mapping"),
        ({"minimum": 3}, "json_schema: 'minimum' cannot be kept"),
        (
            {"properties": {"a": {"type": "array", "items": {"oneOf": []}}}},
            "json_schema.properties.a.items: 'oneOf' cannot be kept by a regular expression; "
            "allowed are $defs, $ref, anyOf,",
        ),
        ({"oneOf": []}, "required, type. Instead write anyOf."),
        ({"anyOf": [{"typ": "null"}]}, "json_schema.anyOf[0]: 'typ' cannot be kept"),
        ({"typ": "null"}, "required, type. Did you mean 'type'?"),
        ({"items": {"type": "str"}}, "json_schema.items.type: 'str' must be one of array, boolean"),
        ({"properties": {"a": 3}}, "json_schema.properties.a: 3 must be a schema, such as"),
        ({"properties": ["a"]}, "json_schema.properties: ['a'] must be a mapping of names"),
        ({"enum": []}, "json_schema.enum: [] must be a list of values, at least one"),
        ({"$ref": "#/$defs/a", "$defs": {}}, "'#/$defs/a' leads nowhere: there is no 'a'"),
        ({"type": "string", "pattern": "^(a$"}, "json_schema.pattern='(a': '(' at position 0 is"),
        ({"type": "string", "minLength": "3"}, "json_schema.minLength: '3' must be a whole number"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength=5 is more than maxLength"),
        ({"type": "object", "required": ["b"]}, "'b' is not among the properties"),
        ({"title": "x"}, "says of no value what it is; give one of type,"),
        ({"$ref": "#"}, "json_schema: cannot be read (Ref"),
    ],
)
def test_what_is_wrong_with_a_schema_is_told_with_its_path(schema: object, said: str) -> None:
    """Among it what the compiler would pass over: lengths that are no numbers, names of nothing."""
    with pytest.raises(ValueError, match=re.escape(said)):
        Constraint(json_schema=schema)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'start: x\nx: "a" ]',
            "grammar, line 2, column 8: ']' cannot stand here, in 'x: \"a\" ]'.",
        ),
        ("start: x y\nx: (", "grammar, line 2, column 5: Expecting a value, in 'x: ('"),
        ('start: "a', "grammar, line 1, column 8: '\"' begins a text that does not end"),
        ('root ::= "a"', "grammar, line 1, column 7: Unexpected colon"),
        ("start: x", "grammar: Rule 'x' used but not defined (in rule start)"),
        ('begin: "a"', "grammar: it has no rule named start, which derives the whole text"),
        ('start: "a"\nstart: "b"', "grammar: Rule 'start' defined more than once"),
        ("start: /(a/", "grammar: the expression /(a/: '(' at position 0 is not closed"),
        ("start: /a*/", "grammar: the expression 'a*' matches the empty text"),
        ("start: X\nX: /(?<!a)b/", "grammar, terminal X='(?<!a)b': '(?<!' at position 0 looks"),
        ("start: /(?<!a)b/", "grammar, expression='(?<!a)b': '(?<!' at position 0 looks around"),
        ("%import no.X\nstart: X", "grammar: it imports no.lark, which cannot be read"),
    ],
)
def test_what_is_wrong_with_a_grammar_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as found:
        Constraint(grammar=text)
    assert str(found.value).startswith("constraint: grammar")
    for inner in ("Token", "Terminal(", "<string>", "Earley"):
        assert inner not in str(found.value)


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
        Constraint(regex="not read before")
    assert Constraint(banned=["a"]).bytes_dfa() is not None
