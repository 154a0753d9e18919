"""Run the rounds of learning, and resume a run that was killed."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.learn.block_loop import BlockLoop
from dlm_sampling.learn.fits import FITS, Fit
from dlm_sampling.learn.settings import Learning
from dlm_sampling.learn.targets import DIVERGENCES, TARGETS, Solvers, Sums
from dlm_sampling.samplers.lsd.learned_steps import LearnedSteps
from dlm_sampling.samplers.lsd.solvers import Learned

Times = tuple[float, ...]


@dataclass
class LearningRun:
    """Run the rounds of one learning run.

    Fields:
        denoiser: the model.
        solver: the solver, without learned numbers.
        how: the settings.
        number: intervals M of the student's grid.
        settings: all that the numbers depend on, for the state file.
        state: the state file, or None.
        times: times of the student's grid.
        done: rounds that are done.
        nfe: forward passes of a row so far.
    """

    denoiser: Denoiser
    solver: Learned
    how: Learning
    number: int
    settings: dict[str, Any]
    state: Path | None
    times: Times = ()
    done: int = 0
    nfe: int = 0

    def run(self, progress: bool | None) -> tuple[tuple[float, ...], Times, int]:
        """Run all rounds; return coefficients, times, and forward passes of a row."""
        from tqdm import tqdm

        how = self.how
        self.times = self.equal_times()
        total = how.rounds * (2 if how.times else 1)
        fit = self.resume()
        with tqdm(
            desc=f"{how.steps} steps",
            total=total,
            initial=self.done,
            unit="round",
            disable=None if progress is None else not progress,
        ) as bar:
            while self.done < total:
                fit = fit.after(self.collect(fit))
                self.done += 1
                if how.times and self.done == how.rounds:
                    self.times = later_times(self.times, fit.phi, self.solver.t_end)
                    fit = self.fresh()
                self.store(fit)
                bar.set_postfix_str(f"phi {float(fit.phi.min()):.2f}-{float(fit.phi.max()):.2f}")
                bar.update()
        if self.state is not None:
            self.state.unlink(missing_ok=True)
        phi = tuple(float(value) for value in fit.phi)
        return phi, self.times, self.nfe

    def equal_times(self) -> Times:
        """Return the solver's own grid."""
        points, number = torch.arange(self.number + 1), torch.tensor(self.number)
        return tuple(float(t) for t in self.solver.time_at(points, number))

    def fresh(self) -> Fit:
        """Return a fit before its first round."""
        how, solver = self.how, self.solver
        finer = self.finer if how.target == "interval" else 1
        rule = FITS[how.fit]
        return rule(self.number, finer, solver.linear, how.divergence, how.learning_rate)

    @property
    def finer(self) -> int:
        """Return how many intervals of the teacher lie in one of the student's."""
        return self.how.teacher_steps // self.how.steps

    def collect(self, fit: Fit) -> Sums:
        """Return the sums of one round of rows."""
        how, kind = self.how, self.solver
        seeds = ops.row_seeds(how.seed, (self.done + 1) * how.rows)[-how.rows :]
        with torch.no_grad():
            loop = BlockLoop.begin(self.denoiser, kind, how.length, seeds)
            phi = tuple(float(value) for value in fit.phi)
            solvers = Solvers(
                student=replace(kind, learned=LearnedSteps(phi, self.times)),
                plain=replace(kind, learned=LearnedSteps(None, self.times)),
                teacher=replace(kind, learned=LearnedSteps(None, refined(self.times, self.finer))),
                intervals=self.number,
                finer=self.finer,
            )
            sums = TARGETS[how.target](loop, solvers, DIVERGENCES[how.divergence])
        self.nfe += round(float(loop.nfe.double().mean()))
        return sums

    def store(self, fit: Fit) -> None:
        """Write the state that the next round needs, in one piece."""
        if self.state is None:
            return
        record = {
            "settings": self.settings,
            "done": self.done,
            "nfe": self.nfe,
            "times": self.times,
            "fit": fit.to_dict(),
        }
        draft = self.state.with_name(f".{self.state.name}.{os.getpid()}.partial")
        draft.write_text(json.dumps(record), encoding="utf-8")
        draft.replace(self.state)

    def resume(self) -> Fit:
        """Return the fit to go on with, and the rest of the state."""
        fit = self.fresh()
        if self.state is None or not self.state.exists():
            return fit
        record = json.loads(self.state.read_text(encoding="utf-8"))
        settings = json.loads(json.dumps(self.settings))
        for name, value in settings.items():
            if record["settings"].get(name) != value:
                raise ValueError(
                    f"{self.state}: its {name} was {record['settings'].get(name)} and is now "
                    f"{value}; use the old one, another file, or delete this one to begin again."
                )
        self.done, self.nfe, self.times = record["done"], record["nfe"], tuple(record["times"])
        return fit.read(record["fit"])


def refined(times: Times, finer: int) -> Times:
    """Cut every interval into equal parts; the given times stay as they are."""
    points = [t + (s - t) * j / finer for t, s in itertools.pairwise(times) for j in range(finer)]
    return (*points, times[-1])


def later_times(times: Times, phi: Tensor, t_end: float) -> Times:
    """Return the times of LSD+ from the learned lengths kappa_k = phi_k (t_k - t_{k+1})."""
    lengths = -torch.tensor(times, dtype=torch.float64).diff()
    kappa = (phi * lengths).clamp_min(0.0)
    kappa = kappa * (lengths.sum() / kappa.sum().clamp_min(1e-12)).clamp(max=1.0)
    later = (times[0] - kappa.cumsum(0)).clamp_min(t_end)
    return (times[0], *(float(t) for t in later))
