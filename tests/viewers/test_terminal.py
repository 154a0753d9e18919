"""What the live canvas draws, frame by frame, without a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor

from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.viewers.terminal import LiveCanvas, fold_lines, leading_padding
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MASK = 1


def ids(text: str) -> list[int]:
    return TOKENIZER(text)["input_ids"]


def event(before: list[int], after: list[int], known: list[bool], p: float) -> StepEvent:
    tokens, unknown = torch.tensor([after]), ~torch.tensor([known])
    written = (tokens != torch.tensor([before])) & ~unknown
    one = torch.ones(1, dtype=torch.int64)
    return StepEvent(
        iteration=0,
        rows=one - 1,
        before=torch.tensor([before]),
        tokens=tokens,
        unknown=unknown,
        written=written,
        block=one,
        step=one,
        nfe=one,
        forwarded=one > 0,
        logprob=torch.zeros(1, len(after)),
        log_confidence=torch.full((1, len(after)), p).log(),
        entropy=None,
        final=one < 0,
    )


def canvas() -> LiveCanvas:
    console = Console(file=io.StringIO(), width=20, height=6, force_terminal=False)
    return LiveCanvas(TOKENIZER, console)


def spans(view: LiveCanvas) -> list[tuple[str, str]]:
    text = view.canvas(view.rows[0])
    return [(text.plain[s.start : s.end], str(s.style)) for s in text.spans]


def test_prompt_unknown_confidence_and_fresh() -> None:
    view = canvas()
    start = [*ids("ab"), MASK, MASK, MASK]
    first = [*ids("abc"), MASK, MASK]
    view.drawn = float("inf")  # no frame yet, so that what is fresh stays so
    view(event(start, first, [True, True, True, False, False], 0.2))
    assert spans(view) == [("ab", "dim"), ("c", "magenta reverse"), ("··", "dim")]
    view.frame(1)
    assert spans(view)[1] == ("c", "magenta")
    second = [*ids("abcd"), MASK]
    view(event(first, second, [True, True, True, True, False], 0.7))
    assert spans(view) == [
        ("ab", "dim"),
        ("c", "magenta"),
        ("d", "cyan reverse"),
        ("·", "dim"),
    ]


def test_a_remasked_token_is_a_dot_again() -> None:
    view = canvas()
    view.drawn = float("inf")
    start, first = [MASK, MASK], [*ids("a"), MASK]
    view(event(start, first, [True, False], 0.95))
    view(event(first, [MASK, *ids("b")], [False, True], 0.95))
    assert view.canvas(view.rows[0]).plain == "·b"


def test_noise_without_a_mask_is_shown_as_it_is() -> None:
    """Every token of the block in italics until the last step, the ones that changed reversed."""
    view = LiveCanvas(TOKENIZER, canvas().console, masked=False)
    view.drawn = float("inf")
    noise, later, done = ids("axyz"), ids("axbz"), ids("axbc")
    step = event(noise, later, [True, False, False, False], 0.5)
    view(replace(step, written=torch.tensor([[False, False, True, False]])))
    assert spans(view) == [("a", "dim"), ("x", "italic"), ("b", "italic reverse"), ("z", "italic")]
    assert "3 noisy tokens" in view.status(0, view.rows[0], 1).plain
    view.frame(1)
    view(event(later, done, [True, True, True, True], 0.95))
    assert "italic" not in "".join(style for _, style in spans(view))
    assert "3/3 tokens" in view.status(0, view.rows[0], 2).plain


def test_hostile_and_special_tokens() -> None:
    view = canvas()
    assert "\x1b" not in view.piece(*ids("\x1b"))
    assert view.piece(*ids("\u202e")) == "\\u202e"
    assert view.piece(0) == "<|endoftext|>"


def test_frame_follows_the_first_unknown_position() -> None:
    view = canvas()
    text = "abcdefghijklmnopqrst" * 6
    before = [MASK] * len(text)
    after = [*ids(text[:100]), *([MASK] * 20)]
    view(event(before, after, [True] * 100 + [False] * 20, 0.95))
    lines = view.frame(1).renderables
    assert len(lines) == 4
    assert any("·" in line.plain for line in lines if isinstance(line, Text))


def test_fold_lines_never_moves_what_follows() -> None:
    def folded(text: str) -> list[str]:
        return [line.plain for line in fold_lines(Text(text), 10)]

    assert folded("") == [""]
    assert folded("a" * 10) == ["a" * 10]
    assert folded("aaaa aaaa aaaa") == ["aaaa aaaa ", "aaaa"]
    assert folded("漢字漢字漢字") == ["漢字漢字漢", "字"]
    assert folded("a\n\nb") == ["a", "", "b"]


def test_leading_padding() -> None:
    fixed: Tensor = torch.tensor([True, True, True, False])
    assert leading_padding([0, 0, 5, 6], fixed.tolist()) == 2
    assert leading_padding([0, 4, 5, 6], fixed.tolist()) == 0
