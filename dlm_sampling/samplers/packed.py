"""Laws of a few positions per row, kept between steps: one after the other, [B, K, V]."""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.types import Draw, Prediction


def _rank(where: Tensor) -> Tensor:
    """Number of True positions before each one in its row, int64 [B, L]."""
    return where.long().cumsum(1) - 1


def pack(prediction: Prediction, where: Tensor) -> Tensor:
    """Log-laws at the positions of `where`, one after the other in each row, [B, K, V]."""
    if not bool(where.any()):
        return torch.zeros(len(where), 0, 1, device=where.device)
    return pack_table(prediction.log_probs(where), where)


def pack_table(values: Tensor, where: Tensor) -> Tensor:
    """A table [R, V] of the positions of `where`, row-major, as [B, K, V]."""
    if not len(values):
        return torch.zeros(len(where), 0, 1, device=where.device)
    packed = values.new_zeros(len(where), int(where.sum(1).max()), values.shape[1])
    packed[where.nonzero(as_tuple=True)[0], _rank(where)[where]] = values
    return packed


def unpack(packed: Tensor, group: Tensor, where: Tensor) -> Tensor:
    """The laws that were packed for `group` at the positions of its subset `where`, [R, V]."""
    return packed[where.nonzero(as_tuple=True)[0], _rank(group)[where]]


def merge(where: Tensor, chosen: Draw, other: Draw) -> Draw:
    """`chosen` at `where`, `other` elsewhere."""
    return Draw(*(torch.where(where, c, o.to(c.dtype)) for c, o in zip(chosen, other, strict=True)))
