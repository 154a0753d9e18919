"""Unrolled grammars against lark's own parser, and the law conditioned on an ambiguous one."""

from __future__ import annotations

import itertools

import lark
import pytest
import torch

from dlm_sampling import sample, samplers
from dlm_sampling.constraints import Constraint, dfa, grammar
from dlm_sampling.constraints.grammar import grammar_dfa
from dlm_sampling.testing import EnumerableDenoiser, chi_square, count_states
from dlm_sampling.types import TokenLaw

SUMS = r"""
start: sum
?sum: product | sum "+" product
product: atom ("*" atom)*
atom: "1" | "(" sum ")" | NAME? "!"
NAME: /[b]/i
%ignore " "
"""
GRAMMARS = {
    "nested": ('start: ("(" start ")" | "[" start "]")*', "()[]", 4),
    "sums": (SUMS, "1+(B!) ", 3),
    "ambiguous": ('start: start start | "(" start ")" | "a"', "(a)", 5),
    "lists": (
        'start: ("a" "," start | "a") | other\nother: other ";" "a" | | other "b"',
        ";,ab",
        4,
    ),
    "hidden": ('start: x start "a" | "b"\nx: | "c"', "abc", 4),
    "indirect": ('start: y "x" | "a"\ny: start "z" | "b" start', "axzb", 3),
    "mirrored": ('start: "a" start "a" | "b" start "b" | "a" | "b" |', "ab", 5),
}


def accepted(found: dfa.Dfa, alphabet: str, longest: int) -> set[str]:
    every = (itertools.product(alphabet, repeat=n) for n in range(longest + 1))
    texts = ("".join(text) for part in every for text in part)
    return {text for text in texts if found.accepts(text.encode())}


def parsed(text: str, alphabet: str, longest: int) -> set[str]:
    """The texts that lark accepts, of those up to a length."""
    judge = lark.Lark(text, parser="earley", lexer="dynamic_complete")
    found: set[str] = set()
    for n in range(longest + 1):
        for letters in itertools.product(alphabet, repeat=n):
            try:
                judge.parse("".join(letters))
            except lark.exceptions.UnexpectedInput:
                continue
            found.add("".join(letters))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAMMARS)
def test_a_grammar_accepts_what_lark_parses(name: str) -> None:
    """All of it at a depth that these lengths cannot reach, a part of it at less."""
    text, alphabet, longest = GRAMMARS[name]
    wanted = parsed(text, alphabet, longest)
    assert len(wanted) > 2
    assert accepted(grammar_dfa(text, longest), alphabet, longest) == wanted
    assert accepted(grammar_dfa(text, 1), alphabet, longest) <= wanted


def test_depth_counts_parts_inside_each_other() -> None:
    """Not the entries of a list, which stand beside each other."""
    lists = 'start: value\n?value: list | "1"\nlist: "[" [value ("," value)*] "]"'
    two, three = grammar_dfa(lists, 2), grammar_dfa(lists, 3)
    assert two.accepts(b"[1,[],[1,1,1,1,1,1]]") and not two.accepts(b"[[1],[1,[1]]]")
    assert three.accepts(b"[[1],[1,[1]]]") and not three.accepts(b"[[1],[1,[1]]")
    sums = grammar_dfa(SUMS, 2)
    assert sums.accepts(b"1 * (B!+(!)*1) + 1*1*1+1") and not sums.accepts(b"1 * (B!+(!)*1) + 1*")
    assert not sums.accepts(b"(((1)))")


def test_a_grammar_that_grows_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "MOST_STATES", 50)
    with pytest.raises(
        ValueError, match="grammar_depth=9 has more than 50 states; lower the depth"
    ):
        grammar_dfa(GRAMMARS["nested"][0], 9)


class Letters:
    """A tokenizer of single letters; 4 is the mask."""

    all_special_ids = (4,)

    def __len__(self) -> int:
        return 5

    def decode(self, ids: list[int]) -> str:
        return "".join("(a)b"[i] for i in ids)


@pytest.mark.slow
def test_a_step_has_the_law_of_the_product_given_an_ambiguous_grammar() -> None:
    text = 'start: start start | "(" start ")" | "a" | "b"'
    joint = torch.rand(4, 4, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    denoiser = EnumerableDenoiser(joint)
    probs = denoiser.probs(torch.full((1, 4), 4))[0, :, :4]
    states = torch.tensor(list(itertools.product(range(4), repeat=4)))
    wanted = parsed(text, "(a)b", 4)
    inside = torch.tensor([Letters().decode(row) in wanted for row in states.tolist()])
    law = probs[torch.arange(4), states].prod(1) * inside
    law /= law.sum()
    rows = 2000
    out = sample(
        denoiser, samplers.create("llada-random"), torch.full((rows, 4), 4),
        torch.ones(rows, 4, dtype=torch.bool), seeds=list(range(rows)), steps=1, law=TokenLaw(),
        constraint=Constraint(grammar=text).compile(Letters(), 5, never=[4]),
    )  # fmt: skip
    counts = count_states(out.tokens, 4)
    assert int(counts[~inside].sum()) == 0
    assert chi_square(counts[inside], law[inside]).p > 1e-3
    place = (out.tokens * torch.tensor([64, 16, 4, 1])).sum(1)
    torch.testing.assert_close(out.logprob.double().sum(1), law[place].log(), rtol=0, atol=1e-6)
