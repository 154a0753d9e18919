"""Finished canvases are cut at the end-of-text where the row ends there, and decoded."""

from __future__ import annotations

from typing import Any

import torch

from dlm_sampling import wrap
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.text.completion import finish
from dlm_sampling.text.endings import Ends
from dlm_sampling.text.rows import PromptRow, build_rows

V, MASK, PAD, END = 12, 11, 9, 7
DENOISER = wrap(lambda ids: torch.zeros(*ids.shape, V), vocab_size=V, mask_token_id=MASK,
                pad_token_id=PAD, eos_token_id=END)  # fmt: skip
ROWS = [PromptRow([1, END], [False, False]), PromptRow([], []), PromptRow([END, 3], [False, True])]
DONE = torch.tensor([[1, END, 4, END, 5], [PAD, PAD, END, 6, 6], [PAD, END, 6, END, 8]])


class Digits:
    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(str, ids))


def finished(eos: Any, tokenizer: Any = None) -> Any:
    ends = Ends(frozenset({END}), tokenizer)
    rows = build_rows(ROWS, [3, 3, 2], DENOISER, [21, 22, 23], eos, ends)
    logprob = torch.full(DONE.shape, -1.0).masked_fill(~rows.canvases.editable, 0.0)
    count = torch.tensor([1, 2, 3])
    out = SampleOutput(
        DONE,
        logprob,
        count,
        count.double() / 2,
        torch.zeros(3),
        count,
        (21, 22, 23),
        torch.zeros(3).bool(),
        None,
    )
    return finish(out, rows, tokenizer, PAD)


def test_a_text_ends_before_the_first_end_that_was_written() -> None:
    """The end-of-text in the prompt is the prompt's; infilling gives the whole row."""
    out = finished("cut", Digits())
    assert out.token_ids == [[4], [], [END, 6]]
    assert out.texts == ["4", "", "76"]
    assert out.finish_reasons == ["eos"] * 3
    assert out.sequences.tolist() == [
        [1, END, 4, END, PAD], [PAD, PAD, END, PAD, PAD], [PAD, END, 6, END, PAD],
    ]  # fmt: skip
    # The end-of-text has its own, and what was written behind it was seen while the rest was.
    assert out.logprobs.tolist() == [[0, 0, -1, -1, -1]] * 3
    assert out.prompt_lengths == [2, 0, 2]
    assert out.seeds == [21, 22, 23]
    assert out.nfe.tolist() == [1, 2, 3]


def test_kept_ends_change_nothing() -> None:
    out = finished("keep")
    assert torch.equal(out.sequences, DONE)
    assert out.token_ids == [[4, END, 5], [END, 6, 6], [END, 6, END, 8]]
    assert out.texts is None
    assert out.finish_reasons == ["length"] * 3


def test_the_result_shares_no_memory_with_the_canvas() -> None:
    finished("cut")
    assert DONE[0].tolist() == [1, END, 4, END, 5]
