"""Measure the time of a step outside of the network, by sampler, beside loops written by hand.

The network is a table of logits that do not depend on the canvas, so that all the time is that of
the loop, the sampler and the draw.  Loops written in plain torch (`checkup.by_hand`), without
seeds, ragged rows or statistics, say what the least would be: LLaDA's at temperature 0, and for
each sampler the one that does what its step has to do.
"""

from __future__ import annotations

import cProfile
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from rich.table import Table
from torch import Generator, Tensor

from dlm_sampling.checkup import by_hand
from dlm_sampling.checkup.bench import cpu_name, load_average
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.wrap import wrap
from dlm_sampling.engine.sample import sample
from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.samplers import available, create
from dlm_sampling.types import NoiseKind, Process, Sampler

SETTINGS = ((1, 64), (1, 256), (16, 64), (16, 256))
"""Rows B and positions L that are measured."""

_SPREAD = 3.0  # standard deviation of the logits
_SHOWN = 25  # functions of a profile
_BESIDE = 2  # settings in one table: more do not fit in 80 columns


@dataclass(frozen=True)
class LoopRow:
    """Hold the measurement of one loop.

    Fields:
        sampler: its name, or that of a loop written by hand.
        rows: B.
        length: L.
        steps: steps of the run.
        passes: forward passes of a row in a step, the mean.
        microseconds: processor time of a step, the least over the repeats.
        ratio: over that of LLaDA's loop by hand.
        ratio_of_pass: the same for the time of a forward pass, or of a step if none had a pass.
        hand: the loop by hand that does what a step of the sampler has to do; its own name for
            such a loop.
        ratio_of_hand: the time of a forward pass over that of a step of `hand`.
    """

    sampler: str
    rows: int
    length: int
    steps: int
    passes: float
    microseconds: float
    ratio: float
    ratio_of_pass: float
    hand: str
    ratio_of_hand: float


@dataclass(frozen=True)
class HotFunction:
    """Hold a function that a profile found, with its own time, callees apart."""

    function: str
    calls: float  # in a step
    microseconds: float  # in a step; a profile slows every call down


@dataclass(frozen=True)
class LoopReport:
    """Hold the measurements of `run_bench_loop`, with settings and machine."""

    vocab: int
    steps: int
    threads: int
    repeats: int
    cpu: str
    torch: str
    load: float | None  # load average of the minute before the measurement
    loops: tuple[LoopRow, ...]
    profiles: dict[str, tuple[HotFunction, ...]]  # by sampler, at the last setting

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), indent=2)

    def tables(self) -> list[Table]:
        """Return the report as rich tables."""
        settings = list(dict.fromkeys((row.rows, row.length) for row in self.loops))
        pairs = [settings[i : i + _BESIDE] for i in range(0, len(settings), _BESIDE)]
        profiles = [_profile_table(name, found) for name, found in self.profiles.items()]
        return [*(self._table(some) for some in pairs), *profiles]

    def _table(self, settings: Sequence[tuple[int, int]]) -> Table:
        """Return the table of some settings (B, L)."""
        load = "unknown" if self.load is None else f"{self.load:.1f}"
        table = Table(
            title=f"processor time of a step outside of the network, V {self.vocab}",
            caption=(
                f"{self.cpu}, torch {self.torch}, {self.threads} thread(s), load {load}; least of "
                f"{self.repeats} runs of {self.steps} planned steps; x = over LLaDA by hand, own = "
                "a forward pass over a step of the loop by hand that does as much"
            ),
            collapse_padding=True,
        )
        table.add_column("sampler", no_wrap=True)
        table.add_column("own", no_wrap=True)
        by_name: dict[str, list[str]] = {}
        for setting in settings:
            table.add_column("B {} L {}: us".format(*setting), justify="right")
            table.add_column("x", justify="right")
            table.add_column("own", justify="right")
            for row in self.loops:
                if (row.rows, row.length) == setting:
                    shown = (
                        f"{row.microseconds:.0f}",
                        f"{row.ratio:.1f}",
                        f"{row.ratio_of_hand:.1f}",
                    )
                    by_name.setdefault(row.sampler, [row.hand.removesuffix(" by hand")]).extend(
                        shown
                    )
        for name, cells in by_name.items():
            table.add_row(name, *cells)
        return table


def _profile_table(name: str, found: tuple[HotFunction, ...]) -> Table:
    table = Table(title=f"{name}: own time of functions in a step, slowed by the profile")
    table.add_column("function", overflow="fold")
    table.add_column("calls", justify="right")
    table.add_column("us", justify="right")
    for hot in found:
        table.add_row(hot.function, f"{hot.calls:.1f}", f"{hot.microseconds:.0f}")
    return table


def run_bench_loop(
    names: Sequence[str] = (),
    settings: Sequence[tuple[int, int]] = SETTINGS,
    vocab: int = 1000,
    steps: int = 32,
    threads: int = 1,
    repeats: int = 5,
    profile: bool = False,
) -> LoopReport:
    """Measure samplers and loops by hand on the same logits, in one process, in alternation.

    Args:
        names: samplers; () for all that need no checkpoint.
        settings: pairs of rows B and positions L.
        vocab: columns of the logits.
        steps: planned steps of a run.
        threads: threads of torch.
        repeats: rounds after a warm-up round; every round runs every loop once.
        profile: also say in which functions the time of every sampler goes, at the last setting.

    Raises:
        ValueError: a number below 1, or an unknown sampler.
    """
    counts = {"vocab": (vocab, 2), "steps": (steps, 1), "threads": (threads, 1)}
    counts |= {"repeats": (repeats, 1), "rows": (min(s[0] for s in settings), 1)}
    counts |= {"length": (min(s[1] for s in settings), 1)}
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}.")
    chosen, load, before = names or tuple(available()), load_average(), torch.get_num_threads()
    torch.set_num_threads(threads)
    found: list[LoopRow] = []
    profiles: dict[str, tuple[HotFunction, ...]] = {}
    try:
        for rows, length in settings:
            loops = _loops(chosen, rows, length, vocab, steps)
            found += _measured(loops, rows, length, repeats)
            if profile and (rows, length) == settings[-1]:
                profiles = {name: profiled(loops[name]) for name in chosen}
    finally:
        torch.set_num_threads(before)
    version = str(torch.__version__)
    return LoopReport(
        vocab, steps, threads, repeats, cpu_name(), version, load, tuple(found), profiles
    )


Loop = Callable[[], tuple[int, float]]
"""Runs all steps; returns their number, and the mean number of forward passes of a row."""


def _loops(names: Sequence[str], rows: int, length: int, vocab: int, steps: int) -> dict[str, Loop]:
    """Return the loops by name, all over the same logits [B, L, V]."""
    generator = Generator().manual_seed(0)
    logits = torch.randn(rows, length, vocab, generator=generator).mul_(_SPREAD)
    loops: dict[str, Loop] = {
        name: partial(_by_hand, loop, logits, steps) for name, loop in by_hand.LOOPS.items()
    }
    denoisers: dict[NoiseKind, Denoiser] = {}
    for name in names:
        kind = kind_of(name)
        if kind not in denoisers:
            denoisers[kind] = fixed_denoiser(logits, kind)
        loops[name] = partial(_run, denoisers[kind], create(name), rows, length, steps)
    return loops


def kind_of(name: str) -> NoiseKind:
    """Return the noise that a sampler is measured under: masks where it runs on them."""
    return "absorbing" if "absorbing" in create(name).runs_on else "uniform"


def fixed_denoiser(logits: Tensor, kind: NoiseKind) -> Denoiser:
    """Return a denoiser of masks or of uniform noise that predicts these logits always."""
    vocab = logits.shape[-1]
    process: Process = Uniform() if kind == "uniform" else Absorbing(vocab - 1)

    @cache  # a sampler that shows copies of the rows gets a table of its own
    def table(rows: int) -> Tensor:
        more = rows > len(logits)
        return logits.repeat(-(-rows // len(logits)), 1, 1)[:rows] if more else logits[:rows]

    def network(ids: Tensor) -> Tensor:
        return table(len(ids))

    return wrap(
        network,
        vocab_size=vocab,
        mask_token_id=process.mask_token_id,
        process=process,
    )


def _by_hand(loop: by_hand.HandLoop, logits: Tensor, steps: int) -> tuple[int, float]:
    return loop(logits, steps)[1], 1.0


def _run(
    denoiser: Denoiser, sampler: Sampler[Any], rows: int, length: int, steps: int
) -> tuple[int, float]:
    mask = denoiser.mask_token_id
    canvas = torch.full((rows, length), 0 if mask is None else mask)
    everywhere = torch.ones(rows, length, dtype=torch.bool)
    out = sample(denoiser, sampler, canvas, everywhere, seeds=list(range(rows)), steps=steps)
    taken = int(out.steps.max())
    return taken, float(out.nfe.double().mean()) / taken


def _measured(loops: dict[str, Loop], rows: int, length: int, repeats: int) -> list[LoopRow]:
    """Return the rows of a table at one setting."""
    least: dict[str, float] = {}
    counts: dict[str, tuple[int, float]] = {}
    for turn in range(repeats + 1):
        for name, loop in loops.items():
            begun = time.process_time()
            counts[name] = loop()
            spent = (time.process_time() - begun) / counts[name][0] * 1e6
            if turn:
                least[name] = min(spent, least.get(name, spent))
    base, found = least[by_hand.LLADA], list[LoopRow]()
    for name, spent in least.items():
        hand, passes = name, max(counts[name][1], 1.0)
        if name not in by_hand.LOOPS:
            hand = by_hand.loop_like(create(name), kind_of(name))
        found.append(
            LoopRow(
                name, rows, length, *counts[name], spent, spent / base, spent / base / passes,
                hand, spent / least[hand] / passes,
            )
        )  # fmt: skip
    return found


def profiled(loop: Loop) -> tuple[HotFunction, ...]:
    """Return the functions in which a loop spends most of its own time."""
    profile = cProfile.Profile()
    profile.enable()
    steps, _ = loop()
    profile.disable()
    hot = sorted(profile.getstats(), key=lambda entry: -entry.inlinetime)[:_SHOWN]
    return tuple(
        HotFunction(_name(entry.code), entry.callcount / steps, entry.inlinetime / steps * 1e6)
        for entry in hot
    )


def _name(code: str | CodeType) -> str:
    """Return the name of a function, with its file and line: many are called `step` or `of`."""
    if isinstance(code, str):
        return code
    return f"{code.co_name} ({Path(code.co_filename).name}:{code.co_firstlineno})"
