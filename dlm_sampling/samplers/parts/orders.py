"""Score positions: the unknown position with the largest score is written first.

An order either reads the law of the position (confidence, margin, entropy) or only the position
itself (random, left to right); the latter need no logits before the choice, so a sampler draws
tokens just where it writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.errors import unknown_choice
from dlm_sampling.ops import Stream
from dlm_sampling.types import Canvas, Draw, RandomSource

OrderName = Literal["confidence", "margin", "entropy", "random", "left_to_right"]


class LawOrder(NamedTuple):
    """Score positions by the law of their token, as the `Draw` has it.

    score: the ranking key [B, L].  natural: the quantity on the scale of the released code, which a
        softmax with a position temperature reads.
    """

    score: Callable[[Draw], Tensor]
    natural: Callable[[Draw], Tensor]


def _log_confidence(draw: Draw) -> Tensor:
    return draw.log_confidence


def _confidence(draw: Draw) -> Tensor:
    return draw.log_confidence.exp()


def _margin(draw: Draw) -> Tensor:
    return draw.margin


def _certainty(draw: Draw) -> Tensor:
    return -draw.entropy


LAW_ORDERS: dict[str, LawOrder] = {
    "confidence": LawOrder(_log_confidence, _confidence),
    "margin": LawOrder(_margin, _margin),
    "entropy": LawOrder(_certainty, _certainty),
}


def random_score(canvas: Canvas, rng: RandomSource) -> Tensor:
    """Return independent uniforms: a uniformly random order."""
    return rng.uniform(Stream.POSITION, canvas.tokens)


def left_to_right_score(canvas: Canvas, rng: RandomSource) -> Tensor:
    """Return minus the column: the leftmost unknown position first."""
    length = canvas.tokens.shape[1]
    return -torch.arange(length, dtype=torch.float64, device=canvas.tokens.device).expand(
        canvas.tokens.shape
    )


POSITION_ORDERS: dict[str, Callable[[Canvas, RandomSource], Tensor]] = {
    "random": random_score,
    "left_to_right": left_to_right_score,
}


def nothing_to_delay(field: str, name: str) -> ValueError:
    """Make the error of delayed ids beside an order of positions that reads no drawn token."""
    return ValueError(
        f"delayed_ids beside {field}={name!r}: must be empty, as that order reads no drawn token; "
        "try another order."
    )


def check_order(
    field: str, name: str, allowed: tuple[str, ...] = (*LAW_ORDERS, *POSITION_ORDERS)
) -> None:
    """Raise a ValueError that names the field unless `name` is one of the allowed orders."""
    if name not in allowed:
        raise unknown_choice(field, name, allowed)
