"""Run the denoiser for the active rows: guidance, padding, hidden columns, carried state, counts.

A sampler calls a `Predictor` with a canvas and gets a `LazyPrediction`.  The forward pass runs when
a draw is requested, over the rows that need it, and each row is charged for its own passes.  A
predictor lives for one step; it changes the counts of the run, its own `carries`, and what the
denoiser knows of padding, which the first padded pass proves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser, no_step_length
from dlm_sampling.denoisers.planner import planner_network
from dlm_sampling.errors import named
from dlm_sampling.guidance.base import Moment, View
from dlm_sampling.prediction.alike import alike
from dlm_sampling.prediction.cached import CachedPasses, Running
from dlm_sampling.prediction.carry import Carry, crop, widen
from dlm_sampling.prediction.constrained import Constrained, ConstrainedPrediction
from dlm_sampling.prediction.guided import moment_of
from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.prediction.ledger import Ledger
from dlm_sampling.prediction.logits import unasked
from dlm_sampling.prediction.model import Counts, RunModel
from dlm_sampling.prediction.network import runner
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.prediction.shapes import FREE, Shapes, by_span, real_columns, unseen_share
from dlm_sampling.prediction.speculation import Ask, Served
from dlm_sampling.types import DenoiserOutput, Pass, Planner, Process, TokenLaw
from dlm_sampling.types.rows import repeat_rows, select_rows


class _Asked(NamedTuple):
    """Hold the n canvases that a guidance is asked about."""

    moment: Moment
    rows: PassRows
    temperature: Tensor | None  # float64 [n], divides the logits in a carried state
    dt: Tensor | None  # float64 [n]
    active: Tensor  # int64 [n], their numbers among the active rows


@dataclass
class Predictor:
    """Predict clean tokens for the A active rows of a step.

    Fields:
        model: the denoiser and the settings of the run.
        rows: all tensors that belong to the active rows.
        carries: the carried state of each pass of a prediction, such as the conditional and the
            unconditional one; the loop reads them after the step.
        shapes: the layout of positions and passes, free or fixed.
        ledger: notes every draw, or None.
        cache: runs the passes with keys and values of earlier ones; the loop reads it after the
            step.  None: every pass runs all columns.
        made: the latest prediction of the step, which shares its pass with further readers.
        constraint: the rule that the texts satisfy, or None; it remembers the step's draws.
        shares: whether rows that are alike share a pass, where the network allows it.
        speculation: answers from predictions made beforehand, or None.
    """

    model: RunModel
    rows: PassRows
    carries: tuple[Carry, ...] = ()
    shapes: Shapes = FREE
    ledger: Ledger | None = None
    cache: CachedPasses | None = None
    constraint: Constrained | None = None
    shares: bool = False
    made: LazyPrediction | None = None
    speculation: Served | None = None

    @classmethod
    def alone(
        cls,
        denoiser: Denoiser,
        law: TokenLaw,
        attention: Tensor,
        *,
        horizon: Tensor | None = None,
        guidance_scale: float = 0.0,
        given: Tensor | None = None,
        eager: bool = False,
    ) -> Predictor:
        """Make a predictor for a whole batch outside of a run, with its own counts.

        Args:
            denoiser: the model.
            law: temperature, filters and suppressed ids of the draws.
            attention: bool [B, L], False at padding.
            horizon: int64 [B], first column hidden from the denoiser, or None.
            guidance_scale: see `RunModel`.
            given: bool [B, L], tokens hidden from the unconditional pass of guidance.
            eager: see `RunModel`.
        """
        count, device = len(attention), attention.device
        model = RunModel(denoiser, law, Counts.zero(count, device), guidance_scale, eager)
        rows = PassRows(
            torch.arange(count, device=device),
            None if bool(attention.all()) else attention,
            given,
            horizon,
        )
        return cls(model, rows, model.first_carries())

    @property
    def process(self) -> Process:
        """Return the noise process that the denoiser was trained on."""
        return self.model.denoiser.process

    @property
    def causal(self) -> bool:
        """Return whether columns right of the current block are hidden from the denoiser."""
        return self.rows.horizon is not None

    @property
    def vocab_size(self) -> int:
        """Return the vocabulary size of the predictions, V."""
        return self.model.denoiser.vocab_size

    @property
    def suppressed(self) -> tuple[int, ...]:
        """Return the ids that are never written."""
        return self.model.law.suppressed

    @property
    def nfe(self) -> Tensor:
        """Return the forward passes of every batch row so far, int64 [B]."""
        return self.model.counts.nfe

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        *,
        dt: Tensor | None = None,
    ) -> LazyPrediction:
        """Predict the clean tokens of x [A, L] at time t [A]; see `LazyPrediction`."""
        prediction = self.made = self.lazily(x, t, temperature, dt)
        if self.model.eager or self.model.carrier is not None:
            prediction.evaluate(torch.ones_like(x, dtype=torch.bool))
        return prediction

    def lazily(
        self, x: Tensor, t: Tensor, temperature: Tensor | None = None, dt: Tensor | None = None
    ) -> LazyPrediction:
        """Predict as the call does, but always lazily, even for eager models."""
        if self.constraint is not None:
            return ConstrainedPrediction(self, self.constraint, x, t, temperature, dt)
        return LazyPrediction(self, x, t, temperature, dt)

    def using(self, denoiser: Callable[..., DenoiserOutput]) -> Predictor:
        """Return a predictor of the same rows with another denoiser and the same counts.

        It has no guidance and is not eager.

        Raises:
            TypeError: `denoiser` is not a `Denoiser`.
        """
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"planner is {named(denoiser)}: must be a Denoiser; try wrap(...).")
        self.shapes.check_free("asks a second network")
        counts = self.model.counts.without_time()
        model = replace(
            self.model, denoiser=denoiser, counts=counts, guidance_scale=0.0, eager=False,
            guidance=None,
        )  # fmt: skip
        rows = replace(self.rows, beside=None)
        carries = model.first_carries()
        if self.speculation is not None:
            self.speculation.elsewhere()
        return replace(
            self, model=model, rows=rows, carries=carries, ledger=None, cache=None, constraint=None,
            speculation=None,
        )  # fmt: skip

    def repeated(self, n: int) -> Predictor:
        """Return a predictor with each active row repeated n times, copies of a row adjacent.

        The passes of all copies are charged to the row.

        Raises:
            ValueError: the denoiser carries a state, so that passes must run one after another.
        """
        self.shapes.check_free("runs several steps of a row at once")
        if self.constraint is not None:
            raise self.constraint.refusal("runs several steps of a row at once")
        carrier = self.model.carrier
        if carrier is not None:
            raise ValueError(
                f"denoiser ({carrier.family}) carries a state from one pass to the "
                "next: steps cannot run at the same time. Use a sequential sampler."
            )
        model = replace(self.model, counts=self.model.counts.without_time())
        if self.speculation is not None:
            self.speculation.elsewhere()
        rows = repeat_rows(self.rows, n)
        return replace(self, model=model, rows=rows, ledger=None, speculation=None)

    def unaided(self) -> Predictor:
        """Return the same predictor without predictions made beforehand."""
        return replace(self, speculation=None)

    def plan(self, planner: Planner | str | Path, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """Return the logits of a planner at x, float64 [A, L]; it runs on `rows` (bool [A]) only.

        Entries of other rows are 0.
        """
        active = rows.nonzero().squeeze(1)
        values = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        if len(active):
            network = planner_network(planner, self.model.denoiser)
            asking = self.using(network)
            asking.rows = replace(asking.rows, columns=None)
            (output,) = asking.run(x, t, active)
            found = output.values.squeeze(-1).to(values)
            values[active] = torch.nn.functional.pad(found, (0, x.shape[1] - found.shape[1]))
        return values

    def run(
        self,
        x: Tensor,
        t: Tensor,
        active: Tensor | None,
        temperature: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> list[DenoiserOutput]:
        """Run the denoiser on the rows `active` (int64 [n]; None: all); twice with guidance.

        Returns one output per pass, for `columns` or for all columns from 0 on.

        Args:
            x: int64 [A, L], the canvases.
            t: float64 [A], the sampler's times.
            active: the rows to run.
            temperature: float64 [A], divides the logits in the carried state, or None.
            dt: float64 [A], length of the step on the sampler's schedule, or None.
        """
        model, rows = self.model, self.rows
        if dt is None and model.denoiser.step_conditioned:
            raise no_step_length(dt, len(x))
        if self.speculation is not None:
            return self.speculation.run(self, Ask(x, t, temperature, dt), active)
        if active is not None:
            rows, x, t, temperature, dt = select_rows((rows, x, t, temperature, dt), active)
        time = model.time_of(t, rows.beside)
        length = None if dt is None else time - model.time_of(t - dt, rows.beside)
        inputs = Pass(x, time, rows.attention, length, rows=rows.index, columns=rows.columns)
        passes = model.passes
        if self.cache is not None:
            copies = len(self.rows) // len(self.cache.shown.tokens)
            running = Running(model, self._cached, self._charge_columns)
            return self.cache.run(running, inputs, rows.given, active, copies, temperature)
        hidden = None if rows.horizon is None else unseen_share(inputs, rows.horizon, passes)
        same = alike(inputs, rows, model.denoiser) if self.shares else None
        self._charge(inputs, passes, hidden)
        if same is not None:
            assert rows.index is not None
            model.counts.shared.index_add_(0, rows.index, same.spared(hidden, passes))
        outputs: list[DenoiserOutput] = []
        for part in range(passes):
            if part:
                assert rows.given is not None
                assert model.denoiser.mask_token_id is not None
                inputs = inputs._replace(
                    tokens=x.masked_fill(rows.given, model.denoiser.mask_token_id)
                )
            if self.carries:
                which = torch.arange(len(x), device=x.device) if active is None else active
                outputs.append(self._carried(inputs, rows.horizon, part, which, temperature))
            elif same is not None:
                outputs.append(same.spread(self._pass(*same.one_of_each(inputs, rows.horizon))))
            else:
                outputs.append(self._pass(inputs, rows.horizon))
        return outputs

    def guided(
        self,
        x: Tensor,
        t: Tensor,
        active: Tensor | None,
        temperature: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[list[DenoiserOutput], Tensor]:
        """Run the passes of the guidance, each on the rows of `active` whose weight is not 0.

        Returns one output per pass, over all columns, and the weights, float64 [K, n].
        """
        guidance, rows = self.model.guidance, self.rows
        assert guidance is not None
        every = torch.arange(len(x), device=x.device)
        if active is not None:
            rows, x, t, temperature, dt = select_rows((rows, x, t, temperature, dt), active)
        moment = moment_of(rows, x, t, self.model.denoiser.mask_token_id)
        weights = guidance.weights(moment)
        asked = _Asked(moment, rows, temperature, dt, every if active is None else active)
        outputs = [
            self._view(number, view, asked, (weights[number] != 0.0).nonzero().squeeze(1))
            for number, view in enumerate(guidance.views)
        ]
        return outputs, weights

    def _view(self, number: int, view: View, asked: _Asked, which: Tensor) -> DenoiserOutput:
        """Run pass `number` of a guidance on the rows `which`, int64 [m] of n."""
        count, length = asked.moment.x.shape
        if not len(which):
            return unasked(count, asked.moment.x)
        moment, rows, temperature, dt, active = select_rows(asked, which)
        model = self.model
        if view.denoiser is not None:
            model = replace(model, denoiser=view.denoiser)
        time, lasts = model.time_of(moment.t, rows.beside), None
        if dt is not None:
            lasts = time - model.time_of(moment.t - dt, rows.beside)
        inputs = Pass(moment.x, time, rows.attention, lasts, rows=rows.index)
        if view.shown is not None:
            inputs = view.shown(inputs, moment)
        asking = replace(self, model=model)
        hidden = None if rows.horizon is None else unseen_share(inputs, rows.horizon, 1)
        asking._charge(inputs, 1, hidden)
        if model.denoiser.carries:
            out = asking._carried(inputs, rows.horizon, number, active, temperature)
            self.carries = asking.carries
        else:
            out = asking._pass(inputs, rows.horizon)
        wide = torch.nn.functional.pad(out.values, (0, 0, 0, length - out.values.shape[1]))
        return DenoiserOutput(
            wide.new_zeros(count, *wide.shape[1:]).index_copy(0, which, wide), out.head
        )

    def _cached(
        self, inputs: Pass, part: int, which: Tensor, temperature: Tensor | None
    ) -> DenoiserOutput:
        """Run one pass with a cache; `part` 1 is the unconditional pass."""
        if self.carries:
            return self._carried(inputs, None, part, which, temperature)
        return runner(self.model.denoiser)(inputs)

    def _charge_columns(self, inputs: Pass, columns: Tensor) -> None:
        """Count the passes over some columns, int64 [n] of them in each row."""
        passes, whole = self.model.passes, real_columns(inputs).sum(1).clamp_min(1)
        self._charge(inputs, passes, passes * (1.0 - columns.double() / whole))

    def _charge(self, inputs: Pass, passes: int, hidden: Tensor | None) -> None:
        """Count passes that left out `hidden` canvases (float64 [n]), and keep their time."""
        model, rows = self.model, inputs.rows
        assert rows is not None
        assert inputs.t is not None
        self.shapes.charge(model.counts, rows, passes, hidden)
        if model.denoiser.time_conditioned:
            model.counts.model_time[rows] = inputs.t

    def _carried(
        self,
        inputs: Pass,
        horizon: Tensor | None,
        part: int,
        which: Tensor,
        temperature: Tensor | None,
    ) -> DenoiserOutput:
        """Run pass number `part` of a prediction, of a network with a carried state."""
        denoiser, carries = self.model.denoiser, list(self.carries)
        before, state = carries[part].read(
            denoiser.initial_carry, inputs.tokens, which, len(self.rows)
        )
        out = self._pass(inputs._replace(carry=state), horizon)
        after = out.carry if temperature is None else denoiser.temper(out.carry, temperature)
        carries[part] = before.write(which, after)
        self.carries = tuple(carries)
        return out

    def _pass(self, inputs: Pass, horizon: Tensor | None) -> DenoiserOutput:
        """Run one pass over some rows; hidden and padded columns are cut or masked."""
        denoiser, length = self.model.denoiser, inputs.tokens.shape[1]
        if inputs.cache is not None:
            return runner(denoiser)(inputs)
        if horizon is not None:
            inputs = self.shapes.cut(inputs, horizon)
        if inputs.tokens.device != denoiser.device:
            inputs = inputs.to(denoiser.device)
        if inputs.attention is not None:
            if not denoiser.padding_proven:
                self.shapes.prove_padding(denoiser, inputs)
            if not denoiser.honours_padding:
                return by_span(denoiser, inputs, length)
        run, width = runner(denoiser), inputs.tokens.shape[1]
        if inputs.carry is None or width == length or not denoiser.carry_has_columns:
            return run(inputs)
        out = run(inputs._replace(carry=crop(inputs.carry, 0, width)))
        return out._replace(carry=widen(out.carry, 0, width, length))
