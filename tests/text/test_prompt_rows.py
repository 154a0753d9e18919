"""Seeds belong to prompts; a prompt that cannot run stops no other; halves find failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_sampling import AutoDenoiser, Denoiser, generate, ops
from dlm_sampling.constraints import Constraint
from dlm_sampling.text.generate import generate_parts
from dlm_sampling.text.options import GenerateOptions
from dlm_sampling.text.prompt_items import PromptItem
from dlm_sampling.text.prompt_rows import isolate, item_seeds, prepare_items
from tests.tiny import tiny_tokenizer

OPTIONS = GenerateOptions(sampler="ancestral", max_new_tokens=6, seed=3)


@pytest.fixture(scope="module")
def denoiser(tiny_llada: Path) -> Denoiser:
    return AutoDenoiser.from_pretrained(str(tiny_llada))


def test_a_prompt_with_an_id_keeps_its_seeds() -> None:
    items = [PromptItem("a", name=f"row {i}") for i in range(5)]
    seeds = item_seeds(items, 3, 2)
    assert len(set(seeds)) == 10
    assert item_seeds(items[::-1], 3, 2) == [
        s for i in range(4, -1, -1) for s in seeds[2 * i :][:2]
    ]
    assert item_seeds(items[3:4], 3, 1) == seeds[6:7]
    assert not set(item_seeds(items, 4, 2)) & set(seeds)
    assert item_seeds([PromptItem("b", name=7)], 0, 1) == item_seeds([PromptItem("c", "7")], 0, 1)


def test_a_prompt_without_an_id_has_the_seeds_of_generate() -> None:
    items = [PromptItem("a"), PromptItem("b", name="x"), PromptItem("c"), PromptItem("d", seed=9)]
    wanted = ops.row_seeds(3, 8)
    seeds = item_seeds(items, 3, 2)
    assert seeds[:2] == wanted[:2]
    assert seeds[4:6] == wanted[4:6]
    assert seeds[2:4] != wanted[2:4]
    assert seeds[6:] == ops.row_seeds(9, 2)


def test_rows_are_those_of_generate(denoiser: Denoiser) -> None:
    prompts = ["Once", "a", "upon a time"]
    prepared = prepare_items(denoiser, [PromptItem(p) for p in prompts], OPTIONS)
    texts = [t for out in generate_parts(prepared.generation, 2) for t in out.texts or []]
    out = generate(denoiser, prompts, sampler="ancestral", max_new_tokens=6, seed=3)
    assert texts == out.texts


def test_rows_under_a_constraint_are_those_of_generate(denoiser: Denoiser) -> None:
    """What may stand behind the end of a text follows from the prompts."""
    options = replace(OPTIONS, constraint=Constraint(regex="[a-c]{1,9}"), max_new_tokens=8)
    for prompts in (["ab"], [""]):
        prepared = prepare_items(denoiser, [PromptItem(p) for p in prompts], options)
        ids = [row for out in generate_parts(prepared.generation, 2) for row in out.token_ids]
        out = generate(
            denoiser, prompts, sampler="ancestral", max_new_tokens=8, seed=3,
            constraint=Constraint(regex="[a-c]{1,9}"),
        )  # fmt: skip
        assert ids == out.token_ids
    with pytest.raises(ValueError, match="constraint: the text of some prompts ends"):
        prepare_items(denoiser, [PromptItem("ab"), PromptItem("")], options)


def test_prompts_that_cannot_run_are_named_and_left_out(denoiser: Denoiser) -> None:
    items = [PromptItem("a" * n) for n in (3, 200, 1, 5, 91)]
    items += [PromptItem("b", max_new_tokens=2), PromptItem("c", error="line 7: no")]
    items[4] = replace(items[4], place="p.txt, line 9", name="n")
    prepared = prepare_items(denoiser, items, OPTIONS)
    assert prepared.rows == [0, 2, 3, 5]
    assert prepared.generation.new_tokens == [6, 6, 6, 2]
    assert [len(row.ids) for row in prepared.generation.prompts] == [3, 1, 5, 1]
    assert {i: str(e).split(":")[0] for i, e in prepared.errors.items()} == {
        1: "Prompt 1", 4: "Prompt 4 (p.txt, line 9, id 'n')", 6: "line 7",
    }  # fmt: skip


def test_the_check_of_the_options_needs_no_room_of_its_own(denoiser: Denoiser) -> None:
    longest = denoiser.max_length
    options = GenerateOptions(sampler="ancestral", max_new_tokens=longest, seed=3)
    assert prepare_items(denoiser, [PromptItem("")], options).rows == [0]
    assert prepare_items(denoiser, [PromptItem("a")], options).errors.keys() == {0}


def test_wrong_options_are_no_wrong_prompts(denoiser: Denoiser) -> None:
    with pytest.raises(ValueError, match="max_new_tokens=-1"):
        prepare_items(denoiser, [PromptItem("a")], GenerateOptions(seed=0, max_new_tokens=-1))


def test_isolate_runs_good_rows_together() -> None:
    def run(rows: Sequence[int]) -> list[int]:
        if 5 in rows:
            raise RuntimeError("five")
        return list(rows)

    found = list(isolate(range(8), run))
    assert [list(rows) for rows, _ in found] == [[0, 1, 2, 3], [4], [5], [6, 7]]
    assert [isinstance(result, RuntimeError) for _, result in found] == [False, False, True, False]

    def full(rows: Sequence[int]) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        list(isolate(range(8), full))


def test_template_arguments_go_to_chats_only(denoiser: Denoiser) -> None:
    """A bad prompt splits the file into halves, of which one may hold no chat."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}{{ end }}"
    options = replace(OPTIONS, tokenizer=tokenizer, chat_template_kwargs={"end": "xyz"})
    chat = PromptItem([{"role": "user", "content": "Hi"}])
    prepared = prepare_items(denoiser, [chat, PromptItem("Once"), PromptItem("a" * 200)], options)
    assert [len(row.ids) for row in prepared.generation.prompts] == [len("Hixyz"), len("Once")]
    assert list(prepared.errors) == [2]
    with pytest.raises(ValueError, match="no prompt is a chat"):
        prepare_items(denoiser, [PromptItem("Once")], options)
