"""The cost of a step outside of the network, counted and not timed: calls and operators."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dlm_sampling
from dlm_sampling import AutoDenoiser, generate, sample, samplers, wrap

PACKAGE = str(Path(dlm_sampling.__file__).parent)
MOST_FRAMES: dict[str, tuple[int, str, dict[str, Any]]] = {
    "plain": (6, "tiny-books", {"sampler": "llada"}),
    "guidance": (7, "tiny-books", {"sampler": "llada", "guidance_scale": 1.0}),
    "cache": (8, "tiny-books", {"sampler": "llada", "block_length": 3, "cache": "prefix"}),
    "table": (14, "tiny-books-uniform", {"sampler": "ancestral"}),  # ones of the network included
}
"""Frames from a step to the network's innermost module: the most, the model and the options."""

MOST_CALLS = 144  # it was 202 at first; the operators, which cost more, are counted below


class Counted(samplers.LLaDA):
    """LLaDA's sampler that marks where its steps begin."""

    marks: list[int] = []  # noqa: RUF012 - a frozen dataclass has no other place for it
    calls: list[int] = [0]  # noqa: RUF012

    def step(self, *arguments: Any) -> Any:
        self.marks.append(self.calls[0])
        return super().step(*arguments)


@contextmanager
def counting(calls: list[int]) -> Iterator[None]:
    """Count the calls of functions whose code stands in the library."""

    def hear(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            calls[0] += 1

    sys.setprofile(hear)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_a_steady_step_of_llada_makes_few_python_calls() -> None:
    """From one step to the next, the library's own frames around the network included."""
    denoiser, sampler = AutoDenoiser.from_pretrained("tiny-books"), Counted()
    generate(denoiser, "Once upon a time", sampler=sampler, max_new_tokens=8, steps=4, seed=0)
    sampler.marks.clear()
    with counting(sampler.calls):
        generate(denoiser, "Once upon a time", sampler=sampler, max_new_tokens=8, steps=4, seed=0)
    steady = [b - a for a, b in zip(sampler.marks[1:-1], sampler.marks[2:], strict=True)]
    assert len(steady) == 2
    assert max(steady) <= MOST_CALLS + 1, steady  # one call is that of the mark itself


@pytest.mark.parametrize("path", MOST_FRAMES)
def test_few_frames_lie_between_a_sampler_and_its_network(path: str) -> None:
    most, name, options = MOST_FRAMES[path]
    denoiser = AutoDenoiser.from_pretrained(name)
    chains: list[list[str]] = []

    def look(*_: Any) -> None:
        chain: list[str] = []  # from the network outwards
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_name != "step":
            if frame.f_code.co_filename.startswith(PACKAGE):
                chain.append(frame.f_code.co_qualname)
            frame = frame.f_back
        if frame is not None:  # called by a step, not by a fill or a check
            chains.append(chain[::-1])

    assert denoiser.module is not None
    for module in denoiser.module.modules():
        if not any(True for _ in module.children()):
            module.register_forward_pre_hook(look)
    generate(denoiser, "Once", max_new_tokens=6, steps=3, seed=0, **options)
    longest = max(chains, key=len)
    assert longest[0] == ("Ancestral.move" if path == "table" else "LazyPrediction.draw")
    assert len(longest) <= most, longest


class Operators(TorchDispatchMode):
    """Count the operators that compute something: those that only look at a tensor are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.waits = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.waits += name == "_local_scalar_dense"
        looks = func.is_view or name in ("lift_fresh", "empty", "new_empty")
        self.count += not looks
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("llada", 50), ("ancestral", 110)])
def test_a_steady_step_runs_few_operators_and_never_waits(
    name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At L 256, B 1, from one step to the next, the draw included."""
    logits = torch.randn(1, 256, 1000, generator=torch.Generator().manual_seed(0))
    denoiser = wrap(lambda ids: logits, vocab_size=1000, mask_token_id=999)
    sampler, ran, seen = samplers.create(name), Operators(), list[tuple[int, int]]()
    step = type(sampler).step

    def marked(self: Any, *arguments: Any) -> Any:
        seen.append((ran.count, ran.waits))
        return step(self, *arguments)

    monkeypatch.setattr(type(sampler), "step", marked)
    canvas, everywhere = torch.full((1, 256), 999), torch.ones(1, 256, dtype=torch.bool)
    with ran:
        sample(denoiser, sampler, canvas, everywhere, seeds=[0], steps=8)
    steady = list(pairwise(seen[2:-1]))
    assert len(steady) >= 3
    assert [after[1] - before[1] for before, after in steady] == [0] * len(steady)
    assert max(after[0] - before[0] for before, after in steady) <= most


def test_the_logits_of_a_step_go_with_it() -> None:
    """No step waits for the garbage collector, which would keep the logits of many."""
    made, alive = list[weakref.ref[torch.Tensor]](), list[int]()

    def network(ids: torch.Tensor) -> torch.Tensor:
        alive.append(sum(ref() is not None for ref in made))
        logits = torch.zeros(*ids.shape, 5)
        made.append(weakref.ref(logits))
        return logits

    denoiser = wrap(network, vocab_size=5, mask_token_id=4)
    canvas, everywhere = torch.full((1, 6), 4), torch.ones(1, 6, dtype=torch.bool)
    gc.disable()
    try:
        for name in ("llada", "ancestral", "klass"):
            sample(denoiser, samplers.create(name), canvas, everywhere, seeds=[0], steps=6)
    finally:
        gc.enable()
    assert len(alive) >= 12
    assert max(alive) == 0
