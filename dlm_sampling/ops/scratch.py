"""Lend buffers of the size of a block to the operators."""

from __future__ import annotations

import threading

import torch
from torch import Tensor


class Scratch:
    """Hold buffers that all chunks of all blocks of a call reuse; no result of a call lies in them.

    Two buffers that are in use at the same time need two names.

    Args:
        device: of the buffers.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def rows(self, name: str, count: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Return a buffer [count, columns], which holds whatever is in it.

        A name stands for one number of columns.
        """
        found = self._buffers.get((name, dtype))
        if found is None or found.shape[0] < count:
            # An inference tensor could not be written to outside of inference mode.
            with torch.inference_mode(False):
                found = torch.empty(count, columns, dtype=dtype, device=self._device)
            if type(found) is Tensor:  # and not one without values, which a trace makes
                self._buffers[name, dtype] = found
        return found if found.shape[0] == count else found[:count]


class _Kept(threading.local):
    """Hold the buffers that a thread used last, and the vocabulary that they were for."""

    vocab: int = 0
    scratch: Scratch | None = None


_kept = _Kept()


def scratch_for(vocab: int, device: torch.device) -> Scratch:
    """Return buffers for logits of `vocab` columns.

    On the CPU a thread keeps those of one vocabulary, a few megabytes, for its next call: fresh
    pages cost more than the arithmetic on them.
    """
    if device.type != "cpu":
        return Scratch(device)
    if _kept.scratch is None or _kept.vocab != vocab:
        _kept.vocab, _kept.scratch = vocab, Scratch(device)
    return _kept.scratch
