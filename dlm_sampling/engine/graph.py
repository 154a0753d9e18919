"""Records a step as a CUDA graph, and refuses what a graph cannot hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import Canvases, Request
from dlm_sampling.samplers.registry import available
from dlm_sampling.types import TokenLaw

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes a step and returns what repeats it."""


_WARM_UP = 2  # steps before recording: libraries set themselves up, tables reach the device


class Watch:
    """Reads flags `lag` steps late, so that reading them does not hold up the device."""

    def __init__(self, flags: Tensor, lag: int) -> None:
        self.flags, self.lag = flags, lag
        self.sent: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def look(self) -> list[bool]:
        """The flags as they were `lag` calls ago; False before."""
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
        return cast("list[bool]", here.tolist())


def record(step: Callable[[], None]) -> Callable[[], None]:
    """Record a step over fixed tensors as a CUDA graph; what it changed must be put back.

    Raises:
        RuntimeError: the step asks the host something, or uses memory in a way that cannot be
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


def check_capture(denoiser: Denoiser, request: Request, canvases: Canvases) -> None:
    """Refuse what a graph cannot hold.

    Raises:
        ValueError: see `recorded.run_recorded`.
    """
    kind, sampler = denoiser.process.name, request.sampler
    if kind not in sampler.recorded_on:
        fitting = [name for name, entry in available().items() if kind in entry.recorded_on]
        raise ValueError(
            f"cuda_graph=True: on {kind} noise {type(sampler).__name__} decides on the host, or "
            f"holds tensors of changing size. These can be recorded: {', '.join(fitting)}."
        )
    if denoiser.carries:
        raise ValueError(
            f"cuda_graph=True: this denoiser ({denoiser.family}) carries a state from pass to pass."
        )
    if not denoiser.capturable:
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
    """Refuse where nothing can be recorded.

    Raises:
        ValueError: no GPU.
        RuntimeError: the law has filters and the kernels cannot run; torch's filters wait for the
            device.
    """
    if device.type != "cuda":
        raise ValueError(
            f"cuda_graph=True: the denoiser is on {device.type}; move it to a GPU "
            "(device_map='cuda', or --device cuda), or leave cuda_graph out."
        )
    problem = ops.why_no_kernels(device) if law.filters else None
    if problem is not None:
        raise RuntimeError(
            f"cuda_graph=True: top_k, top_p and min_p need the Triton kernels then: {problem}."
        )
