"""Constraints in the loop: padding, blocks, fixed tokens, ends, and ten thousand draws."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import sample, samplers, wrap
from dlm_sampling.constraints import Constraint, TokenAutomaton
from dlm_sampling.types import TokenLaw

VOCAB, MASK, END = 6, 5, 4
TABLE = torch.randn(9, VOCAB, VOCAB, generator=torch.Generator().manual_seed(3)).double()


def logits(ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Logits of a position depend on its place among the real tokens and on the token before."""
    keep = torch.ones_like(ids) if attention_mask is None else attention_mask.long()
    place = (keep.cumsum(1) - 1).clamp_min(0)
    before = torch.roll(ids, 1, 1).masked_fill(place == 0, 0)
    return TABLE[place, before]


DENOISER: Any = wrap(logits, vocab_size=VOCAB, mask_token_id=MASK, honours_padding=True)
DENOISER.padding_proven = True


def rule(**options: Any) -> TokenAutomaton:
    """Texts with 1 in them, without 0 0 and 2 3 1, that may end before the canvas does."""
    made = Constraint(banned=[[0, 0], [2, 3, 1]], required=[[1]])
    return made.compile(None, VOCAB, never=[MASK], ends=[END], **options)


def canvas(rows: list[tuple[list[int], int]], width: int) -> tuple[Tensor, Tensor, Tensor]:
    tokens = torch.full((len(rows), width), 0)
    editable, attention = torch.zeros(2, len(rows), width).bool()
    for b, (fixed, new) in enumerate(rows):
        tokens[b, width - new - len(fixed) : width - new] = torch.tensor(fixed)
        editable[b, width - new :] = True
        attention[b, width - new - len(fixed) :] = True
    return tokens, editable, attention


ROWS = [([2, 3], 5), ([0], 5), ([], 6), ([1, 2, 3], 4)]


def run(rows: list[tuple[list[int], int]], seeds: list[int], width: int = 7, **options: Any) -> Any:
    tokens, editable, attention = canvas(rows, width)
    options = {"steps": 4, "law": TokenLaw(), "constraint": rule(), **options}
    name = options.pop("sampler", "llada-random")
    return sample(
        DENOISER, samplers.create(name), tokens, editable, attention_mask=attention, seeds=seeds,
        **options,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("llada-random", {"steps": 2, "rows": 2500}),
        ("llada", {"steps": 4, "block_length": 3, "stop_token_ids": [END], "rows": 100}),
        ("remdm-cap", {"steps": 6, "rows": 100}),
    ],
)
def test_ten_thousand_texts_and_no_violation(sampler: str, options: dict[str, Any]) -> None:
    """Fixed tokens of the row are part of the text; rows differ in length."""
    times = options.pop("rows")
    out = run(ROWS * times, list(range(4 * times)), sampler=sampler, **options)
    accepts, kept = rule().accepts, canvas(ROWS, 7)[2].tolist()
    texts = [
        tuple(token for token, real in zip(row, kept[i % 4], strict=True) if real)
        for i, row in enumerate(out.tokens.tolist())
    ]
    assert sum(not accepts(text) for text in set(texts)) == 0
    assert len(set(texts)) > 100


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"block_length": 2}, {"law": TokenLaw(temperature=0.0)}])
def test_a_row_does_not_depend_on_its_batch(options: dict[str, Any]) -> None:
    together = run(ROWS, [1, 2, 3, 4], width=9, **options)
    for b, row in enumerate(ROWS):
        alone = run([row], [b + 1], width=len(row[0]) + row[1], **options)
        size = alone.tokens.shape[1]
        assert together.tokens[b, -size:].tolist() == alone.tokens[0].tolist()
        torch.testing.assert_close(together.logprob[b, -size:], alone.logprob[0])


PIECES = ["{", "}", '"a"', '"b"', ":", ", ", "1", "2", "true", "false", "-", "", ""]


class Pieces:
    """A tokenizer of the pieces of small JSON; 11 ends a text, 12 is the mask."""

    all_special_ids = (11, 12)

    def __len__(self) -> int:
        return 13

    def decode(self, ids: list[int]) -> str:
        return "".join(PIECES[i] for i in ids)


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}},
    "required": ["a"],
}


def is_json(text: str) -> bool:
    """Judge by Python's own reader."""
    value = json.loads(text)
    types = {"a": int, "b": bool}
    return "a" in value and all(type(part) is types[key] for key, part in value.items())


def is_worded(text: str) -> bool:
    return "12" not in text and "21" in text and "-:" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "holds"),
    [
        (Constraint(json_schema=SCHEMA), is_json),
        (Constraint(r"(12|2:)*\{?-1+"), re.compile(r"(12|2:)*\{?-1+").fullmatch),
        (Constraint(banned=["12"], required=["21", (10, 4)]), is_worded),
    ],
)
def test_texts_of_every_kind_of_constraint_by_another_judge(
    asked: Constraint, holds: Callable[[str], object]
) -> None:
    table = torch.randn(8, 13, 13, generator=torch.Generator().manual_seed(4))

    def network(ids: Tensor) -> Tensor:
        return table[torch.arange(8), torch.roll(ids, 1, 1)]

    denoiser = wrap(network, vocab_size=13, mask_token_id=12)
    options: Any = {"constraint": asked.compile(Pieces(), 13, never=[12], ends=[11])}
    seen: set[str] = set()
    for name, steps, rows in (("ancestral", 1, 500), ("llada", 3, 150), ("remdm-cap", 3, 150)):
        tokens, editable = torch.full((rows, 8), 12), torch.ones(rows, 8, dtype=torch.bool)
        options |= {"seeds": list(range(rows)), "steps": steps, "law": TokenLaw()}
        found = sample(denoiser, samplers.create(name), tokens, editable, **options).tokens
        ended = (row[: row.index(11)] if 11 in row else row for row in found.tolist())
        seen |= {Pieces().decode(row) for row in ended}
    assert [text for text in seen if not holds(text)] == []
    assert len(seen) > 10


def test_a_row_that_no_text_fits_is_named() -> None:
    with pytest.raises(ValueError, match=r"row 1 has 2 positions to write, and no text .*required"):
        run([([0], 5), ([0, 0], 2)], [1, 2])


def test_a_recorded_step_is_refused() -> None:
    with pytest.raises(ValueError, match="cuda_graph=True: a constrained step cannot be recorded"):
        run(ROWS, [1, 2, 3, 4], cuda_graph=True)


def test_noise_without_masks_is_refused() -> None:
    other = wrap(logits, vocab_size=VOCAB, mask_token_id=None)
    with pytest.raises(ValueError, match=r"^constraint: holds where masks are written"):
        sample(
            other, samplers.create("ancestral"), torch.zeros(1, 4, dtype=torch.int64),
            torch.ones(1, 4, dtype=torch.bool), seeds=[0], constraint=rule(),
        )  # fmt: skip


def test_what_stands_behind_the_end_can_be_padding_only() -> None:
    out = run(ROWS * 50, list(range(200)), constraint=rule(behind=[END]))
    for row in out.tokens.tolist():
        if END in row:
            assert set(row[row.index(END) :]) == {END}
    assert bool((out.tokens == END).any())
