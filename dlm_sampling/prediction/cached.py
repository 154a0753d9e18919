"""Run the passes of a step with keys and values of earlier passes: forward(Q, K, Wr) of a policy.

The policy says which columns each row computes.  Rows that compute more than usual, as at the start
of a block, have a pass of their own, and rows that begin with the same canvas share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.caches import Plan, RefreshPolicy
from dlm_sampling.caches.policy import completed
from dlm_sampling.denoisers.columns import sources
from dlm_sampling.prediction.alike import count_shared, same_queries
from dlm_sampling.prediction.audit import Meter
from dlm_sampling.prediction.drift import Values
from dlm_sampling.prediction.model import RunModel
from dlm_sampling.prediction.network import runner
from dlm_sampling.prediction.run_cache import RunCache, Shown
from dlm_sampling.types import ColumnCache, DenoiserOutput, Partial, Pass
from dlm_sampling.types.rows import select_rows, store_rows, where_rows
from dlm_sampling.types.values import distinct, ints

Network = Callable[[Pass, int, Tensor, "Tensor | None"], DenoiserOutput]
"""Runs a pass: its input, its number (1 is unconditional), its rows int64 [n], temperature [n]."""

Charge = Callable[[Pass, Tensor], None]
"""Counts a pass over the rows of its input, of which each showed so many columns (int64 [n])."""


class Running(NamedTuple):
    """Hold what runs a pass, and what counts it."""

    model: RunModel  # the denoiser and the settings of the run
    network: Network
    charge: Charge


@dataclass
class CachedPasses:
    """Run the passes of one step through the cache; the loop reads `cache` after the step.

    Fields:
        cache: the cache of the A active rows.
        shown: these rows.
        meter: collects the audits of the run.
        rng: random numbers of the step, which audits read too.
        width: columns of a pass over all rows, as a recorded step has it; None: those of the plan.
    """

    cache: RunCache
    shown: Shown
    meter: Meter
    rng: ops.Rng
    width: int | None = None

    def run(
        self,
        running: Running,
        inputs: Pass,
        given: Tensor | None,
        active: Tensor | None,
        copies: int,
        temperature: Tensor | None,
    ) -> list[DenoiserOutput]:
        """Run the denoiser on n canvases; twice with guidance.

        Args:
            running: runs and counts the passes, with the state that the network carries.
            inputs: the pass over the n canvases, whole.
            given: bool [n, L], tokens hidden from the unconditional pass; None without guidance.
            active: int64 [n], index of each canvas; None: 0 to n - 1.
            copies: number of canvases that each row of the run has, adjacent in the index.
            temperature: float64 [n], divides the logits in a carried state, or None.
        """
        model = running.model
        count = len(inputs.tokens)
        rows = torch.arange(count, device=inputs.tokens.device) if active is None else active
        work = _Rows(
            inputs if inputs.columns is not None else _asking_for_all(inputs),
            rows if copies == 1 else rows.div(copies, rounding_mode="floor"),
            given,
            ordered=active is None and copies == 1,
            temperature=temperature,
        )
        rows, policy = work.rows, self.cache.policy
        if self.width is not None:
            return self._together(running, work)
        own = self._own(work, copies)
        stale = self._before_refresh(running, work, own)
        plan = self._plan(rows, own)
        apart = policy.separate or copies > 1
        if policy.exact and apart and bool(plan.refresh.any()):
            self._commit(running, work, plan)
            plan = self._plan(rows, own)
        stores = own | policy.exact
        asked, plan = plan.query, _with_sources(plan, work, model, self.shown)
        outputs: list[DenoiserOutput] = []
        for chosen in _groups(plan, stores, model.denoiser.honours_padding):
            keep = bool(stores[chosen[0]])
            if len(chosen) == count:
                outputs = self._pass(running, work, plan, keep)
                break
            some = self._pass(running, work.part(chosen), select_rows(plan, chosen), keep)
            outputs = [
                _placed(out, chosen, count, before)
                for out, before in zip(some, outputs or [None] * len(some), strict=True)
            ]
        cache, stored = self.cache, plan.write & stores.unsqueeze(1)
        held = cache.held.index_put((rows,), cache.held[rows] | stored)
        opened = cache.opened.index_put((rows,), cache.opened[rows] & ~stores)
        self.cache = replace(cache, held=held, opened=opened)
        columns = work.inputs.columns
        assert columns is not None
        readable = torch.where(asked.gather(1, columns), columns, asked.shape[1])
        outputs = [out._replace(columns=readable) for out in outputs]
        self.meter.nbytes = max(self.meter.nbytes, self.cache.nbytes)
        if stale is not None:
            chosen, before = stale
            self._compare(model, work.part(chosen), _some(outputs, chosen), before, True)
        if self.meter.due() and bool((own & ~plan.refresh).all()):
            self._compare(model, work, self._exact(model, work), outputs, False)
        return outputs

    def _together(self, running: Running, work: _Rows) -> list[DenoiserOutput]:
        """Run all rows in one pass of an exact policy, without a question to the device."""
        plan = self._plan(work.rows, torch.ones_like(self.cache.opened))
        asked, plan = plan.query, _with_sources(plan, work, running.model, self.shown)
        outputs = self._pass(running, work, plan, True)
        held, columns = self.cache.held | plan.write, work.inputs.columns
        assert columns is not None
        self.cache = replace(self.cache, held=held, opened=torch.zeros_like(self.cache.opened))
        self.meter.nbytes = self.cache.nbytes
        readable = torch.where(asked.gather(1, columns), columns, asked.shape[1])
        return [out._replace(columns=readable) for out in outputs]

    def _before_refresh(
        self, running: Running, work: _Rows, own: Tensor
    ) -> tuple[Tensor, list[DenoiserOutput]] | None:
        """Run the policy's pass once more before a refresh of filled rows, without storing it.

        Returns these rows (int64 [m]) and their outputs; None if there are none.
        """
        policy, uncounted = self.cache.policy, running._replace(charge=_no_charge)
        if not self.meter.at_refreshes or not isinstance(policy, RefreshPolicy):
            return None
        view, state = select_rows((self.shown.view(self.cache), self.cache.state), work.rows)
        filled = (view.held | ~view.real).all(1)
        chosen = (policy.due(state, view) & filled & own).nonzero().squeeze(1)
        if not len(chosen):
            return None
        some = work.part(chosen)
        plan = select_rows(policy.stale(state, view), chosen)
        asked, plan = plan.query, _with_sources(plan, some, running.model, self.shown)
        outputs = self._pass(uncounted, some, plan, False)
        columns = some.inputs.columns
        assert columns is not None
        readable = torch.where(asked.gather(1, columns), columns, asked.shape[1])
        return chosen, [out._replace(columns=readable) for out in outputs]

    def _exact(self, model: RunModel, work: _Rows) -> list[DenoiserOutput]:
        """Run all columns, without a cache, beside the run."""
        inputs, outputs = work.inputs, list[DenoiserOutput]()
        real = self.shown.real[work.rows]
        inputs = inputs._replace(attention=None if bool(real.all()) else real)
        for number in range(model.passes):
            if number:
                inputs = _blanked(inputs, work.given, model)
            outputs.append(runner(model.denoiser)(inputs))
        return outputs

    def _compare(
        self,
        model: RunModel,
        work: _Rows,
        exact: list[DenoiserOutput],
        cached: list[DenoiserOutput],
        replaced: bool,
    ) -> None:
        """Compare two predictions at the unknown positions of the block, rounding first."""
        tokens, rows = work.inputs.tokens, work.rows
        where = (self.shown.unknown & self.shown.window)[rows]
        if not self.meter.audits:
            first = torch.zeros(2, dtype=torch.int64, device=tokens.device)
            alone, twice = (self._exact(model, work.part(first[:n])) for n in (1, 2))
            floor = [alone, _some(twice, first[:1])]
            self.meter.note_floor(model, tokens[:1], where[:1], floor)
        rng = self.rng.select(rows)
        self.meter.compare(model, rng, tokens, where, exact, cached, replaced=replaced)

    def _own(self, work: _Rows, copies: int) -> Tensor:
        """Return whether each canvas is that of its row of the run, bool [n].

        Others are provisional: their keys and values are never stored, but for finished blocks.
        """
        every = torch.ones_like(work.rows, dtype=torch.bool)
        if copies > 1:
            return ~every
        tokens, shown = work.inputs.tokens, self.shown.tokens
        return every if tokens is shown else (tokens == shown[work.rows]).all(1)

    def _plan(self, rows: Tensor, own: Tensor) -> Plan:
        """Return the policy's plan for rows of the run, int64 [n]; `own` ones advance its state."""
        cache = self.cache
        view, state = select_rows((self.shown.view(cache), cache.state), rows)
        after, plan = cache.policy.plan(state, view)
        if state is not None:
            after = where_rows(own, after, state)
            self.cache = replace(cache, state=store_rows(cache.state, rows, after))
        return completed(plan, view)

    def _commit(self, running: Running, work: _Rows, plan: Plan) -> None:
        """Store the columns of `plan.write` in a pass of its own, once for each row of the run."""
        rows = work.rows
        first = torch.ones_like(plan.refresh)
        first[1:] = rows[1:] != rows[:-1]  # copies of a row are adjacent
        chosen = (plan.refresh & first).nonzero().squeeze(1)
        some, what = work.part(chosen), select_rows(plan, chosen)
        none = some.inputs.tokens.new_zeros(len(chosen), 0)
        tokens = self.shown.tokens[some.rows]
        inputs = some.inputs._replace(
            tokens=tokens, t=self._latest(running.model, some), columns=none
        )
        seen = what.keys & (what.write | self.cache.held[some.rows])
        only = what._replace(query=what.write, keys=seen)
        self._pass(running, some._replace(inputs=inputs), only, True)
        held = self.cache.held.index_put((some.rows,), self.cache.held[some.rows] | what.write)
        self.cache = replace(self.cache, held=held)

    def _latest(self, model: RunModel, work: _Rows) -> Tensor | None:
        """Return the time of each row's latest pass, with which its last block was written."""
        rows, t = work.inputs.rows, work.inputs.t
        if t is None or rows is None:
            return t
        latest = model.counts.model_time[rows]
        return torch.where(latest.isnan(), t, latest)

    def _pass(
        self, running: Running, work: _Rows, plan: Plan, stores: bool
    ) -> list[DenoiserOutput]:
        """Run the network on some rows, once or twice; the values are those of their columns."""
        inputs, model, cache = work.inputs, running.model, self.cache
        size = self.shown.tokens.shape
        ahead = torch.arange(1, size[1] + 1, device=plan.keys.device)
        counted = plan.query.sum(1)
        widest, last = self.width, size[1]
        if widest is None:
            widest, last = ints(torch.stack([counted.max(), (plan.keys * ahead).max()]))
        order = (~plan.query).long().argsort(dim=1, stable=True)[:, :widest]
        query = torch.where(plan.query.gather(1, order), order, size[1])
        running.charge(inputs, counted)
        before = Values.at(cache, work.rows, query) if stores and cache.policy.measures else None
        outputs: list[DenoiserOutput] = []
        layers = list(cache.layers or ((),) * model.passes)
        for number in range(model.passes):
            if number:
                inputs = _blanked(inputs, work.given, model)
            store = ColumnCache(
                (size[0], size[1]),
                list(layers[number]),
                query,
                plan.keys[:, :last],
                None if work.ordered else work.rows,
                None if stores else torch.zeros_like(query, dtype=torch.bool),
                keeps_added=cache.policy.updates_layers,
                partial=_partial(plan, query),
            )
            free = self.width is None and not model.denoiser.carries
            new = free and bool(plan.refresh.all()) and not self._holds(work)
            same = same_queries(inputs, query) if new else None
            if same is None:
                ready = inputs._replace(cache=store)
                out = running.network(ready, number, work.rows, work.temperature)
            else:
                first, which = same
                count_shared(model.counts.shared, inputs, counted, first)
                store = replace(
                    store,
                    query=query[first],
                    keys=store.keys[first],
                    rows=work.rows[first],
                    kept=None if store.kept is None else store.kept[first],
                    shared=torch.stack([work.rows, which]),
                )
                few = select_rows(inputs, first)._replace(cache=store)
                out = running.network(few, number, work.rows[first], None)
                out = out._replace(values=out.values[which])
            layers[number] = tuple(store.layers)
            outputs.append(out)
        cache = self.cache = replace(cache, layers=tuple(layers))
        if before is not None:
            masks = self.shown.unknown[work.rows]
            moved = before.moved(Values.at(cache, work.rows, query), masks)
            drift = (cache.drift[work.rows] + moved).masked_fill(plan.refresh, 0.0)
            self.cache = replace(cache, drift=cache.drift.index_put((work.rows,), drift))
        return outputs

    def _holds(self, work: _Rows) -> bool:
        """Return whether something is stored for one of the rows, so that no pass is shared."""
        return len(work.rows) == 1 or bool(self.cache.held[work.rows].any())


def _no_charge(inputs: Pass, columns: Tensor) -> None:
    """Count nothing: the pass is an audit."""


class _Rows(NamedTuple):
    """Hold the canvases of a pass."""

    inputs: Pass  # of n canvases, whole, with the columns asked for
    rows: Tensor  # int64 [n], row of the run of each canvas
    given: Tensor | None  # bool [n, L], tokens hidden from the unconditional pass
    ordered: bool  # whether these are all rows of the run in order
    temperature: Tensor | None  # float64 [n], divides the logits in a carried state

    def part(self, chosen: Tensor) -> _Rows:
        """Return some of the canvases, int64 [m]."""
        some = select_rows((self.inputs, self.rows, self.given, self.temperature), chosen)
        inputs, rows, given, temperature = some
        return _Rows(inputs, rows, given, False, temperature)


def _blanked(inputs: Pass, given: Tensor | None, model: RunModel) -> Pass:
    """Return the unconditional pass: masks in place of the given tokens, bool [n, L]."""
    assert given is not None
    assert model.denoiser.mask_token_id is not None
    return inputs._replace(tokens=inputs.tokens.masked_fill(given, model.denoiser.mask_token_id))


def _some(outputs: list[DenoiserOutput], index: Tensor) -> list[DenoiserOutput]:
    """Return the outputs of some rows, int64 [m]."""
    return [
        out._replace(
            values=out.values[index], columns=None if out.columns is None else out.columns[index]
        )
        for out in outputs
    ]


def _asking_for_all(inputs: Pass) -> Pass:
    """Return a pass that asks for all columns, one by one."""
    every = torch.arange(inputs.tokens.shape[1], device=inputs.tokens.device)
    return inputs._replace(columns=every.expand_as(inputs.tokens))


def _groups(plan: Plan, stores: Tensor, padding: bool) -> list[Tensor]:
    """Return the canvases that run together, int64 [m] each.

    Refreshes and other passes run apart, as do canvases whose keys are stored and others.  Where
    the network honours no padding, the columns of a group are the same.
    """
    facts = [plan.refresh.long(), stores.long()]
    if not padding:
        for mask in (plan.keys, plan.query):
            facts += [mask.long().argmax(1), mask.sum(1)]
    table = torch.stack(facts, 1)
    found, kind = distinct(table)
    return [(kind == number).nonzero().squeeze(1) for number in range(len(found))]


def _partial(plan: Plan, query: Tensor) -> Partial | None:
    """Return which columns of a query (int64 [n, q]) all layers compute; None: all of them."""
    if plan.partial is None or plan.fresh is None or not bool(plan.partial.any()):
        return None
    asked, some = (
        torch.nn.functional.pad(part, (0, 1)).gather(1, query)
        for part in (plan.query, plan.partial)
    )
    always = asked & ~some
    counts = always.sum(1) + plan.fresh
    return Partial(always, counts, max(int(counts.max()), 1))


def _with_sources(plan: Plan, work: _Rows, model: RunModel, shown: Shown) -> Plan:
    """Return the plan with the columns added whose states predict those of the query.

    Of columns that nobody attends to, those that predict one of the block.
    """
    if not model.denoiser.shift:
        return plan
    parts, attention = (plan.query, shown.window[work.rows]), work.inputs.attention
    lead, of_block = (sources(part, attention) for part in parts)
    lead = lead & (plan.keys | of_block)
    return plan._replace(query=plan.query | lead, write=plan.write | (lead & ~plan.query))


def _placed(
    out: DenoiserOutput, chosen: Tensor, count: int, before: DenoiserOutput | None
) -> DenoiserOutput:
    """Put the values of some rows, int64 [m], into those of `count` rows."""
    values = out.values
    room = values.new_zeros(count, *values.shape[1:]) if before is None else before.values
    return out._replace(values=room.index_copy(0, chosen, values))
