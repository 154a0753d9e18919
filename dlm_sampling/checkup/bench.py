"""Measure the sampling arithmetic of this library beside that of published samplers.

Every method gets the same logits and returns a token and its probability per row.  Forward passes
of a model are not measured.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from rich.table import Table
from torch import Generator, Tensor

from dlm_sampling import ops
from dlm_sampling.checkup.bench_laws import DTYPES, FUSED, LawRow, Method, fused, measure_laws
from dlm_sampling.types import TokenLaw

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SPREAD = 3.0  # standard deviation of the logits
_LAW_ROWS = 16  # rows of the table of laws
_MEGABYTE = 1e6


@dataclass(frozen=True)
class BenchRow:
    """Hold the measurement of one method.

    Fields:
        method: name of the method.
        milliseconds: median wall time of a call.
        cpu_milliseconds: median CPU time of a call, summed over threads; the fairer figure on a
            shared machine.
        ratio: wall time of LLaDA's arithmetic over this one's.
        cpu_ratio: the same in CPU time.
        peak_megabytes: extra peak memory of a call, 10^6 bytes; None where it cannot be read.
    """

    method: str
    milliseconds: float
    cpu_milliseconds: float
    ratio: float
    cpu_ratio: float
    peak_megabytes: float | None


@dataclass(frozen=True)
class BenchReport:
    """Hold the measurements of `run_bench`, with settings and machine."""

    rows: int
    vocab: int
    dtype: str
    temperature: float
    threads: int
    repeats: int
    cpu: str
    torch: str
    load: float | None  # load average of the minute before the measurement
    methods: tuple[BenchRow, ...]
    laws: tuple[LawRow, ...]  # of both dtypes, on `law_rows` rows
    law_rows: int

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), indent=2)

    def table(self) -> Table:
        """Return the report as a rich table."""
        title = f"[{self.rows}, {self.vocab}] {self.dtype}, temperature {self.temperature:g}"
        load = "unknown" if self.load is None else f"{self.load:.1f}"
        caption = (
            f"{self.cpu}, torch {self.torch}, {self.threads} thread(s), load {load}; "
            f"median of {self.repeats}; x = times faster than LLaDA's arithmetic"
        )
        table = Table(title=title, caption=caption)
        table.add_column("method")
        for name in ("ms", "x", "CPU ms", "x (CPU)", "peak MB"):
            table.add_column(name, justify="right")
        for row in self.methods:
            peak = "-" if row.peak_megabytes is None else f"{row.peak_megabytes:.1f}"
            times = (f"{row.milliseconds:.1f}", f"{row.ratio:.1f}")
            cpu_times = (f"{row.cpu_milliseconds:.1f}", f"{row.cpu_ratio:.1f}")
            table.add_row(row.method, *times, *cpu_times, peak)
        return table

    def law_tables(self) -> list[Table]:
        """Return the draws under each law as rich tables, one per dtype."""
        tables: list[Table] = []
        for dtype in DTYPES:
            table = Table(
                title=f"a draw by token law, [{self.law_rows}, {self.vocab}] {dtype}",
                caption="reads = over one read of the logits; plain = over dlm_sampling at "
                "temperature 1",
            )
            table.add_column("law")
            table.add_column("by")
            for name in ("CPU ms", "reads", "plain"):
                table.add_column(name, justify="right")
            for row in self.laws:
                if row.dtype == dtype:
                    times = f"{row.cpu_milliseconds:.2f}", f"{row.reads:.1f}", f"{row.of_plain:.1f}"
                    table.add_row(row.law, row.by, *times)
            tables.append(table)
        return tables


def run_bench(
    rows: int = 256,
    vocab: int = 126464,
    dtype: str = "float32",
    temperature: float = 1.0,
    threads: int = 1,
    repeats: int = 5,
    memory: bool = True,
    *,
    compiled: bool = False,
) -> BenchReport:
    """Measure `ops.draw` and three published ways to sample, in one process, in alternation.

    Then draws under each token law, as the steps of a run make them, in both common dtypes.

    Times are medians over `repeats` rounds after a warm-up round; every round runs every method
    once.  Peak memory is the growth of the peak resident set over one call, in a fresh process per
    method, after the logits exist and a small call has loaded the libraries.

    Args:
        rows: positions to sample.
        vocab: columns of the logits.
        dtype: "float32", "bfloat16" or "float16".
        temperature: >= 0; at 0 only the methods that have a greedy form are measured.
        threads: threads of torch.
        repeats: rounds.
        memory: measure peak memory too.
        compiled: measure the compiled pass of `ops.fused_cpu` too, which is compiled first.

    Raises:
        ValueError: a number below 1, a negative temperature, or an unknown dtype.
    """
    _check(rows, vocab, dtype, temperature, threads, repeats)
    methods = {
        name: method
        for name, method in (EVERY if compiled else METHODS).items()
        if temperature > 0.0 or name in (*GREEDY, FUSED)
    }
    load = load_average()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        times = _time(methods, _logits(rows, vocab, dtype), temperature, repeats)
        few = min(rows, _LAW_ROWS)
        laws = measure_laws(
            lambda kind: _logits(few, vocab, kind),
            lambda m, x: _time(m, x, 1.0, repeats),
            compiled,
        )
    finally:
        torch.set_num_threads(before)
    wall, cpu = times[BASELINE]
    setting = (rows, vocab, dtype, temperature, threads)
    measured = tuple(
        BenchRow(
            method=name,
            milliseconds=times[name][0],
            cpu_milliseconds=times[name][1],
            ratio=wall / times[name][0],
            cpu_ratio=cpu / times[name][1],
            peak_megabytes=peak_megabytes(name, *setting) if memory else None,
        )
        for name in methods
    )
    version = str(torch.__version__)
    return BenchReport(
        rows, vocab, dtype, temperature, threads, repeats, cpu_name(), version, load, measured,
        laws, few,
    )  # fmt: skip


def ours(logits: Tensor, temperature: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw with `ops.draw`, all statistics included."""
    seed = torch.randint(1 << 62, (1,), generator=generator)
    zero = torch.zeros(logits.shape[0], dtype=torch.int64)
    record = ops.draw(
        logits,
        keys=seed.expand_as(zero),
        positions=torch.arange(logits.shape[0]),
        steps=zero,
        law=TokenLaw(temperature=temperature),
    )
    return record.token, record.log_confidence.exp()


def llada(logits: Tensor, temperature: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw as LLaDA does: argmax of exp(l) / (-log u)^T in float64, then p = softmax(l)[token].

    Nie et al. 2025, arXiv 2502.09992; the released noise is float64 after Zheng et al. 2024.
    """
    noisy = logits
    if temperature > 0.0:
        noisy = logits.double()
        u = torch.rand(noisy.shape, dtype=torch.float64, generator=generator)
        noisy = noisy.exp() / (-u.log()) ** temperature
    token = noisy.argmax(-1)
    return token, logits.softmax(-1).gather(-1, token[:, None])[:, 0]


def mdlm(logits: Tensor, temperature: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw as MDLM does: argmax of p / (c - log(u + c)), c = 1e-10, with float32 noise.

    Sahoo et al. 2024, arXiv 2406.07524.
    """
    p = (logits.float() / temperature).log_softmax(-1).exp()
    u = torch.rand(p.shape, generator=generator)
    token = (p / (1e-10 - (u + 1e-10).log())).argmax(-1)
    return token, p.gather(-1, token[:, None])[:, 0]


def multinomial(logits: Tensor, temperature: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw with softmax and torch.multinomial."""
    p = (logits.float() / temperature).softmax(-1)
    token = torch.multinomial(p, 1, generator=generator)
    return token[:, 0], p.gather(-1, token)[:, 0]


BASELINE = "LLaDA (float64 Gumbel)"
EVERY: Mapping[str, Method] = {
    "dlm_sampling": fused(ours, "off"),
    FUSED: fused(ours),
    BASELINE: llada,
    "MDLM (float32 Gumbel)": mdlm,
    "softmax + multinomial": multinomial,
}
METHODS = {name: method for name, method in EVERY.items() if name != FUSED}
GREEDY = ("dlm_sampling", BASELINE)


def _check(
    rows: int, vocab: int, dtype: str, temperature: float, threads: int, repeats: int
) -> None:
    counts = {"rows": rows, "vocab": vocab, "threads": threads, "repeats": repeats}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1.")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(_DTYPES)}.")
    if not 0.0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: must be finite and at least 0.")


def _logits(rows: int, vocab: int, dtype: str) -> Tensor:
    """Make normal logits row by row, so that making them does not raise the peak memory."""
    generator = Generator().manual_seed(0)
    logits = torch.empty(rows, vocab, dtype=_DTYPES[dtype])
    for row in logits:
        row.copy_(torch.randn(vocab, generator=generator) * _SPREAD)
    return logits


def _time(
    methods: Mapping[str, Method], logits: Tensor, temperature: float, repeats: int
) -> dict[str, tuple[float, float]]:
    """Return the median wall and CPU milliseconds of every method."""
    generator = Generator().manual_seed(1)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(repeats + 1):
        for name, method in methods.items():
            wall, cpu = time.perf_counter(), time.process_time()
            method(logits, temperature, generator)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            samples[name].append((wall * 1e3, cpu * 1e3))
    return {
        name: (median(w for w, _ in seen[1:]), median(c for _, c in seen[1:]))
        for name, seen in samples.items()
    }


def peak_megabytes(
    name: str, rows: int, vocab: int, dtype: str, temperature: float, threads: int
) -> float | None:
    """Measure the extra peak memory of one call in a fresh process; None if unknown."""
    code = (
        "import json, sys; from dlm_sampling.checkup import bench; "
        "bench.report_peak(*json.loads(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.run(
        [sys.executable, "-c", code, json.dumps([name, rows, vocab, dtype, temperature, threads])],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return float(child.stdout) / _MEGABYTE if child.returncode == 0 and child.stdout else None


def report_peak(
    name: str, rows: int, vocab: int, dtype: str, temperature: float, threads: int
) -> None:
    """Print the growth of the peak resident set over one call, in bytes."""
    torch.set_num_threads(threads)
    generator = Generator().manual_seed(2)
    EVERY[name](_logits(2, 3000, dtype), temperature, generator)
    logits = _logits(rows, vocab, dtype)
    before = _peak_resident()
    EVERY[name](logits, temperature, generator)
    sys.stdout.write(str(_peak_resident() - before))


def _peak_resident() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, getrusage would count what the parent process once held
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def load_average() -> float | None:
    """Return the load average of the last minute; None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def cpu_name() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
