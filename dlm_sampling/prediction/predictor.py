"""Between a sampler and a denoiser: lazy predictions, padding, guidance, state, and the NFE count.

`Predictor` is the only mutable object of a run.  A sampler calls it with a canvas and gets a
`LazyPrediction`; the forward pass runs when a draw is asked for, over the rows that need it, and
each row is charged for its own forwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser, no_step_length
from dlm_sampling.denoisers.planner import planner_network
from dlm_sampling.prediction.carry import Carry, crop, put, take, widen
from dlm_sampling.prediction.lazy import LazyPrediction
from dlm_sampling.schedules import Schedule
from dlm_sampling.types import DenoiserOutput, Pass, Planner, Process, TokenLaw


@dataclass
class Predictor:
    """Predicts clean tokens for the active rows of a canvas.

    Fields:
        denoiser: the model.
        law: how tokens are drawn; the mask id is already among its suppressed ids.
        attention: bool [A, L], False at padding, for the active rows.
        rows: int64 [A], index of each active row in the whole batch.
        nfe: int64 [B], forward passes per row of the whole batch; a guided pass counts 2.
        guidance_scale: w in  u + (w + 1) (c - u); 0 is the conditional model alone.
        given: bool [A, L], tokens that the unconditional pass of guidance does not see.
        eager: run the forward at once and for every row, as the released loops do; so do models
            that carry a state, which has to advance in every step.
        schedule: alpha(t) of the sampler's times, or None; a time-conditioned model with another
            schedule is told the time at which it has the same alpha.
        horizon: int64 [A], first column that the model does not see, or None; block-causal
            decoding.
    """

    denoiser: Denoiser
    law: TokenLaw
    attention: Tensor
    rows: Tensor
    nfe: Tensor
    given: Tensor
    guidance_scale: float = 0.0
    eager: bool = False
    schedule: Schedule | None = None
    horizon: Tensor | None = None
    padded: bool = field(init=False)
    told: Tensor = field(init=False)
    """float64 [B], the time in each row's latest pass, for time-conditioned models; else NaN."""
    carries: list[Carry] = field(init=False)

    def __post_init__(self) -> None:
        self.padded = not bool(self.attention.all())
        self.told = torch.full_like(self.nfe, torch.nan, dtype=torch.float64)
        self.eager = self.eager or self.denoiser.carries
        passes = 2 if self.guidance_scale != 0.0 else 1
        self.carries = [
            Carry(self.denoiser.initial_carry) for _ in range(passes * self.denoiser.carries)
        ]

    @property
    def process(self) -> Process:
        """The noise that the denoiser was trained on."""
        return self.denoiser.process

    @property
    def vocab_size(self) -> int:
        """Columns of the predictions."""
        return self.denoiser.vocab_size

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        temperature: Tensor | None = None,
        *,
        dt: Tensor | None = None,
    ) -> LazyPrediction:
        """Predict the clean tokens of x [A, L] at time t [A]; at most one forward pass per row."""
        prediction = LazyPrediction(self, x, t, temperature, dt)
        if self.eager:
            prediction.evaluate(torch.ones(len(x), dtype=torch.bool, device=x.device))
        return prediction

    def using(self, denoiser: Callable[..., DenoiserOutput]) -> Predictor:
        """The active rows under another denoiser: no guidance, not eager, the same NFE count."""
        if not isinstance(denoiser, Denoiser):
            raise TypeError(
                f"planner is a {type(denoiser).__name__}: must be a Denoiser; try wrap(...)."
            )
        return replace(self, denoiser=denoiser, guidance_scale=0.0, eager=False)

    def repeated(self, n: int) -> Predictor:
        """Each active row n times over, row after row; every copy counts its own passes.

        Raises:
            ValueError: the denoiser carries a state, which has one past, not n.
        """
        if self.denoiser.carries:
            raise ValueError(
                f"denoiser ({self.denoiser.family}) carries a state from one pass to the next: "
                "steps cannot run at the same time. Use a sequential sampler."
            )

        def each(value: Tensor) -> Tensor:
            return value.repeat_interleave(n, 0)

        return replace(
            self,
            attention=each(self.attention),
            rows=each(self.rows),
            given=each(self.given),
            horizon=None if self.horizon is None else each(self.horizon),
        )

    def plan(self, planner: Planner | str | Path, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """The logits of a planner at x [A, L], float64, 0 but in `rows` (bool [A])."""
        active = rows.nonzero().squeeze(1)
        values = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        if len(active):
            network = planner_network(planner, self.denoiser)
            output, _ = self.using(network).forward(x, t, active)
            values[active] = output.values.squeeze(-1).to(values)
        return values

    def reset(self, rows: Tensor) -> None:
        """Forget the state that the denoiser carries, for rows (bool [A]) that enter a block."""
        for carry in self.carries:
            carry.reset(rows)

    def select(self, keep: Tensor) -> None:
        """Drop the rows that are not in `keep` (bool [A]), or reorder and repeat (int64)."""
        for carry in self.carries:
            carry.select(keep)
        self.attention, self.rows, self.given = (
            self.attention[keep],
            self.rows[keep],
            self.given[keep],
        )
        self.padded = not bool(self.attention.all())

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        active: Tensor,
        temperature: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[DenoiserOutput, DenoiserOutput | None]:
        """Run the denoiser on the rows `active` (int64 [n]), with guidance twice.

        The values come as the network gives them; temperature [A] acts on the carried state; dt [A]
        is the length of the step on the sampler's schedule.
        """
        if dt is None and self.denoiser.step_conditioned:
            raise no_step_length(dt, len(active))
        guided = self.guidance_scale != 0.0
        self.charge(active, 2 if guided else 1)
        temperatures = None if temperature is None else temperature[active]
        time = self.model_time(t)
        if self.denoiser.time_conditioned:
            self.told[self.rows[active]] = time[active]
        length = None if dt is None else (time - self.model_time(t - dt))[active]
        canvas = PassRows(
            x[active], time[active], self.attention[active], active, temperatures, length
        )
        conditional = self._run(canvas, 0)
        if not guided:
            return conditional, None
        blank = canvas.x.masked_fill(self.given[active], self.mask_token_id)
        return conditional, self._run(canvas._replace(x=blank), 1)

    def charge(self, active: Tensor, passes: int) -> None:
        """Count forward passes of the rows `active` (int64 [n])."""
        self.nfe.index_add_(0, self.rows[active], torch.full_like(active, passes))

    @property
    def mask_token_id(self) -> int:
        """The denoiser's mask id; the loop has checked that guidance has one."""
        assert self.denoiser.mask_token_id is not None
        return self.denoiser.mask_token_id

    def model_time(self, t: Tensor) -> Tensor:
        """The time, on the denoiser's own schedule, of the level that the sampler has at t."""
        own = self.denoiser.schedule
        if own is None or self.schedule is None or own == self.schedule:
            return t
        return own.time_of(self.schedule.alpha(t))

    def _run(self, rows: PassRows, part: int) -> DenoiserOutput:
        """One pass over some rows, whole canvases in and out; `part` 1 is the unconditional one."""
        if not self.carries:
            return self._cropped(rows, None)
        carry = self.carries[part]
        out = self._cropped(rows, carry.read(rows.x, rows.which, len(self.rows)))
        temperatures, after = rows.temperature, out.carry
        carry.write(
            rows.which, after if temperatures is None else self.denoiser.temper(after, temperatures)
        )
        return out

    def _cropped(self, rows: PassRows, carry: Any) -> DenoiserOutput:
        """Without the columns right of the horizon."""
        if self.horizon is None:
            return self._padded(rows, carry, self.padded)
        seen, length = self.horizon[rows.which], rows.x.shape[1]
        width = int(seen.max())
        attention = rows.attention[:, :width] & (
            torch.arange(width, device=seen.device) < seen.unsqueeze(1)
        )
        shorter = rows._replace(x=rows.x[:, :width], attention=attention)
        carry = carry if carry is None else crop(carry, 0, width, length)
        return _widen(self._padded(shorter, carry, not bool(attention.all())), 0, length)

    def _padded(self, rows: PassRows, carry: Any, padded: bool) -> DenoiserOutput:
        if padded and not self.denoiser.honours_padding:
            return self._unpadded(rows, carry)
        seen = rows.attention if padded else None
        inputs = Pass(rows.x, rows.t, seen, rows.dt, carry, self.rows[rows.which])
        return _all_columns(self.denoiser.forward(inputs.to(self.denoiser.device)), inputs)

    def _unpadded(self, rows: PassRows, carry: Any) -> DenoiserOutput:
        """Group rows by their span of real tokens: a model that ignores padding never sees it."""
        first, length = rows.attention.long().argmax(1), rows.x.shape[1]
        spans = torch.stack([first, first + rows.attention.sum(1)], 1)
        values: Tensor | None = None
        head: Callable[[Tensor], Tensor] | None = None
        for start, stop in cast("list[tuple[int, int]]", spans.unique(dim=0).tolist()):
            group = ((spans[:, 0] == start) & (spans[:, 1] == stop)).nonzero().squeeze(1)
            before = None if carry is None else crop(take(carry, group), start, stop, length)
            dt = None if rows.dt is None else rows.dt[group]
            which = self.rows[rows.which[group]]
            x, t = rows.x[group, start:stop], rows.t[group]
            inputs = Pass(x, t, None, dt, before, which)
            out = self.denoiser.forward(inputs.to(self.denoiser.device))
            out = _widen(_all_columns(out, inputs), start, length)
            if values is None:
                values = out.values.new_zeros(len(rows.x), *out.values.shape[1:])
            values[group] = out.values
            carry = carry if carry is None else put(carry, group, out.carry)
            head = out.head
        assert values is not None
        return DenoiserOutput(values, head, carry)


def full_law(law: TokenLaw, denoiser: Denoiser, *, suppress_mask: bool = True) -> TokenLaw:
    """The law with all that a denoiser never writes among its suppressed ids."""
    banned = {*law.suppressed, *denoiser.suppressed}
    if suppress_mask and denoiser.mask_token_id is not None:
        banned.add(denoiser.mask_token_id)
    return replace(law, suppressed=tuple(sorted(banned)))


class PassRows(NamedTuple):
    """Canvases of one pass."""

    x: Tensor  # int64 [n, L]
    t: Tensor  # float64 [n]
    attention: Tensor  # bool [n, L]
    which: Tensor  # int64 [n], which of the active rows they are
    temperature: Tensor | None  # float64 [n]
    dt: Tensor | None  # float64 [n], length of the step on the model's schedule


def _all_columns(output: DenoiserOutput, inputs: Pass) -> DenoiserOutput:
    """Zero values for the columns that the denoiser does not predict; nothing is drawn there."""
    if output.columns is None:
        return output
    values = output.values
    whole = values.new_zeros(*inputs.tokens.shape, values.shape[-1])
    index = output.columns.unsqueeze(-1).expand_as(values)
    return output._replace(values=whole.scatter(1, index, values), columns=None)


def _widen(output: DenoiserOutput, start: int, length: int) -> DenoiserOutput:
    """Zero values for the columns that the model did not see; nothing is ever drawn there."""
    stop = start + output.values.shape[1]
    carry = output.carry if output.carry is None else widen(output.carry, start, stop, length)
    values = torch.nn.functional.pad(output.values, (0, 0, start, length - stop))
    return output._replace(values=values, carry=carry)
