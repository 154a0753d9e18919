"""Pass the logits of forward passes to an operator: as a tensor, through a head, or on demand.

A pass returns values of W columns per row.  `PassLogits` maps a position to the row of the
flattened values that holds its logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dlm_sampling import ops
from dlm_sampling.ops.vocabulary import allowed_ids
from dlm_sampling.prediction.model import RunModel
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.processes.guidance import blended_logits
from dlm_sampling.types import DenoiserOutput
from dlm_sampling.types.values import some

_BLOCK_ELEMENTS = 2**22  # most logits in memory at a time when they are computed on demand

# The fewest rows at a time: each call of a head reads its whole matrix.
_LEAST_ROWS, _LEAST_ROWS_GPU = 64, 256


@dataclass(frozen=True)
class PassLogits:
    """Hold the logits of all passes that one prediction has run.

    Fields:
        parts: outputs of the conditional pass, then of the unconditional one if guided; values
            [n, W, *].
        model: the denoiser and the settings of the run.
        slot: int64 [A], index into the n rows of values of each active row, -1 before its pass;
            None if row i has slot i.
        place: int64 [n, L], index into the W values of each column, -1 if the column has none;
            None if column i has value i.
        weights: float64 [K, n], of the passes of a guidance, else None.
    """

    parts: tuple[DenoiserOutput, ...]
    model: RunModel
    slot: Tensor | None
    place: Tensor | None
    weights: Tensor | None = None

    @classmethod
    def of(
        cls,
        outputs: list[DenoiserOutput],
        active: Tensor | None,
        x: Tensor,
        model: RunModel,
        before: PassLogits | None,
        weights: Tensor | None = None,
    ) -> PassLogits:
        """Append a pass over the rows `active` (int64 [n]; None: all) to `before`."""
        widest = outputs[0] if len(outputs) == 1 else max(outputs, key=_width)
        place = _places(widest, x.shape[1])
        if active is None:
            return cls(tuple(outputs), model, None, place, weights)
        if before is not None and before.weights is not None and weights is not None:
            weights = torch.cat((before.weights, weights), 1)
        offset = 0 if before is None else len(before.parts[0].values)
        slot = x.new_full((len(x),), -1) if before is None else before.slot
        assert slot is not None
        index = torch.arange(offset, offset + len(active), device=x.device)
        slot = slot.index_copy(0, active, index)
        if before is None:
            return cls(tuple(outputs), model, slot, place, weights)
        parts = tuple(_joined(a, b) for a, b in zip(before.parts, outputs, strict=True))
        if before.place is None and place is None:
            return cls(parts, model, slot, None, weights)
        every = torch.arange(x.shape[1], device=x.device)
        both = [
            every.expand(count, -1) if known is None else known
            for known, count in ((before.place, offset), (place, len(active)))
        ]
        return cls(parts, model, slot, torch.cat(both), weights)

    @property
    def width(self) -> int:
        """Return the values of each row, W."""
        return _width(self.parts[0]) if len(self.parts) == 1 else max(map(_width, self.parts))

    def index(self, sites: Sites) -> Tensor:
        """Return the rows of the flattened values that hold the positions' logits, int64 [R].

        Raises:
            IndexError: the passes returned no value for one of the positions.
        """
        if self.slot is None and self.place is None and self.width == sites.shape[1]:
            return sites.place
        slot = sites.row if self.slot is None else self.slot[sites.row]
        column = sites.column
        if self.place is not None:
            column = self.place[slot, column]
            if sites.asked is None and some(column < 0):
                raise IndexError(
                    "a prediction was asked for a position outside of the current block: samplers "
                    "may ask for positions of canvas.editable only, with some caches for unknown "
                    "ones of them only."
                )
        return slot * self.width + column

    def weights_at(self, index: Tensor) -> Tensor:
        """Return the weights of the passes at rows of the flattened values, [K, r]."""
        assert self.weights is not None
        return self.weights[:, index.div(self.width, rounding_mode="floor")]

    def view(self, number: int) -> ops.LogitRows | None:
        """Return the logits of one pass on demand, [n W, V]; None if no row asked it."""
        part = self.parts[number]
        if not _width(part):
            return None
        size = self.model.denoiser.vocab_size
        return on_demand(_headed(part.values.flatten(0, 1), part.head, size))

    def _blended(self) -> ops.LogitRows:
        """Return the logits of all passes of a guidance in one, on demand, [n W, V]."""
        guidance, views = self.model.guidance, [self.view(k) for k in range(len(self.parts))]
        assert guidance is not None
        lead = next(view for view in views if view is not None)

        def fetch(i: Tensor) -> Tensor:
            found = [None if view is None else _exact(view.fetch(i)) for view in views]
            first = next(logits for logits in found if logits is not None)
            logits = [first.new_zeros(first.shape) if x is None else x for x in found]
            mixed = blended_logits(logits, self.weights_at(i))
            kept = self.kept(logits[0])
            return mixed if kept is None else mixed.masked_fill(~kept, -torch.inf)

        return replace(lead, fetch=fetch, dtype=None)

    def kept(self, first: Tensor) -> Tensor | None:
        """Return which tokens a guidance leaves possible, by logits [r, V] of its first view."""
        guidance, law = self.model.guidance, self.model.law
        assert guidance is not None
        # Ids that are never written, such as the mask, must not set the scale for the others.
        banned = allowed_ids(first.shape[1], tuple(law.suppressed), first.device).suppressed.ids
        return guidance.keeps(first.index_fill(1, banned, -torch.inf))

    def source(self) -> ops.Source | ops.Pair:
        """Return the logits of all values, [n W, V]; conditional and unconditional if guided."""
        if self.weights is not None:
            return self._blended()
        vocab_size = self.model.denoiser.vocab_size
        if len(self.parts) == 1:
            (part,) = self.parts
            return _headed(part.values.flatten(0, 1), part.head, vocab_size)
        parts = [_headed(part.values.flatten(0, 1), part.head, vocab_size) for part in self.parts]
        weight, (c, u) = self.model.guidance_scale, parts
        if isinstance(c, Tensor) and isinstance(u, Tensor):
            return ops.Guided(c, u, weight)
        first, second = on_demand(c), on_demand(u)

        def guided(i: Tensor) -> Tensor:
            return ops.Guided(first.fetch(i), second.fetch(i), weight).logits()

        return replace(first, fetch=guided)


def _width(output: DenoiserOutput) -> int:
    """Return the values of each row, W; 0 if no row asked for the pass."""
    return output.values.shape[1]


def _exact(logits: Tensor) -> Tensor:
    """Return logits in a type that blends do not round."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def unasked(rows: int, like: Tensor) -> DenoiserOutput:
    """Return the output of a pass that no row asked."""
    return DenoiserOutput(torch.zeros(rows, 0, 1, device=like.device))


def gathered(output: DenoiserOutput, columns: Tensor) -> Tensor:
    """Return the values of `columns` (int64 [n, W]), 0 at columns that the network left out."""
    values, place = output.values, columns
    if output.columns is not None:
        width = max(int(columns.max()), int(output.columns.max())) + 1
        none = torch.full((len(values), width), -1, dtype=torch.int64, device=values.device)
        order = torch.arange(values.shape[1], device=values.device)
        place = none.scatter(1, output.columns, order.expand_as(output.columns)).gather(1, columns)
    found = torch.take_along_dim(values, place.clamp_min(0).unsqueeze(-1), dim=1)
    return found.masked_fill((place < 0).unsqueeze(-1), 0.0)


def _places(output: DenoiserOutput, length: int) -> Tensor | None:
    """Return `place` of `PassLogits` for one output over canvases of `length` columns."""
    rows, width = output.values.shape[:2]
    if output.columns is None and width == length:
        return None
    device = output.values.device
    if output.columns is None:
        column = torch.arange(length, device=device)
        return torch.where(column < width, column, -1).expand(rows, length)
    # Column `length` stands for one whose value is none.
    none = torch.full((rows, length + 1), -1, dtype=torch.int64, device=device)
    order = torch.arange(width, device=device).expand(rows, width)
    return none.scatter(1, output.columns, order)[:, :length]


def _joined(first: DenoiserOutput, second: DenoiserOutput) -> DenoiserOutput:
    """Concatenate the rows of two outputs; the narrower one is padded with zeros."""
    a, b = first.values, second.values
    if not (_width(first) and _width(second)):
        filled = first if _width(first) else second
        a, b = (
            v if v.shape[1] else filled.values.new_zeros(len(v), *filled.values.shape[1:])
            for v in (a, b)
        )
        return DenoiserOutput(torch.cat((a, b)), filled.head)
    width = max(a.shape[1], b.shape[1])
    a, b = (torch.nn.functional.pad(v, (0, 0, 0, width - v.shape[1])) for v in (a, b))
    return DenoiserOutput(torch.cat((a, b)), second.head)


def _headed(values: Tensor, head: Callable[[Tensor], Tensor] | None, vocab_size: int) -> ops.Source:
    """Return the logits of the rows of `values`, through the head if there is one."""
    if head is None:
        return values
    count, device, block = values.shape[0], values.device, head_block(values.device, vocab_size)
    matrix = _matrix(head)
    if matrix is not None and matrix.weight.dtype == values.dtype:
        return ops.head_rows(values, matrix.weight, bias=matrix.bias, block=block)
    return ops.LogitRows(lambda i: head(values[i]), count, vocab_size, device, block)


def _matrix(head: Callable[[Tensor], Tensor]) -> nn.Linear | None:
    """Return the head if it is a plain matrix without adapter, hook or gradient, else None.

    A quantised matrix is none: torchao keeps the layer, and packs its weight in a tensor of its own
    class.
    """
    if not isinstance(head, nn.Linear) or type(head) is not nn.Linear:
        return None
    if type(head.weight) is not nn.Parameter:
        return None
    if torch.is_grad_enabled() or "forward" in vars(head):
        return None
    # With a hook, calling the head does more than a matrix product.
    hooked = vars(head)["_forward_hooks"] or vars(head)["_forward_pre_hooks"]
    return None if hooked else head


def on_demand(source: ops.Source | ops.Pair) -> ops.LogitRows:
    """Turn any source of logits into one that computes rows on demand."""
    if isinstance(source, ops.LogitRows):
        return source
    if isinstance(source, ops.Pair):
        return source.rows()
    count, vocab = source.shape
    block = head_block(source.device, vocab)
    return ops.LogitRows(lambda i: source.index_select(0, i), count, vocab, source.device, block)


def head_block(device: torch.device, vocab_size: int) -> int:
    """Return the number of rows of logits that an output head makes at a time."""
    least = _LEAST_ROWS_GPU if device.type == "cuda" else _LEAST_ROWS
    return max(least, min(8192, _BLOCK_ELEMENTS // vocab_size))
