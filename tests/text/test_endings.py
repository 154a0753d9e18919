"""Texts end at an end-of-text or a stop string: in the text, the ids, the canvas and the stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import Rollout, generate, replay, samplers
from dlm_sampling.text.encoding import Encoder
from dlm_sampling.text.endings import Cut, Ends, RowEnd
from tests.text.tokenizers_of_all_kinds import KINDS, ids_of, script, tokenizer

LEFT_TO_RIGHT = samplers.create("llada", order="left_to_right")


class Letters:
    """One token per listed text; "<" and ">" surround a special token."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        texts = [self.tokens[i] for i in ids]
        return "".join(t for t in texts if not (skip_special_tokens and t[:1] == "<"))


def row_end(tokens: list[str], *strings: str, ids: Any = (), **facts: Any) -> RowEnd:
    rules = Ends(frozenset(ids), Letters(*tokens))
    return RowEnd(
        rules, **{"begin": 0, "prompt": (), "written": [True] * 9, **facts}, strings=strings
    )


def test_without_an_end_a_text_is_whole() -> None:
    end = row_end(["a", "b"])
    assert end.cut([0, 1, 0]) == Cut(3, 3, "length")
    assert end.text([0, 1, 0], end.cut([0, 1, 0])) == "aba"


def test_an_end_of_text_counts_where_the_run_wrote_it() -> None:
    end = row_end(["a", "<e>"], ids=[1], written=[False, False, True, True])
    assert end.cut([0, 1, 0, 1]) == Cut(3, 4, "eos")
    assert end.cut([0, 1, 0]) == Cut(3, 3, "length")


TOKENS = ["a", "b", "ab", "ba", "<e>", "\n", ".\n", "\n\nQ", "x"]


@pytest.mark.parametrize(
    ("ids", "stop", "cut", "text"),
    [
        ([0, 0, 1, 0], ["b"], Cut(2, 3, "stop"), "aa"),
        ([1, 0], ["b"], Cut(0, 1, "stop"), ""),
        ([0, 2, 0], ["aa"], Cut(0, 2, "stop"), ""),  # complete inside a longer token
        ([8, 3, 0], ["a"], Cut(1, 2, "stop", 1), "xb"),  # begins inside of a token
        ([8, 6, 5, 0], ["\n\n"], Cut(1, 3, "stop", 1), "x."),
        ([0, 7, 8], ["\n\n", "Q"], Cut(1, 2, "stop"), "a"),  # the first place of several
        ([8, 0, 1], ["b", "ab"], Cut(1, 3, "stop"), "x"),
        ([0, 1, 4], ["b"], Cut(1, 2, "stop"), "a"),  # before the end-of-text
        ([0, 4, 1], ["b"], Cut(1, 2, "eos"), "a"),  # behind it nothing counts
        ([0, 1, 0], ["c"], Cut(3, 3, "length"), "aba"),
    ],
)
def test_a_text_ends_before_its_first_stop_string(
    ids: list[int], stop: list[str], cut: Cut, text: str
) -> None:
    end = row_end(TOKENS, *stop, ids=[4])
    assert end.cut(ids) == cut
    assert end.text(ids, cut) == text


def test_special_tokens_may_be_stop_strings() -> None:
    end = row_end(TOKENS, "<e>")
    assert (cut := end.cut([8, 0, 4, 8])) == Cut(2, 3, "stop")
    assert end.text([8, 0, 4, 8], cut) == "xa"
    inside = row_end(TOKENS, "e")
    assert (cut := inside.cut([8, 4, 8])) == Cut(1, 2, "stop", 1)
    assert inside.text([8, 4, 8], cut) == "x"


def test_the_prompt_is_not_searched() -> None:
    end = row_end(TOKENS, "b", prompt=(1, 1), begin=2)
    assert end.cut([0, 0]) == Cut(2, 2, "length")
    assert end.complete(torch.tensor([1, 1, 0, 1, 0, 1]), 3) is False
    assert end.complete(torch.tensor([1, 1, 0, 1, 0, 1]), 4) is True


def sent(end: RowEnd, ids: list[int], final: bool = False) -> int:
    return end.sendable(torch.tensor(ids), len(ids), final)


def test_a_stream_keeps_back_what_may_begin_a_stop_string() -> None:
    end = row_end(TOKENS, "\n\nQ")
    assert [sent(end, [8, 5, 0][:n]) for n in (1, 2, 3)] == [1, 1, 3]
    assert sent(end, [8, 6]) == 1  # ".\n" may be half of the stop string
    assert sent(end, [8, 6], final=True) == 2
    assert sent(end, [8, 7, 0]) == 1
    assert sent(row_end(TOKENS), [8, 6]) == 2
    cut = row_end(TOKENS, "\n\n", ids=[4])
    assert sent(cut, [8, 4, 8]) == 1
    assert sent(cut, [8, 6, 5]) == 1


@pytest.mark.parametrize("text", ["far 東京", "Zoë"])
def test_a_stop_string_may_be_a_part_of_a_character_of_several_tokens(text: str) -> None:
    own = tokenizer("byte-level")
    ids = ids_of(own, text)
    end = RowEnd(Ends(frozenset(), own), 0, (), [True] * len(ids), (text[-1],))
    cut = end.cut(ids)
    assert (cut.reason, end.text(ids, cut)) == ("stop", text[:-1])
    for n in range(1, len(ids)):
        assert end.sendable(torch.tensor(ids), n, False) <= cut.kept


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("Once upon", " a time, far"),
        ("Once upon ", "a time"),
        ("wayfar", "er: stop!"),
        ("caf", "é"),
        ("far\n", "\naway"),
        ("", " far"),
        ([[]], "far away"),
        ("far away", ""),
    ],
)
def test_prompt_and_text_are_the_decoded_whole(kind: str, prompt: Any, completion: str) -> None:
    own = tokenizer(kind)
    before: list[int] = [] if prompt in ("", [[]]) else Encoder(own).text(prompt, 0).ids
    before = [token for token in before if token != own.eos_token_id]
    ids = [*ids_of(own, completion), own.eos_token_id]
    out = generate(
        script(kind, ids, prompt=len(before)), prompt, max_new_tokens=len(ids), eos="cut"
    )
    assert out.texts is not None
    assert out.token_ids == [ids[:-1]]
    whole = own.decode([*before, *ids], skip_special_tokens=True)
    assert own.decode(before, skip_special_tokens=True) + out.texts[0] == whole


def test_a_text_keeps_the_space_that_parts_it_from_its_prompt() -> None:
    own = tokenizer("metaspace")
    ids = own("once upon a time", add_special_tokens=False)["input_ids"]
    start = ids_of(own, "once upon")
    assert ids[: len(start)] == start
    out = generate(script("metaspace", [own.bos_token_id, *ids]), "once upon",
                   max_new_tokens=len(ids) - len(start))  # fmt: skip
    assert out.texts == [" a time"]
    own = tokenizer("wordpiece")
    pieces = own.convert_tokens_to_ids(["##e", "##r", "away"])
    start = [own.bos_token_id, *ids_of(own, "far")]
    out = generate(script("wordpiece", pieces, prompt=len(start)), "far", max_new_tokens=3)
    assert out.texts == ["er away"]


def test_a_chat_that_is_continued_has_a_whole_text_too() -> None:
    own = tokenizer("metaspace")
    chat = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "far"}]
    more = ids_of(own, "far away")[len(ids_of(own, "far")) :]
    rendered = "<s>[user]why?</s>[assistant]far"
    denoiser = script("metaspace", more, prompt=len(ids_of(own, rendered)))
    assert generate(denoiser, chat, max_new_tokens=len(more)).texts == [" away"]


@pytest.mark.parametrize("kind", KINDS)
def test_stop_strings_cut_text_ids_and_canvas(kind: str) -> None:
    own = tokenizer(kind)
    texts = ["far away, stop! Once", "a time", "why? far"]
    denoiser = script(kind, *texts)
    out = generate(denoiser, [[]] * 3, max_new_tokens=24, stop=[["stop"], [], ["?"]], eos="cut",
                   steps=1)  # fmt: skip
    assert out.texts is not None
    assert [text.strip() for text in out.texts] == ["far away,", "a time", "why"]
    assert out.finish_reasons == ["stop", "length", "stop"]
    for b in (0, 2):
        ids = out.token_ids[b]
        assert own.decode(ids, skip_special_tokens=True).strip() == out.texts[b].strip()
        assert out.sequences[b, : len(ids)].tolist() == ids
        kept = out.sequences[b] != own.pad_token_id
        told = own.decode(out.sequences[b][kept].tolist())
        assert told.endswith(("stop", "?"))  # with the tokens that complete the stop string
        assert kept.tolist() == sorted(kept.tolist(), reverse=True)
        assert bool((out.logprobs[b][~kept] == 0).all())
    everywhere = generate(denoiser, [[]] * 3, max_new_tokens=24, stop=["stop", "im"], steps=1)
    assert everywhere.finish_reasons == ["stop", "stop", "length"]


def test_a_row_ends_with_the_block_that_completes_a_stop_string() -> None:
    own = tokenizer("byte-level")
    ids = ids_of(own, "far away: stop! Question: why?")
    place = next(n for n in range(len(ids)) if "stop" in own.decode(ids[:n]))
    options: dict[str, Any] = {"max_new_tokens": 16, "block_length": 4, "eos": "keep",
                               "return_trajectory": True}  # fmt: skip
    prompts = [[], [], []]
    whole = generate(script("byte-level", *[ids] * 3), prompts, **options)
    out = generate(
        script("byte-level", *[ids] * 3), prompts, stop=[["stop"], None, ["xyz"]], **options
    )
    ended = 4 * -(-place // 4)
    assert ended < 16
    assert out.nfe.tolist() == [ended, 16, 16]
    assert out.finish_reasons == ["stop", "length", "length"]
    assert torch.equal(out.sequences[1:], whole.sequences[1:])
    assert out.sequences[0, :place].tolist() == ids[:place]
    assert bool((out.sequences[0, place:] == own.pad_token_id).all())
    alone = generate(script("byte-level", ids), None, stop="stop", batch_size=1, **options)
    assert alone.token_ids == out.token_ids[:1]
    parts = generate(
        script("byte-level", *[ids] * 3), prompts, stop="stop", batch_size=2, **options
    )
    assert parts.nfe.tolist() == [ended] * 3


def test_what_a_stop_string_cut_off_is_scored_like_the_rest() -> None:
    """Tokens behind the cut were drawn: `replay` knows their steps, the output pads them."""
    ids = ids_of(tokenizer("byte-level"), "far away: stop! Question: why?")
    denoiser = script("byte-level", ids, sure=12.0)
    out = generate(denoiser, None, max_new_tokens=16, block_length=4, stop="stop", temperature=1.0,
                   sampler=LEFT_TO_RIGHT, return_trajectory=True, seed=0)  # fmt: skip
    scores = replay(denoiser, Rollout.from_output(out)).logprob
    kept = out.logprobs != 0
    assert 4 <= int(kept.sum()) < 12
    assert out.finish_reasons == ["stop"]
    torch.testing.assert_close(scores[kept], out.logprobs[kept])


def test_samples_of_a_prompt_share_its_stop_strings() -> None:
    denoiser = script("byte-level", *["far stop away"] * 4)
    out = generate(denoiser, [[], []], num_return_sequences=2, max_new_tokens=10,
                   temperature=1.0, stop=[["stop"], []])  # fmt: skip
    assert out.finish_reasons == ["stop", "stop", "length", "length"]


class Recorder:
    """A streamer that remembers what it was told."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.current: list[int] = []

    def put(self, value: Tensor) -> None:
        self.current += value.reshape(-1).tolist()

    def end(self) -> None:
        self.rows.append(self.current)
        self.current = []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [None, 3])
def test_a_streamer_gets_the_ids_of_the_text(kind: str, block: int | None) -> None:
    recorder = Recorder()
    out = generate(
        script(kind, "far away, stop! Once", "a st time", "why far"), [[]] * 3, max_new_tokens=20,
        sampler=LEFT_TO_RIGHT, stop="stop", streamer=recorder, block_length=block,
    )  # fmt: skip
    assert recorder.rows == out.token_ids
    assert out.finish_reasons == ["stop", "length", "length"]


def test_a_row_that_is_filled_in_place_has_no_stop_strings() -> None:
    denoiser = script("wordpiece", "far")
    with pytest.raises(ValueError, match="Prompt 1 is filled in place"):
        generate(denoiser, ["far", "far [MASK]"], max_new_tokens=2, stop="x")
    generate(denoiser, ["far", "far [MASK]"], max_new_tokens=2, stop=[["x"], []])
