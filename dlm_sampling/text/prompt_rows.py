"""Check all prompts of a file before the first forward pass, and give every row its seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from dlm_sampling import ops
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.errors import DeviceLostError
from dlm_sampling.text.options import GenerateOptions, check_one_ending, prepare
from dlm_sampling.text.options import Job as Generation
from dlm_sampling.text.prompt_items import PromptItem
from dlm_sampling.text.rows import PromptRow

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """Hold the rows of prompts that can run, and the errors of the other prompts.

    Fields:
        generation: the rows that can run.
        rows: their numbers, prompt times samples plus sample.
        errors: prompt -> why it cannot run.
        seeds: of all rows, by number.
    """

    generation: Generation
    rows: list[int]
    errors: dict[int, Exception]
    seeds: list[int]

    def part(self, places: Sequence[int]) -> Generation:
        """Return the rows at these places of `generation`, in this order."""
        whole = self.generation
        return replace(
            whole,
            prompts=[whole.prompts[i] for i in places],
            new_tokens=[whole.new_tokens[i] for i in places],
            seeds=[whole.seeds[i] for i in places],
            stop=[whole.stop[i] for i in places],
            numbers=[whole.numbers[i] for i in places],
        )


def prepare_items(
    denoiser: Denoiser, items: Sequence[PromptItem], options: GenerateOptions
) -> Prepared:
    """Check all prompts, and encode the prompts that can run.

    Raises:
        ValueError, TypeError: an option is out of range, or does not fit the model.
    """
    samples = options.num_return_sequences
    template = options.chat_template_kwargs
    if template and not any(is_chat(item) for item in items):
        raise ValueError("chat_template_kwargs: goes with chat messages, and no prompt is a chat.")
    # Fails only where the options themselves are wrong; one token where nothing would be written.
    least = "" if options.max_new_tokens else [[0]]
    generation = prepare(denoiser, least, replace(options, chat_template_kwargs=None))
    seeds = item_seeds(items, cast("int", options.seed), samples)
    found_rows: list[tuple[int, PromptRow, int, tuple[str, ...]]] = []
    errors: dict[int, Exception] = {}

    def encode(group: Sequence[int], own: int | None) -> Generation:
        mine = [seeds[i * samples + s] for i in group for s in range(samples)]
        asked = options.max_new_tokens if own is None else own
        chats = any(is_chat(items[i]) for i in group)
        row_options = replace(
            options,
            seed=mine,
            max_new_tokens=asked,
            chat_template_kwargs=template if chats else None,
        )
        return prepare(denoiser, [items[i].prompt for i in group], row_options)

    groups: dict[int | None, list[int]] = {}
    for i, item in enumerate(items):
        if item.error is not None:
            errors[i] = ValueError(item.error)
        else:
            groups.setdefault(item.max_new_tokens, []).append(i)
    for own, group in groups.items():
        for part, found in isolate(group, lambda g, own=own: encode(g, own)):
            if isinstance(found, Exception):
                errors[part[0]] = ValueError(items[part[0]].told(part[0], str(found)))
                continue
            # A constraint is compiled for how texts end, which the empty prompt does not tell.
            generation = replace(generation, request=found.request)
            numbers = (i * samples + s for i in part for s in range(samples))
            found_rows += zip(numbers, found.prompts, found.new_tokens, found.stop, strict=True)
    if options.constraint is not None:
        check_one_ending(options.eos, [row[1] for row in found_rows])
    found_rows.sort(key=lambda row: row[0])
    rows = [row[0] for row in found_rows]
    whole = replace(
        generation,
        prompts=[row[1] for row in found_rows],
        new_tokens=[row[2] for row in found_rows],
        seeds=[seeds[number] for number in rows],
        stop=[row[3] for row in found_rows],
        numbers=[number // samples for number in rows],
    )
    return Prepared(whole, rows, errors, seeds)


def is_chat(item: PromptItem) -> bool:
    """Return whether a prompt is a list of messages."""
    prompt = item.prompt
    return not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)


def isolate(
    rows: Sequence[int], run: Callable[[Sequence[int]], T]
) -> Iterator[tuple[Sequence[int], T | Exception]]:
    """Run rows together, and where that fails run halves, down to the rows that fail alone.

    A full disk and a lost device are no errors of a row and are raised.
    """
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    found: list[T | Exception] = []
    try:
        found.append(run(rows))
    except (OSError, DeviceLostError):
        raise
    except Exception as error:
        found += [error] if len(rows) == 1 else []
    if found:
        yield rows, found[0]
        return
    for part in halves:  # behind the except clause, which holds the tensors of the failed run
        yield from isolate(part, run)


def item_seeds(items: Sequence[PromptItem], seed: int, samples: int) -> list[int]:
    """Return the seed of every row, `samples` rows per prompt.

    A prompt with an id has seeds of its own, blake2b of (sample, id) keyed by `seed`, 63 bits:
    other prompts, their number and their order do not matter.  A prompt without an id has the seeds
    of its place, as in `generate(prompts, seed=seed)`; one with a seed has those of
    `generate(prompt, seed=its seed)`.
    """
    seeds = ops.row_seeds(seed, len(items) * samples)
    key = (seed % (1 << 64)).to_bytes(8, "little")
    for i, item in enumerate(items):
        if item.seed is not None:
            seeds[i * samples : (i + 1) * samples] = ops.row_seeds(item.seed, samples)
        elif item.name is not None:
            for s in range(samples):
                text = f"{s}:{item.name}".encode("utf-8", "replace")
                value = hashlib.blake2b(text, key=key, digest_size=8).digest()
                seeds[i * samples + s] = int.from_bytes(value, "little") >> 1
    return seeds
