"""Record a step as a CUDA graph, and check beforehand that the step can be recorded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import Canvases, Request
from dlm_sampling.samplers.registry import available
from dlm_sampling.types import TokenLaw
from dlm_sampling.types.values import bools

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes the function of a step; returns a function that replays the recorded step."""


_WARM_UP = 2  # steps before recording, in which libraries initialise and tables reach the device


class Watch:
    """Read boolean flags from the GPU `lag` steps late, so that the GPU need not wait for the host.

    Args:
        flags: bool [n], on the device; the recorded step writes them in place.
        lag: number of steps between writing and reading; 0 synchronises every step.
    """

    def __init__(self, flags: Tensor, lag: int) -> None:
        self.flags, self.lag = flags, lag
        self.sent: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def read(self) -> list[bool]:
        """Return the flags of `lag` calls ago; False in the first `lag` calls."""
        there, event = self.flags, None
        here = torch.empty(there.shape, dtype=there.dtype, pin_memory=there.is_cuda)
        here.copy_(there, non_blocking=True)
        if there.is_cuda:
            event = torch.cuda.Event()
            event.record()
        self.sent.append((here, event))
        if len(self.sent) <= self.lag:
            return [False] * len(there)
        here, event = self.sent.popleft()
        if event is not None:
            event.synchronize()
        return bools(here)


def record(step: Callable[[], None]) -> Callable[[], None]:
    """Record a step as a CUDA graph and return a function that replays it.

    The step must read and write tensors of fixed address.  It runs a few times while it is
    recorded: the caller restores the tensors that it changed.

    Raises:
        RuntimeError: the step synchronises with the host, or uses memory in a way that cannot be
            recorded.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        raise RuntimeError(
            "cuda_graph=True: this step cannot be recorded; the sampler or the model waits for the "
            f"device, or copies from the host, in it ({error}). Leave cuda_graph out."
        ) from error
    return graph.replay


def check_recordable(denoiser: Denoiser, request: Request, canvases: Canvases) -> None:
    """Check that sampler, denoiser and canvases allow a recorded step.

    Raises:
        ValueError: the sampler decides on the host, the denoiser carries a state or chooses shapes
            by values, or rows need padding and the denoiser takes no attention mask.
    """
    kind, sampler = denoiser.process.name, request.sampler
    if kind not in sampler.recorded_on:
        fitting = [name for name, entry in available().items() if kind in entry.recorded_on]
        raise ValueError(
            f"cuda_graph=True: on {kind} noise {type(sampler).__name__} decides on the host, or "
            f"holds tensors of changing size. These can be recorded: {', '.join(fitting)}."
        )
    if request.guidance is not None:
        raise ValueError(
            "cuda_graph=True: a guidance chooses the rows of its passes by values; use "
            "guidance_scale=, or leave cuda_graph out."
        )
    if denoiser.carries:
        raise ValueError(
            f"cuda_graph=True: this denoiser ({denoiser.family}) carries a state from pass to pass."
        )
    if not denoiser.recordable:
        raise ValueError(
            f"cuda_graph=True: the network of this denoiser ({denoiser.family}) chooses the shapes "
            "of its work by values, as experts do that take the tokens sent to them."
        )
    padded = request.blocks.causal or not bool(canvases.attention.all())
    if padded and not denoiser.honours_padding:
        raise ValueError(
            f"cuda_graph=True: this denoiser ({denoiser.family}) takes no attention mask, so rows "
            "of different length and causal_blocks need passes of changing shape. Give prompts of "
            "one length, or batch_size=1."
        )


def check_device(device: torch.device, law: TokenLaw) -> None:
    """Check that the device can record a step.

    Raises:
        ValueError: the device is not a GPU, or the law has rules without a kernel.
        RuntimeError: the law has filters and the Triton kernels cannot run; the torch filters
            synchronise with the host.
    """
    if device.type != "cuda":
        raise ValueError(
            f"cuda_graph=True: the denoiser is on {device.type}; move it to a GPU "
            "(device_map='cuda', or --device cuda), or leave cuda_graph out."
        )
    if law.reshapes or law.reads_canvas:
        raise ValueError(
            "cuda_graph=True: typical_p, eta_cutoff, top_n_sigma, penalties and logits_processor "
            "have no kernel, and torch's way of them waits for the device; leave one out."
        )
    problem = ops.why_no_kernels(device) if law.filters else None
    if problem is not None:
        raise RuntimeError(
            f"cuda_graph=True: top_k, top_p and min_p need the Triton kernels then: {problem}."
        )
