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
from dataclasses import asdict, dataclass, field, fields, replace
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
from dlm_sampling.errors import JobMismatchError
from dlm_sampling.processes import Absorbing, Uniform
from dlm_sampling.samplers import available, create
from dlm_sampling.types import NoiseKind, Process, Sampler

SETTINGS = ((1, 64), (1, 256))
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
        ratio: over that of LLaDA's loop by hand, in the same rounds.
        ratio_of_pass: the same for the time of a forward pass, or of a step if none had a pass.
        hand: the loop by hand that does what a step of the sampler has to do; its own name for
            such a loop.
        ratio_of_hand: the time of a forward pass over that of a step of `hand`, in the same rounds.
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
    seconds: float
    cpu: str
    torch: str
    load: float | None  # load average of the minute before the measurement
    loops: tuple[LoopRow, ...] = ()
    profiles: dict[str, tuple[HotFunction, ...]] = field(  # by sampler, at the first setting
        default_factory=dict[str, tuple[HotFunction, ...]]
    )

    @classmethod
    def of(cls, record: dict[str, Any]) -> LoopReport:
        """Return the report that a record of JSON holds; it may hold more."""
        facts: dict[str, Any] = {one.name: record[one.name] for one in fields(cls)}
        rows: list[dict[str, Any]] = record["loops"]
        profiles: dict[str, list[dict[str, Any]]] = record["profiles"]
        facts["loops"] = tuple(LoopRow(**row) for row in rows)
        facts["profiles"] = {
            name: tuple(HotFunction(**one) for one in found) for name, found in profiles.items()
        }
        return cls(**facts)

    def unlike(self, other: LoopReport) -> list[str]:
        """Return the names of the settings in which another report differs, without the load."""
        facts = {one.name for one in fields(self)} - {"load", "loops", "profiles"}
        mine, others = asdict(self), asdict(other)
        return sorted(name for name in facts if mine[name] != others[name])

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
                f"{self.repeats} runs of {self.steps} planned steps, or of those in "
                f"{self.seconds:g} s; x = over LLaDA by hand, own = a forward pass over a step of "
                'the loop under "by hand", which does as much; both ran again in turns with the '
                "sampler, so that no row above has their times"
            ),
            collapse_padding=True,
        )
        table.add_column("sampler", no_wrap=True)
        table.add_column("by hand", no_wrap=True)
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


Watch = Callable[[str, LoopReport], None]
"""Is told what is measured next, and the report so far."""


def _unwatched(name: str, report: LoopReport) -> None:
    """Watch nothing."""


def run_bench_loop(
    names: Sequence[str] = (),
    settings: Sequence[tuple[int, int]] = SETTINGS,
    vocab: int = 1000,
    steps: int = 32,
    threads: int = 1,
    repeats: int = 3,
    profile: Sequence[str] = (),
    *,
    seconds: float = 1.0,
    begun: LoopReport | None = None,
    watch: Watch = _unwatched,
) -> LoopReport:
    """Measure samplers and loops by hand on the same logits, in one process.

    A sampler and the loops by hand that it is compared with take turns, so that a machine whose
    speed changes changes it for all of them.

    Args:
        names: samplers; () for all that need no checkpoint.
        settings: pairs of rows B and positions L.
        vocab: columns of the logits.
        steps: planned steps of a run.
        threads: threads of torch.
        repeats: rounds after a warm-up round.
        profile: samplers of which is also said in which functions the time goes, at the first
            setting.
        seconds: no further round of a sampler whose rounds took so much processor time; a warm-up
            of that length is a round.
        begun: the report of a run that was cut short, with what need not be measured again.
        watch: is told what is measured next, and the report so far.

    Raises:
        ValueError: a number below 1, or an unknown sampler.
        JobMismatchError: the report that was begun has other settings.
    """
    counts = {"vocab": (vocab, 2), "steps": (steps, 1), "threads": (threads, 1)}
    counts |= {"repeats": (repeats, 1), "rows": (min(s[0] for s in settings), 1)}
    counts |= {"length": (min(s[1] for s in settings), 1)}
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}.")
    if not seconds > 0.0:
        raise ValueError(f"seconds={seconds}: must be above 0; inf takes all the rounds.")
    report = LoopReport(
        vocab, steps, threads, repeats, seconds, cpu_name(), str(torch.__version__), load_average()
    )
    if begun is not None:
        if other := report.unlike(begun):
            raise JobMismatchError(
                f"begun: it was measured with other {' and '.join(other)}; give the old values, or "
                "measure all again (another --out)."
            )
        report = replace(report, loops=begun.loops, profiles=begun.profiles)
    chosen = names or tuple(available())
    done = {(row.sampler, row.rows, row.length) for row in report.loops}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows, length in settings:
            loops = _loops(chosen, rows, length, vocab, steps)
            for name in loops:
                if (name, rows, length) not in done:
                    watch(name, report)
                    row = measured(name, loops, rows, length, repeats, seconds)
                    report = replace(report, loops=(*report.loops, row))
        loops = _loops(profile, *settings[0], vocab, steps)
        for name in profile:
            if name not in report.profiles:
                watch(f"profile of {name}", report)
                found = {name: profiled(loops[name])}
                report = replace(report, profiles=report.profiles | found)
    finally:
        torch.set_num_threads(before)
    return report


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


def measured(
    name: str, loops: dict[str, Loop], rows: int, length: int, repeats: int, seconds: float
) -> LoopRow:
    """Return the row of one loop, measured in turns with those by hand; see `run_bench_loop`."""
    hand = name if name in by_hand.LOOPS else by_hand.loop_like(create(name), kind_of(name))
    counts: dict[str, tuple[int, float]] = {}
    rounds: list[dict[str, float]] = []
    spent = 0.0
    while len(rounds) <= repeats and spent < seconds:
        times: dict[str, float] = {}
        for one in dict.fromkeys((by_hand.LLADA, hand, name)):
            begun = time.process_time()
            counts[one] = loops[one]()
            times[one] = time.process_time() - begun
        spent += times[name]
        rounds.append({one: times[one] / counts[one][0] * 1e6 for one in times})
    least = {one: min(turn[one] for turn in rounds[1:] or rounds) for one in rounds[0]}
    micro, passes = least[name], max(counts[name][1], 1.0)
    base, own = micro / least[by_hand.LLADA], micro / least[hand] / passes
    return LoopRow(
        name, rows, length, *counts[name], micro, base, base / passes, hand, own
    )  # fmt: skip


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
