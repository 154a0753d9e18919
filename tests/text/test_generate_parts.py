"""Batches of a call: one that does not fit into memory is run again in halves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import wrap
from dlm_sampling.engine.batches import out_of_memory
from dlm_sampling.text.generate import generate_parts
from dlm_sampling.text.options import GenerateOptions, prepare
from dlm_sampling.viewers.streaming import ProgressFeed

HOST = "[enforce fail at alloc_cpu.cpp:125] . DefaultCPUAllocator: can't allocate memory: you tried"


def narrow(most: int, error: Exception) -> Any:
    """A denoiser with memory for `most` rows; the second pass of a larger batch fails."""
    passes: list[int] = []

    def logits(input_ids: Tensor) -> Tensor:
        passes.append(len(input_ids))
        if len(input_ids) > most and len(passes) % 3 == 2:
            raise error
        return torch.zeros(*input_ids.shape, 5)

    return wrap(logits, vocab_size=5, mask_token_id=4, eos_token_id=3)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(HOST)],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_that_does_not_fit_is_halved(error: Exception) -> None:
    options = GenerateOptions(sampler="llada-random", max_new_tokens=4, seed=1, eos="keep")
    prompts = [[1]] * 10
    sizes: list[int] = []
    job = prepare(narrow(2, error), prompts, options)
    outputs = list(generate_parts(job, 8, on_halve=sizes.append))
    assert sizes == [4, 2]
    assert [len(output.seeds) for output in outputs] == [2] * 5
    whole = next(generate_parts(prepare(narrow(10, error), prompts, options), 10))
    assert [ids for output in outputs for ids in output.token_ids] == whole.token_ids


def test_one_row_that_does_not_fit_and_other_errors_are_raised() -> None:
    options = GenerateOptions(sampler="llada-random", max_new_tokens=4, seed=1)
    for most, error in ((0, torch.OutOfMemoryError("full")), (2, RuntimeError("other"))):
        job = prepare(narrow(most, error), [[1]] * 4, options)
        with pytest.raises(RuntimeError, match=str(error)):
            list(generate_parts(job, 4, on_halve=print))
    assert not out_of_memory(ValueError(HOST))


def test_the_bar_takes_back_what_is_run_again() -> None:
    options = GenerateOptions(sampler="llada-random", max_new_tokens=4, seed=1, eos="keep")
    bar = ProgressFeed(16, True)
    job = prepare(narrow(1, MemoryError()), [[1]] * 4, options)
    for _ in generate_parts(job, 2, [bar], lambda _: bar.restart()):
        assert 0 < bar.bar.n <= 16
    assert bar.bar.n == 16
    bar.close()
