"""A recorded step makes nothing on the host: on a device without values no tensor of the CPU shows.

There is no GPU here; torch's "meta" device stands in for one.  Tensors there have a shape and no
values, so whatever a step would copy from the host, or ask of the device, is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dlm_sampling import samplers
from dlm_sampling.denoisers import AutoDenoiser, Denoiser
from dlm_sampling.engine.blocks import BlockPlan, plan_blocks
from dlm_sampling.engine.checks import check_canvases
from dlm_sampling.engine.graph import check_recordable
from dlm_sampling.engine.output import Listeners
from dlm_sampling.engine.recorded import Recorded
from dlm_sampling.engine.request import BlockRequest, Canvases, Request
from dlm_sampling.engine.run import Run
from dlm_sampling.ops import philox
from dlm_sampling.types import TokenLaw
from tests.engine.test_recorded import FAMILIES, HELD, RECORDED
from tests.test_contract import RAGGED, CountingToy, canvas, denoiser

THERE = torch.device("meta")
NOBODY = Listeners()


class OnTheHostError(AssertionError):
    """A tensor with elements was on the CPU."""


class _NothingHere(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            # A number that torch wraps in a tensor has no dimension and goes along with the launch.
            if isinstance(tensor, Tensor) and tensor.ndim and tensor.device != THERE:
                raise OnTheHostError(f"{func} with a tensor {tuple(tensor.shape)} on the host")
        return out


class Sender:
    """Replaces the tensors of objects by tensors without values, the same one by the same one."""

    def __init__(self) -> None:
        self._sent: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            sent = self._sent.setdefault(id(value), (value, torch.empty_like(value, device=THERE)))
            return sent[1]
        if isinstance(value, torch.device):
            return THERE
        if isinstance(value, tuple | list):
            parts = [self(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            self.members(value)
        return value

    def members(self, owner: Any) -> None:
        """Every attribute of an object, frozen or not."""
        for name, value in list(vars(owner).items()):
            if isinstance(value, torch.nn.Module):
                value.to(THERE)
                for part in value.modules():
                    self.members(part)
            elif not name.startswith("_"):
                object.__setattr__(owner, name, self(value))


def send(run: Recorded, sampler: Any, model: Denoiser, *others: Any) -> None:
    sender = Sender()
    for owner in (run, sampler, model, *others):
        sender.members(owner)
    model.to(THERE)


def request(sampler: Any, law: TokenLaw, causal: bool = False, **changes: Any) -> Request:
    """Without filters, whose torch twins ask for values."""
    law = dataclasses.replace(law, top_k=None, top_p=None, min_p=None)
    asked = BlockRequest(causal=causal)
    return Request(sampler, law, asked, stop_token_ids=(3,), cuda_graph=True, **changes)


def as_it_is(step: Callable[[], None]) -> Callable[[], None]:
    return step


def tick_twice(run: Recorded, ready: Callable[[], None]) -> None:
    """The first step may make tables, as in a warm-up; the second is what a graph holds."""
    ready()
    run.tick()
    with _NothingHere():
        run.tick()


def recorded(
    model: Denoiser, asked: Request, inputs: Canvases, plan: BlockPlan, heard: Listeners
) -> Recorded:
    check_recordable(model, asked, inputs)
    run = Run.of(model, asked, inputs, plan)
    return Recorded(run, run.begin(inputs), heard, as_it_is)


def run_of(
    name: str, kind: str, heard: Listeners = NOBODY, **changes: Any
) -> tuple[Recorded, Callable[[], None]]:
    toy, sampler = CountingToy(), samplers.create(name)
    model = denoiser(toy, kind)
    tokens, editable, attention = canvas(RAGGED)
    inputs = check_canvases(model, tokens, editable, attention, [1, 2, 3, 4])
    plan = plan_blocks(inputs.editable, 4, None, steps_per_block=sampler.own_steps or 4)
    run = recorded(model, request(sampler, sampler.law, **changes), inputs, plan, heard)
    return run, lambda: send(run, sampler, model, toy)


@torch.no_grad()
@pytest.mark.parametrize(("name", "kind"), HELD)
def test_a_step_has_nothing_of_the_host(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds of Philox are shown by the tests below; here they cost a quarter of the time."""
    monkeypatch.setattr(philox, "_rounds", lambda even, odd, keys: (even, odd))
    tick_twice(*run_of(name, kind))


@torch.no_grad()
def test_nor_with_guidance_hidden_blocks_and_listeners() -> None:
    heard = Listeners((lambda _: None,))
    for name in ("llada", "ancestral", "remdm-conf"):
        tick_twice(*run_of(name, "absorbing", heard, guidance_scale=1.0, causal=True))


@torch.no_grad()
def test_a_tensor_of_the_host_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = samplers.LLaDA.step

    def careless(self: Any, state: Any, canvas: Any, *rest: Any) -> Any:
        columns = torch.arange(canvas.tokens.shape[1])
        return plain(self, state, canvas._replace(start=canvas.start + columns.numel()), *rest)

    monkeypatch.setattr(samplers.LLaDA, "step", careless)
    with pytest.raises(OnTheHostError, match="arange"):
        tick_twice(*run_of("llada", "absorbing"))


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("folder", RECORDED)
def test_nor_has_a_pass_of_the_families(folder: str, padded: bool) -> None:
    model = AutoDenoiser.from_pretrained(FAMILIES / folder)
    sampler = samplers.create("ancestral" if model.mask_token_id is None else "llada")
    tokens = torch.randint(0, 90, (3, 12), generator=torch.Generator().manual_seed(1))
    editable, attention = tokens < 0, tokens >= 0
    editable[:, 4:], attention[1, :2] = True, not padded
    inputs = check_canvases(model, tokens, editable, attention, [1, 2, 3])
    plan = plan_blocks(inputs.editable, 4, None, steps_per_block=3)
    asked = request(sampler, TokenLaw(), padded, cache="none")
    run = recorded(model, asked, inputs, plan, NOBODY)
    tick_twice(run, lambda: send(run, sampler, model))


@torch.no_grad()
def test_nor_have_the_two_passes_of_the_block_cache() -> None:
    """The first step puts keys and values in their place; the others read and write them there."""
    model = AutoDenoiser.from_pretrained(FAMILIES / "sdar", block_length=4)
    sampler = samplers.create("llada")
    tokens = torch.randint(0, 90, (3, 12), generator=torch.Generator().manual_seed(1))
    editable, attention = tokens < 0, tokens >= 0
    editable[:, 5:], attention[1, :4] = True, False
    inputs = check_canvases(model, tokens, editable, attention, [1, 2, 3])
    origin = attention.long().argmax(1)
    plan = plan_blocks(inputs.editable, 4, None, origin=origin, steps_per_block=3)
    run = recorded(model, request(sampler, TokenLaw(), True), inputs, plan, NOBODY)
    assert run.widths == (8, 4, 8)
    run.tick(8)
    send(run, sampler, model)
    for width in (4, 8):
        run.tick(width)
        with _NothingHere():
            run.tick(width)
