"""What a CUDA graph may record: who is refused and why, and flags that are read late."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers, wrap
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.engine.graph import Watch, check_device, check_recordable
from dlm_sampling.engine.request import BlockRequest, Canvases, Request
from dlm_sampling.types import DenoiserOutput, Pass, TokenLaw

EVERY = torch.ones(2, 3, dtype=torch.bool)
CANVASES = Canvases(torch.zeros(2, 3, dtype=torch.int64), EVERY, EVERY, (1, 2), EVERY[:, 0])
PADDED = replace(CANVASES, attention=torch.tensor([[0, 1, 1], [1, 1, 1]]).bool())


def plain(input_ids: Tensor) -> Tensor:
    return torch.zeros(*input_ids.shape, 5)


def masked(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    return plain(input_ids)


class NeverRun(Denoiser):
    """A denoiser whose facts alone are read."""

    def __init__(self) -> None:
        super().__init__(vocab_size=5, mask_token_id=4)

    def forward(self, inputs: Pass) -> DenoiserOutput:
        raise AssertionError


class Carries(NeverRun):
    carries = True


class Experts(NeverRun):
    recordable = False


BARE, READER = (wrap(fn, vocab_size=5, mask_token_id=4) for fn in (plain, masked))
LLADA, CAUSAL = Request(samplers.create("llada")), BlockRequest(length=2, causal=True)


def test_flags_are_read_as_many_steps_late_as_was_asked() -> None:
    for lag in (0, 1, 2):
        flags = torch.zeros(2, dtype=torch.bool)
        watch, seen = Watch(flags, lag), list[list[bool]]()
        for step in range(5):
            flags.copy_(torch.tensor([step % 2 == 0, step == 1]))  # in place, as a replay does
            seen.append(watch.read())
        wanted = [[step % 2 == 0, step == 1] for step in range(5)]
        assert seen == ([[False, False]] * lag + wanted)[:5]


def test_a_step_that_can_be_recorded_is_not_refused() -> None:
    check_recordable(READER, LLADA, CANVASES)
    check_recordable(READER, LLADA, PADDED)
    check_recordable(READER, replace(LLADA, blocks=CAUSAL), CANVASES)
    check_recordable(BARE, LLADA, CANVASES)


@pytest.mark.parametrize(
    ("denoiser", "request_", "canvases", "why"),
    [
        (BARE, Request(samplers.create("picard")), CANVASES, "on absorbing noise Picard"),
        (BARE, LLADA, PADDED, "takes no attention mask"),
        (BARE, replace(LLADA, blocks=CAUSAL), CANVASES, "takes no attention mask"),
        (Carries(), LLADA, CANVASES, "carries a state from pass to pass"),
        (Experts(), LLADA, CANVASES, "chooses the shapes of its work by values"),
    ],
    ids=["sampler", "padding", "causal", "state", "experts"],
)
def test_a_step_that_cannot_be_recorded_is_refused_with_the_reason(
    denoiser: Denoiser, request_: Request, canvases: Canvases, why: str
) -> None:
    with pytest.raises(ValueError, match=f"cuda_graph=True: .*{why}"):
        check_recordable(denoiser, request_, canvases)


def test_without_a_gpu_or_a_kernel_it_says_so() -> None:
    with pytest.raises(ValueError, match="the denoiser is on cpu; move it to a GPU"):
        check_device(torch.device("cpu"), TokenLaw())
    check_device(torch.device("cuda"), TokenLaw())
    with pytest.raises(RuntimeError, match="top_k, top_p and min_p need the Triton kernels"):
        check_device(torch.device("cuda"), TokenLaw(top_k=3))
