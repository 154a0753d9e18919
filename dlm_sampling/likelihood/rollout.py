"""Store a run compactly, for training loops: every change of a position, and no canvas.

    z_k = z_0 with all changes of the steps before k        the canvas that step k saw

Wang et al. 2025, "Revolutionizing Reinforcement Learning Framework for Diffusion Large Language
Models", arXiv:2509.06949 (TraceRL), whose step map this generalises: a position may change more
than once, by remasking, correction or noise without a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from dlm_sampling import samplers
from dlm_sampling.engine.blocks import plan_blocks
from dlm_sampling.engine.output import RunOutput
from dlm_sampling.engine.request import Request
from dlm_sampling.engine.trajectory import StepEvent, Trajectory
from dlm_sampling.errors import named
from dlm_sampling.likelihood.records import (
    attention_of,
    chosen_rows,
    differences,
    trajectory_of,
)
from dlm_sampling.likelihood.rollout_files import RolloutFile, read, write
from dlm_sampling.likelihood.tables import (
    Recorder,
    RolloutRows,
    Steps,
    Writes,
    in_order,
    last_change,
    rank_in_row,
    rebuilt_events,
    rows_of,
)
from dlm_sampling.types import Drawn, TokenLaw
from dlm_sampling.types.rows import map_rows, select_rows
from dlm_sampling.types.values import distinct, ints


@dataclass(frozen=True)
class Rollout:
    """Hold the steps of a run: about 27 bytes per change and 45 per step, and no canvas.

    Text behind an end-of-text is kept, because the model saw it.

    Fields:
        rows: canvases before and after the run, one per row; their fields are also those of the
            rollout (`rollout.tokens`).
        seeds: one per row.
        steps: the steps of all rows, in order.
        writes: the changes of all rows, in order.
        request: the settings of the run: sampler and its fields, law, blocks, guidance.
        masked: whether the noise is masks.
        model: which weights drew it, such as the digest that `generate` notes; "" if not known.
    """

    rows: RolloutRows
    seeds: tuple[int, ...]
    steps: Steps
    writes: Writes
    request: Request
    masked: bool = True
    model: str = ""

    @classmethod
    def from_output(
        cls, output: RunOutput, seeds: Sequence[int] | None = None, *, model: str = ""
    ) -> Rollout:
        """Make the rollout of a run that kept its trajectory.

        Args:
            output: of `generate` or `sample`, called with return_trajectory=True.
            seeds: labels of the rows in place of the seeds of the run, one per row; the positions
                of samplers that choose them at random follow from the seeds of the run.
            model: which weights drew it.

        Raises:
            ValueError: there is no trajectory, it does not tell the settings of the run, or
                `seeds` has another length.
        """
        run = trajectory_of(output)
        rollout = cls.of_trajectory(run, output.tokens, output.nfe, model)
        return rollout if seeds is None else rollout.with_seeds(seeds)

    @classmethod
    def of_trajectory(
        cls,
        run: Trajectory,
        tokens: Tensor | None = None,
        nfe: Tensor | None = None,
        model: str = "",
    ) -> Rollout:
        """Make the rollout of a trajectory; without `tokens` and `nfe` they are those of its end.

        Raises:
            ValueError: the trajectory does not tell the settings of the run.
        """
        run = run.paths()
        recorder = Recorder(run.editable, masked=run.masked, unknown=run.unknown)
        for event in run.events:
            recorder(event)
        nfe = torch.zeros_like(run.initial[:, 0]) if nfe is None else nfe
        return cls.of_recorder(recorder, run, run.initial if tokens is None else tokens, nfe, model)

    @classmethod
    def of_recorder(
        cls, recorder: Recorder, run: Trajectory, tokens: Tensor, nfe: Tensor, model: str = ""
    ) -> Rollout:
        """Make the rollout of the steps that a recorder heard.

        Args:
            recorder: heard every step.
            run: rows and settings of the run; its events are not read.
            tokens: int64 [B, L], the finished canvases.
            nfe: int64 [B], forward passes of the run.
            model: which weights drew it.

        Raises:
            ValueError: the trajectory does not tell the settings of the run.
        """
        if run.request is None:
            raise ValueError(
                f"run (sampled by {run.sampler}) is a trajectory that does not tell the settings "
                "of its run: pass the output of `generate` or `sample`."
            )
        device = tokens.device

        def here(x: Tensor) -> Tensor:
            return x.to(device)

        heard, changes = recorder.tables()
        steps, writes = map_rows(here, heard), map_rows(here, changes)
        initial = recorder.initial(tokens)
        final = last_change(initial, writes, writes.token.long(), keep=initial)
        final = torch.where(recorder.unknown.to(device), tokens, final)
        attention, editable = attention_of(run).to(device), run.editable.to(device)
        return cls(
            rows=RolloutRows(
                final, initial, attention, editable, recorder.begun.to(device), nfe.to(device)
            ),
            seeds=run.seeds,
            steps=steps,
            writes=writes,
            request=replace(run.request, return_trajectory=False),
            masked=run.masked,
            model=model,
        )

    @classmethod
    def of_steps(
        cls,
        tokens: Tensor,
        step_index: Tensor,
        *,
        mask_token_id: int,
        attention_mask: Tensor | None = None,
        logprob: Tensor | None = None,
        argmax: Tensor | None = None,
        seeds: Sequence[int] = (),
        law: TokenLaw | None = None,
    ) -> Rollout:
        """Make the rollout of a step map: each position was written once, from a mask.

        Args:
            tokens: int64 [B, L].
            step_index: int [B, L], number of the step that wrote the token; -1 at fixed positions.
            mask_token_id: the mask.
            attention_mask: bool [B, L], False at padding; None: no padding.
            logprob: [B, L], log-probability of each token as it was drawn; None: 0.
            argmax: bool [B, L], tokens that were taken as the argmax; None: none.
            seeds: labels of the rows; default their numbers.
            law: the law that the tokens were drawn from; None is the model's own.
        """
        written = step_index >= 0
        row, column = written.nonzero(as_tuple=True)
        number, drawn = step_index[written].int(), tokens.new_zeros(tokens.shape).float()
        drawn = drawn if logprob is None else logprob
        greedy = torch.zeros_like(written) if argmax is None else argmax
        how = torch.where(greedy[written], int(Drawn.ARGMAX), int(Drawn.FROM_LAW)).to(torch.int8)
        unknown = torch.zeros_like(row, dtype=torch.bool)
        writes = [row.int(), number, column.int(), tokens[written].int(), unknown, how]
        keys, place = distinct(number.long() * len(tokens) + row)
        at, owner = (keys // len(tokens)).int(), (keys % len(tokens)).int()
        sums = drawn.new_zeros(len(at)).index_add(0, place, drawn[written])
        nothing, time = (
            torch.zeros_like(owner),
            torch.full_like(owner, torch.nan, dtype=torch.float64),
        )
        counted = torch.ones_like(owner, dtype=torch.bool)
        steps = Steps(owner, at, nothing, nothing, at, time, sums, counted)
        attention = torch.ones_like(written) if attention_mask is None else attention_mask.bool()
        initial = tokens.masked_fill(written, mask_token_id)
        nfe = torch.bincount(owner, minlength=len(tokens))
        return cls(
            rows=RolloutRows(tokens, initial, attention, written, written, nfe),
            seeds=tuple(seeds) or tuple(range(len(tokens))),
            steps=steps,
            writes=Writes(*in_order([*writes, drawn[written]])),
            request=Request(samplers.LLaDA(), law=TokenLaw() if law is None else law),
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.tokens)

    @property
    def tokens(self) -> Tensor:
        """Return the canvas as the last step left it, int64 [B, L]."""
        return self.rows.tokens

    @property
    def initial(self) -> Tensor:
        """Return the canvas before the first step, int64 [B, L]."""
        return self.rows.initial

    @property
    def attention_mask(self) -> Tensor:
        """Return False at padding, bool [B, L]."""
        return self.rows.attention_mask

    @property
    def editable(self) -> Tensor:
        """Return the positions that the run could write, bool [B, L]."""
        return self.rows.editable

    @property
    def nfe(self) -> Tensor:
        """Return the forward passes of the run, int64 [B]."""
        return self.rows.nfe

    @property
    def step_index(self) -> Tensor:
        """Return the loop step that wrote each token last, int32 [B, L]; -1 where none did."""
        return last_change(self.tokens, self.writes, self.writes.iteration, keep=-1).int()

    @property
    def logprob(self) -> Tensor:
        """Return the log-probability of each token when it was last written, [B, L], else 0."""
        return last_change(self.tokens, self.writes, self.writes.logprob, keep=0)

    @property
    def argmax(self) -> Tensor:
        """Return the tokens taken as the argmax whatever the temperature, bool [B, L]."""
        return last_change(self.tokens, self.writes, self.writes.how == Drawn.ARGMAX, keep=False)

    @property
    def step_logprob(self) -> Tensor:
        """Return the log-probability of all tokens that the k-th counted step drew, [B, S]."""
        counted = self.steps.counted
        row, value = self.steps.row[counted].long(), self.steps.logprob[counted]
        number = rank_in_row(row, len(self))
        width = int((number + 1).max()) if len(number) else 0
        return value.new_zeros(len(self), width).index_put((row, number), value)

    @property
    def total(self) -> Tensor:
        """Return the log-probability of all drawn tokens, given their positions, [B]."""
        zero = self.steps.logprob.new_zeros(len(self))
        return zero.index_add(0, self.steps.row.long(), self.steps.logprob)

    @property
    def header(self) -> Trajectory:
        """Return what all steps share, as a trajectory without events."""
        return Trajectory(
            initial=self.initial,
            editable=self.editable,
            attention_mask=self.attention_mask,
            sampler=type(self.request.sampler).__name__,
            masked=self.masked,
            unknown=self.rows.unknown,
            request=self.request,
            seeds=self.seeds,
        )

    def events(self) -> Iterator[StepEvent]:
        """Yield the steps in order; see `tables.rebuilt_events`."""
        stops = self._block_stops() if self.request.blocks.causal else None
        return rebuilt_events(self.initial, self.rows.unknown, self.steps, self.writes, stops)

    def _block_stops(self) -> Tensor:
        """Return the first column behind every block, int64 [B, K]."""
        blocks = self.request.blocks
        origin = self.attention_mask.long().argmax(1) if blocks.align else None
        return plan_blocks(
            self.editable, blocks.length, blocks.steps, origin=origin,
            steps_per_block=blocks.steps_per_block,
        ).stop  # fmt: skip

    def select(self, rows: Tensor | Sequence[int]) -> Rollout:
        """Return some rows: those of a bool mask [B], or of numbers [n] in the given order."""
        at = chosen_rows(rows, len(self)).to(self.tokens.device)
        return replace(
            self,
            rows=select_rows(self.rows, at),
            seeds=tuple(self.seeds[i] for i in ints(at)),
            steps=Steps(*rows_of(self.steps, at, len(self))),
            writes=Writes(*rows_of(self.writes, at, len(self))),
        )

    def shuffle(self, seed: int) -> tuple[Rollout, Tensor]:
        """Return the rows in a random order, and that order (int64 [B], on the CPU)."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.select(order), order

    def with_seeds(self, seeds: Sequence[int]) -> Rollout:
        """Return the rollout with other labels of its rows, one per row."""
        if len(seeds) != len(self):
            raise ValueError(
                f"seeds has {len(seeds)} entries for {len(self)} rows: give one per row."
            )
        return replace(self, seeds=tuple(seeds))

    def to(self, device: torch.device | str) -> Rollout:
        """Return the rollout on a device."""

        def moved(x: Tensor) -> Tensor:
            return x.to(device)

        return replace(
            self,
            rows=map_rows(moved, self.rows),
            steps=map_rows(moved, self.steps),
            writes=map_rows(moved, self.writes),
        )

    @staticmethod
    def cat(rollouts: Sequence[Rollout]) -> Rollout:
        """Join rollouts of the same settings; narrower ones are padded on the left.

        Raises:
            TypeError: one is no rollout.
            ValueError: there is none, or their settings differ.
        """
        if not rollouts:
            raise ValueError("rollouts is empty: give at least one.")
        for run in rollouts:
            if not isinstance(run, Rollout):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"rollouts holds {named(run)}: must be Rollout objects only.")
        return reduce(Rollout.joined, rollouts)

    def joined(self, other: Rollout) -> Rollout:
        """Return the rows of this rollout and then those of another; see `cat`."""
        unlike = differences(self.request, other.request)
        unlike += differences(self.masked, other.masked, "masked")
        if unlike:
            raise ValueError(f"rollouts differ in {'; '.join(unlike)}: join runs of one setting.")
        width = max(self.tokens.shape[1], other.tokens.shape[1])
        steps = other.steps._replace(row=other.steps.row + len(self))
        moved = other._written(width)
        writes = moved._replace(row=moved.row + len(self))

        def both(one: Tensor, two: Tensor) -> Tensor:
            return torch.cat([one, two])

        return replace(
            self,
            rows=map_rows(both, self.rows.padded(width), other.rows.padded(width)),
            seeds=(*self.seeds, *other.seeds),
            steps=Steps(*in_order(list(map_rows(both, self.steps, steps)))),
            writes=Writes(*in_order(list(map_rows(both, self._written(width), writes)))),
            model=self.model if self.model == other.model else "",
        )

    def _written(self, width: int) -> Writes:
        """Return the changes with their columns counted in canvases of a width."""
        missing = width - self.tokens.shape[1]
        return self.writes._replace(position=self.writes.position + missing)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; `load` reads it.

        Raises:
            TypeError: the sampler has a parameter that is no value, such as a planner's network.
        """
        facts = {"seeds": self.seeds, "masked": self.masked, "model": self.model}
        write(RolloutFile(self.rows._asdict(), self.steps, self.writes, self.request, facts), path)

    @classmethod
    def load(cls, path: str | Path) -> Rollout:
        """Read what `save` wrote, on the CPU.

        Raises:
            ValueError: the file is no rollout, or of another version.
        """
        file = read(path)
        seeds, masked, model = (file.facts[name] for name in ("seeds", "masked", "model"))
        return cls(
            rows=RolloutRows(**file.rows), seeds=tuple(seeds), steps=file.steps, writes=file.writes,
            request=file.request, masked=masked, model=model,
        )  # fmt: skip
