"""Score noised blocks of a block-causal model beside one pass over the clean text.

    pass 1        Q = Wr = all columns of the finished text
    each canvas   Q = its noised blocks, K = these and the clean columns before them, Wr = none

Columns left of the first scored token's block are those of the finished text, so that their keys
and values are too: the laws are those of a pass over the whole canvas, up to rounding.  Gradients
flow through the stored keys and values.  A canvas with other columns before its block, as of a run
that revises, has a pass of its own.

The sequence [clean | noised] of Arriola et al. 2025, Block Diffusion, arXiv:2503.09573, appendix
B.6, in passes that read one another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.trajectory import StepEvent, Trajectory
from dlm_sampling.likelihood.records import attention_of
from dlm_sampling.prediction.network import runner
from dlm_sampling.prediction.speculation import Ask, Asking
from dlm_sampling.types import ColumnCache, DenoiserOutput, LayerKeys, Pass


@dataclass(frozen=True)
class GradCache(ColumnCache):
    """Read and write keys and values out of place, so that gradients flow through them."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Return fresh keys and values beside the stored ones; see `ColumnCache.update`."""
        first = layer_idx == len(self.layers)
        fresh = (key_states, value_states)
        stored = [self._empty(part) for part in fresh] if first else list(self.layers[layer_idx])
        every = torch.arange(len(key_states), device=key_states.device).unsqueeze(1)
        seen: list[Tensor] = []
        for old, new in zip(stored, fresh, strict=True):
            mine = old if self.rows is None else old.index_select(0, self.rows)
            places = mine.transpose(1, 2).index_put((every, self.query), new.transpose(1, 2))
            seen.append(places.transpose(1, 2))
        if first:
            self.layers.append(LayerKeys(*seen))
        keys, values = (part[:, :, : self.keys.shape[1]] for part in seen)
        return keys, values


def fits(denoiser: Denoiser, guidance_scale: float) -> bool:
    """Return whether canvases can be scored beside the clean text."""
    return (
        denoiser.block_length is not None
        and denoiser.cacheable
        and denoiser.canvas_length is None
        and denoiser.honours_padding
        and denoiser.shift == 0
        and guidance_scale == 0.0
        and not (denoiser.time_conditioned or denoiser.carries or denoiser.step_conditioned)
    )


@dataclass
class CleanPrefix:
    """Hold the keys and values of finished texts; answers the passes of `Scorer`.

    Fields:
        denoiser: a block-causal model.
        clean: int64 [B, L], the finished texts.
        attention: bool [B, L], False at padding.
        size: texts in one pass; None: all.
        rows: int64 [n], text of each canvas of the next passes.
        where: bool [n, L], positions that they score.
        layers: keys and values of the texts, none before the first pass.
        work: float64 [B], columns of all passes so far, in units of a row's canvas.
    """

    denoiser: Denoiser
    clean: Tensor
    attention: Tensor
    size: int | None = None
    rows: Tensor | None = None
    where: Tensor | None = None
    layers: list[LayerKeys] = field(default_factory=list[LayerKeys])
    work: Tensor = field(init=False)

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        run: Trajectory,
        events: Iterable[StepEvent],
        size: int | None,
    ) -> CleanPrefix:
        """Return the prefix of a run: its canvases after the last step of each row."""
        tokens = run.initial.clone()
        for event in events:
            tokens[event.rows] = event.tokens
        device = denoiser.device
        return cls(denoiser, tokens.to(device), attention_of(run).to(device), size)

    def __post_init__(self) -> None:
        self.work = torch.zeros(len(self.clean), dtype=torch.float64, device=self.clean.device)

    def elsewhere(self) -> None:
        """Do nothing: such passes run as ever."""

    def run(self, predictor: Asking, ask: Ask, active: Tensor | None) -> list[DenoiserOutput]:
        """Return the outputs of canvases, in a pass over their noised blocks."""
        assert self.rows is not None
        assert self.where is not None
        rows, x, where = self.rows, ask.x, self.where
        if active is not None:
            rows, x, where = rows[active], x[active], where[active]
        real, width = self.attention[rows], self.denoiser.block_length
        assert width is not None
        column = torch.arange(x.shape[1], device=x.device)
        block = (real.long().cumsum(1) - 1).clamp_min(0) // width
        lowest = block.masked_fill(~where, 2**30).amin(1, keepdim=True)
        highest = block.masked_fill(~where, -1).amax(1, keepdim=True)
        before = real & (block < lowest)
        if bool((before & (x != self.clean[rows])).any()):
            self.work.index_add_(0, rows, torch.ones_like(rows, dtype=torch.float64))
            return predictor.unaided().run(ask.x, ask.t, active, ask.temperature, ask.dt)
        if not self.layers:
            self._prefill()
        asked, seen = real & ~before & (block <= highest), real & (block <= highest)
        counted = asked.sum(1)
        order = (~asked).long().argsort(dim=1, stable=True)[:, : int(counted.max())]
        query = torch.where(asked.gather(1, order), order, x.shape[1])
        store = GradCache((len(self.clean), x.shape[1]), list(self.layers), query, seen, rows)
        last = int((seen * (column + 1)).max())
        store = replace(store, keys=seen[:, :last])
        out = self._pass(x, real, rows, store, query.clamp_max(x.shape[1] - 1))
        self.work.index_add_(0, rows, counted.double() / real.sum(1).clamp_min(1))
        return [out._replace(columns=query)]

    def _prefill(self) -> None:
        """Run the finished texts, and keep their keys and values."""
        count, length = self.clean.shape
        every = torch.arange(length, device=self.clean.device)
        parts: list[list[LayerKeys]] = []
        size = self.size or count
        for first in range(0, count, size):
            rows = torch.arange(first, min(first + size, count), device=self.clean.device)
            real, query = self.attention[rows], every.expand(len(rows), -1)
            store = GradCache((len(rows), length), [], query, real)
            self._pass(self.clean[rows], real, rows, store, query[:, :0])
            parts.append(store.layers)
        for layers in zip(*parts, strict=True):
            keys, values = (torch.cat(list(part)) for part in zip(*layers, strict=True))
            self.layers.append(LayerKeys(keys, values))
        self.work += 1.0

    def _pass(
        self, x: Tensor, real: Tensor, rows: Tensor, store: ColumnCache, columns: Tensor
    ) -> DenoiserOutput:
        time = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        padded = None if bool(real.all()) else real
        inputs = Pass(x, time, padded, None, rows=rows, columns=columns, cache=store)
        return runner(self.denoiser)(inputs)
