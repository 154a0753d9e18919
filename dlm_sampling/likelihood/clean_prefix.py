"""Score noised blocks of a block-causal model beside one pass over the clean text.

    pass 1        Q = Wr = the columns of the finished text, up to a block
    each canvas   Q = its blocks from the first noised one to the last scored one, and with a
                      shift the clean column before them, whose state predicts their first token,
                  K = these and the clean columns before them,  Wr = none

Columns left of the first block that differs are those of the finished text, so that their keys and
values are too: the laws are those of a pass over the whole canvas, up to rounding.  Gradients flow
through the stored keys and values.

The sequence [clean | noised] of Arriola et al. 2025, Block Diffusion, arXiv:2503.09573, appendix
B.6, in passes that read one another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor

from dlm_sampling.caches import POLICIES, AnyPolicy, PolicyBase, policy_of
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.trajectory import StepEvent, Trajectory
from dlm_sampling.errors import unknown_choice
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
        stored = [self._empty(part) for part in fresh]
        if not first:
            stored = [self.layers[layer_idx].keys, self.layers[layer_idx].values]
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


CacheName = Literal["auto", "none"]


def check_cache(cache: object) -> None:
    """Refuse another `cache=` than those of `CacheName`.

    Raises:
        ValueError: it is another; of a cache of `generate` the message says why.
    """
    if isinstance(cache, PolicyBase) or (isinstance(cache, str) and cache in POLICIES):
        why = (
            "is what 'auto' does here"
            if policy_of(cast("str | AnyPolicy", cache)).exact
            else "is approximate: its laws are not the model's, and a log-probability is of those"
        )
        raise ValueError(
            f"cache={cache!r}: {why}. Exact are 'auto', which passes over clean blocks of a block-"
            "causal model once and runs whole canvases of any other, and 'none', which always does "
            "that; leave cache out."
        )
    if cache not in ("auto", "none"):
        raise unknown_choice("cache", cache, ("auto", "none"))


def fits(denoiser: Denoiser, guidance_scale: float) -> bool:
    """Return whether canvases can be scored beside the clean text."""
    return (
        denoiser.block_length is not None
        and denoiser.cacheable
        and denoiser.canvas_length is None
        and denoiser.honours_padding
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
        kept: int64 [B], first blocks of each row whose keys and values are stored; 0 needs no pass.
        rows: int64 [n], text of each canvas of the next passes.
        where: bool [n, L], positions that they score.
        layers: keys and values of the texts with kept > 0, in their order.
        nfe: int64 [B], passes over the clean texts so far.
        work: float64 [B], columns of all passes so far, in units of a row's canvas.
    """

    denoiser: Denoiser
    clean: Tensor
    attention: Tensor
    size: int | None
    kept: Tensor
    rows: Tensor | None = None
    where: Tensor | None = None
    layers: list[LayerKeys] = field(default_factory=list[LayerKeys])
    nfe: Tensor = field(init=False)
    work: Tensor = field(init=False)

    @classmethod
    def of_run(
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
        attention = attention_of(run).to(denoiser.device)
        last = _blocks(denoiser, attention).amax(1)  # no later block reads the last one
        return cls(denoiser, tokens.to(denoiser.device), attention, size, last)

    @classmethod
    def of_masks(
        cls,
        denoiser: Denoiser,
        clean: Tensor,
        attention: Tensor,
        hidden: Tensor,
        scored: Tensor,
        size: int | None,
    ) -> CleanPrefix:
        """Return the prefix of texts that are seen through masks, with the fewest columns.

        A block in front of all but one of a row's canvases would be computed once either way, so
        that as many are kept as the second-largest number of clean first blocks.

        Args:
            denoiser: a block-causal model.
            clean: int64 [B, L], the texts.
            attention: bool [B, L], False at padding.
            hidden: bool [n, B, L], positions that are masked.
            scored: bool [n, B, L], positions whose tokens are scored; each is hidden.
            size: texts in one pass; None: all.
        """
        block = _blocks(denoiser, attention)
        first = block.masked_fill(~hidden, _NEVER).amin(2).masked_fill(~scored.any(2), 0)
        none = first.new_zeros(2, first.shape[1])
        return cls(denoiser, clean, attention, size, torch.cat([first, none]).topk(2, 0).values[1])

    def __post_init__(self) -> None:
        self.nfe = torch.zeros_like(self.kept)
        self.work = torch.zeros_like(self.kept, dtype=torch.float64)

    def elsewhere(self) -> None:
        """Do nothing: such passes run as ever."""

    def run(self, predictor: Asking, ask: Ask, active: Tensor | None) -> list[DenoiserOutput]:
        """Return the outputs of canvases, in a pass over their noised blocks."""
        assert self.rows is not None
        assert self.where is not None
        rows, x, where = self.rows, ask.x, self.where
        if active is not None:
            rows, x, where = rows[active], x[active], where[active]
        self._store()
        real = self.attention[rows]
        block = _blocks(self.denoiser, real)
        noised = (where | (x != self.clean[rows])) & real
        lowest = block.masked_fill(~noised, _NEVER).amin(1).minimum(self.kept[rows])
        highest = block.masked_fill(~where, -1).amax(1, keepdim=True)
        seen = real & (block <= highest)
        asked = seen & (block >= lowest.unsqueeze(1))
        lead = _lead(real & (block < lowest.unsqueeze(1))) if self.denoiser.shift else None
        shown = asked if lead is None else asked | lead
        query = _query(shown)
        out = self._pass(x, real, rows, (query, seen, list(self.layers)))
        self._charge(rows, shown)
        if lead is None:
            return [out._replace(columns=query)]
        of_lead = torch.nn.functional.pad(lead, (0, 1)).gather(1, query)
        return [out._replace(columns=query.masked_fill(of_lead, lead.shape[1]))]

    def _store(self) -> None:
        """Run the finished texts once, and keep their keys and values."""
        some = ((self.kept > 0) & (self.nfe == 0)).nonzero().squeeze(1)
        if not len(some):
            return
        parts: list[list[LayerKeys]] = []
        for rows in torch.split(some, self.size or len(some)):
            real = self.attention[rows]
            first = real & (_blocks(self.denoiser, real) < self.kept[rows].unsqueeze(1))
            layers: list[LayerKeys] = []
            self._pass(self.clean[rows], real, rows, (_query(first), first, layers), read=False)
            parts.append(layers)
            self._charge(rows, first)
        for pairs in zip(*parts, strict=True):
            keys, values = [pair.keys for pair in pairs], [pair.values for pair in pairs]
            self.layers.append(LayerKeys(torch.cat(keys), torch.cat(values)))
        self.nfe[some] = 1

    def _charge(self, rows: Tensor, asked: Tensor) -> None:
        """Count the columns (bool [n, L]) of a pass over texts, int64 [n]."""
        share = asked.sum(1).double() / self.attention[rows].sum(1).clamp_min(1)
        self.work.index_add_(0, rows, share)

    def _pass(
        self,
        x: Tensor,
        real: Tensor,
        rows: Tensor,
        asked: tuple[Tensor, Tensor, list[LayerKeys]],
        *,
        read: bool = True,
    ) -> DenoiserOutput:
        """Run canvases int64 [n, L]; `asked` has their query, their keys and the stored layers."""
        (query, keys, layers), length = asked, x.shape[1]
        column = torch.arange(length, device=x.device)
        last = int((keys * (column + 1)).max())
        stored, place = self.kept > 0, None
        if layers:  # those of the rows with kept > 0; others read nothing there
            place = (stored.long().cumsum(0) - 1).clamp_min(0)[rows]
        count = int(stored.sum()) if layers else len(rows)
        store = GradCache((count, length), layers, query, keys[:, :last], place)
        time = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        columns = query.clamp_max(length - 1) if read else query[:, :0]
        padded = None if bool(real.all()) else real
        inputs = Pass(x, time, padded, None, rows=rows, columns=columns, cache=store)
        return runner(self.denoiser)(inputs)


_NEVER = 1 << 30  # a block behind all others


def _blocks(denoiser: Denoiser, real: Tensor) -> Tensor:
    """Return the block of each column, int64 like real (bool [n, L]); padding is in block 0."""
    assert denoiser.block_length is not None
    return (real.long().cumsum(1) - 1).clamp_min(0) // denoiser.block_length


def _lead(before: Tensor) -> Tensor:
    """Return the last column of each row where `before` is True, bool [n, L] like it."""
    return before & (before.flip(1).cumsum(1).flip(1) == 1)


def _query(asked: Tensor) -> Tensor:
    """Return the columns where `asked` (bool [n, L]) is True, int64 [n, q], with L as a filler."""
    order = (~asked).long().argsort(dim=1, stable=True)[:, : int(asked.sum(1).max())]
    return torch.where(asked.gather(1, order), order, asked.shape[1])
