"""Turn jump rates into the law of one step, for independent positions.

A table G [..., V] holds the rates of going from the current token x to every other; its column at x
is ignored.  With the rates frozen over a window h and Lambda = sum G:

    euler         P(y) = h G(y), stay 1 - h Lambda; negative becomes 0, the row is normalised
    last event    P(y) = (1 - exp(-h Lambda)) G(y) / Lambda, exact for frozen jumps "set to y"
    single event  P(y) = h G(y) exp(-h Lambda), Poisson counts with two or more events rejected

Tau-leaping: Campbell et al. 2022, arXiv:2205.14987; rejection as in its piano experiment.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.processes.tables import normalised, off_diagonal, with_stay

LARGEST_ORDERED = 512
"""Symbols that displacements are summed over: the window grows with them."""
MOST_EVENTS = 1000
_ROWS = 16  # positions whose windows are transformed at a time


def _window(h: Tensor, rates: Tensor) -> Tensor:
    return h.to(rates.dtype).expand(rates.shape[:-1]).unsqueeze(-1)


def euler_law(rates: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """Return Euler's law P(y) = h G(y), [..., V]; h broadcast to [...]."""
    return normalised(with_stay(_window(h, rates) * off_diagonal(rates, x), x))


def last_event_law(rates: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """Return P(y) = (1 - exp(-h Lambda)) G(y) / Lambda, [..., V]; h broadcast to [...]."""
    leave = off_diagonal(rates, x)
    total = leave.sum(-1, keepdim=True)
    jump = -torch.expm1(-_window(h, rates) * total)
    return with_stay(torch.where(total > 0, jump * leave / total, 0.0), x)


def single_event_law(rates: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """Return P(y) = h G(y) exp(-h Lambda), [..., V]; h broadcast to [...]."""
    leave = _window(h, rates) * off_diagonal(rates, x)
    return with_stay(leave * torch.exp(-leave.sum(-1, keepdim=True)), x)


def displacement_law(rates: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """Return the law of clamp(x + sum_y k_y (y - x), 0, V - 1), k_y ~ Poisson(h G(y)), [..., V].

    The sum is compound Poisson, so its characteristic function is exp(sum_y h G(y) (e^{i w (y - x)}
    - 1)); the law is its discrete Fourier inverse on a window wide enough that what wraps around
    has probability below 1e-12.  Symbols must be ordered.  h broadcast to [...].
    """
    leave = _window(h, rates) * off_diagonal(rates, x)
    size = rates.shape[-1]
    if not leave.numel():
        return leave
    most = float(leave.sum(-1).amax())
    if size > LARGEST_ORDERED or most > MOST_EVENTS:
        raise ValueError(
            f"displacements over {size} symbols with up to {most:.3g} events at a position in one "
            f"step: at most {LARGEST_ORDERED} symbols and {MOST_EVENTS} events. Take more steps, a "
            "schedule with alpha(1) > 0, or events='last'."
        )
    parts = torch.split(leave.reshape(-1, size), _ROWS), torch.split(x.flatten(), _ROWS)
    laws = [_compound_poisson(counts, at, most) for counts, at in zip(*parts, strict=True)]
    return torch.cat(laws).view(rates.shape)


def _compound_poisson(leave: Tensor, x: Tensor, mean: float) -> Tensor:
    """Return `displacement_law` of rows of expected counts [r, V]."""
    size = leave.shape[-1]
    symbols = torch.arange(size, device=x.device)
    # Displacements of k events lie within k (V - 1); Poisson counts exceed the mean by 8 sigma + 20
    # with a probability below 1e-12.
    reach = (size - 1) * math.ceil(mean + 8.0 * math.sqrt(mean) + 20.0)
    width = 2 * reach + 1
    place = (symbols - x.unsqueeze(-1)) % width
    mass = leave.new_zeros(*x.shape, width).scatter_add_(-1, place, leave)
    total = leave.sum(-1, keepdim=True)
    fft: Any = torch.fft
    law: Tensor = fft.ifft(torch.exp(fft.fft(mass) - total)).real.clamp_min(0.0)
    shift = torch.arange(width, device=x.device)
    shift = torch.where(shift > reach, shift - width, shift)
    target = (x.unsqueeze(-1) + shift).clamp(0, size - 1)
    return normalised(torch.zeros_like(leave).scatter_add_(-1, target, law))


def mixture_law(law: Tensor, x: Tensor, jump: Tensor) -> Tensor:
    """Return P(y) = J law(y), y != x: draw a token and keep it with probability J, [..., V].

    J = (alpha_s - alpha_t) / (1 - alpha_t) integrates the rate over the step; the flow library's
    J = 1 - exp(-h c) freezes it.  J is broadcast to [...].
    """
    return with_stay(_window(jump, law) * law, x)
