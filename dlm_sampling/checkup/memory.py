"""Estimate the memory that a batch needs: weights, and the larger of activations and logits.

    total        weights + max(activations, logits), as a layer is over when logits are made
    weights      sum over distinct tensors of elements * bytes
    activations  n max(8 d, 2 d + w) e
    logits       n V e + R 3 min(V, TILE) 4, or n d e + R V e + R 3 min(V, TILE) 4 with a lazy head

with n = rows * length tokens; d the width of the states that the head reads; w the widest state
inside an MLP, f + f of a plain one and 3 f of a gated one; V the vocabulary; e the bytes of a
number of the network's type; R the rows, n at most, that a draw looks at together, or that a lazy
head makes at a time; and TILE the tokens of the vocabulary whose logits a draw copies to float32.
At the peak of a layer its input, the normed input, and either queries, keys, values and their
rotated copies or the states of the MLP are alive; experts run one at a time.

Assumed: no gradients; fused attention, so that no table of n * length weights exists; no guidance,
which doubles the logits; weights on one device.  The library's own tables of a step (canvases,
random numbers, draws) are left out: a few bytes per token, and a few megabytes of scratch memory.
A family that rewrites its logits holds them twice meanwhile (SEDD).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from dlm_sampling.denoisers import Denoiser
from dlm_sampling.denoisers.quantisation import plain_parts
from dlm_sampling.ops.sources import rows_together
from dlm_sampling.ops.vocabulary import TILE
from dlm_sampling.prediction.logits import head_block

UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Memory:
    """Hold the bytes that a batch of `rows` rows of `length` tokens needs, by kind."""

    rows: int
    length: int
    weights: int
    logits: int
    activations: int

    @property
    def total(self) -> int:
        """Return the bytes that are needed at the same time."""
        return self.weights + max(self.logits, self.activations)

    def __str__(self) -> str:
        """Return one line, in one unit and so rounded that the sum is the sum of what is written.

        Such as "about 16.5 GB for 16 x 160 tokens (weights 16.0 GB, and the larger of logits
        0.5 GB and activations 0.1 GB)".
        """
        unit = unit_of(self.total)
        weights, logits, activations = (
            round(size / 1000**unit, bool(unit))
            for size in (self.weights, self.logits, self.activations)
        )
        total, w, x, a = (
            f"{value:.{int(bool(unit))}f} {UNITS[unit]}"
            for value in (weights + max(logits, activations), weights, logits, activations)
        )
        return (
            f"about {total} for {self.rows} x {self.length} tokens (weights {w}, and the larger of "
            f"logits {x} and activations {a})"
        )


def expected_memory(denoiser: Denoiser, rows: int, length: int) -> Memory:
    """Estimate the memory of a batch; see the module for the formula and its assumptions.

    Args:
        denoiser: the model; a plain function has no weights, and its logits are counted as float32.
        rows: rows that run together.
        length: tokens of the longest row, prompt and new ones.
    """
    tokens, vocab, module = rows * length, denoiser.vocab_size, denoiser.module
    size = (denoiser.dtype or torch.float32).itemsize
    read, inside = (0, 0) if module is None else widths(module, vocab)
    if denoiser.lazy_head:
        together = min(tokens, head_block(denoiser.device, vocab))
        logits = tokens * read * size + together * vocab * size
    else:
        together = min(tokens, rows_together(denoiser.device, vocab))
        logits = tokens * vocab * size
    logits += together * 3 * min(vocab, TILE) * 4
    activations = tokens * max(8 * read, 2 * read + inside) * size
    weights = 0 if module is None else weight_bytes(module)
    return Memory(rows, length, weights, logits, activations)


def widths(module: nn.Module, vocab_size: int) -> tuple[int, int]:
    """Return the width d of the states that the head reads, and the width w inside an MLP.

    The layers of an MLP that widen their input lie in one module; the state after the activation
    is as wide as one of them.
    """
    read, inside = 0, 0
    for parent in module.modules():
        layers = [part for part in parent.children() if isinstance(part, nn.Linear)]
        heads = [part.in_features for part in layers if part.out_features == vocab_size]
        wider = [
            part.out_features
            for part in layers
            if part.in_features < part.out_features != vocab_size
        ]
        read = max(read, *heads, 0)
        inside = max(inside, sum(wider) + max(wider, default=0))
    return read, inside


def weight_bytes(module: nn.Module) -> int:
    """Count the bytes of all parameters and buffers, tied ones once."""
    tensors = distinct(chain(module.parameters(), module.buffers()))
    return sum(part.nbytes for tensor in tensors for part in plain_parts(tensor))


def distinct(tensors: Iterable[Tensor]) -> Iterable[Tensor]:
    """Return each tensor once, whichever modules share it."""
    return {id(tensor): tensor for tensor in tensors}.values()


def in_units(size: float) -> str:
    """Return a number of bytes with its unit, such as "16.0 GB"."""
    unit = unit_of(size)
    return f"{size / 1000**unit:.1f} {UNITS[unit]}" if unit else f"{size:.0f} B"


def unit_of(size: float) -> int:
    """Return the place in `UNITS` of the unit in which a number of bytes is below 1000."""
    unit = 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return unit
