"""Apply learned step coefficients (LSD): one number per step scales the solver.

    rate:       G <- phi G, the published form
    log_score:  s <- s^phi, the released code: a temperature on the tokens as well

"Learnable Sampler Distillation for Discrete Diffusion Models", arXiv:2509.19962.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Apply = Literal["rate", "log_score"]


def _power(values: Tensor, phi: Tensor) -> Tensor:
    return torch.where(values > 0, values**phi, 0.0)


def _scaled(values: Tensor, phi: Tensor) -> Tensor:
    return values * phi


APPLY: dict[Apply, Callable[[Tensor, Tensor], Tensor]] = {"rate": _scaled, "log_score": _power}
"""Rates or ratios [..., V] and coefficients that broadcast to them -> the same, modified."""
