"""The device, its clock, and the result file of one part of the benchmarks."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import triton
from torch import Tensor

HERE = Path(__file__).resolve().parent
_ROUNDS = 7


class NoGPUError(RuntimeError):
    """There is no CUDA device."""


@dataclass
class Report:
    """What one part found; `begin` makes one, `write` leaves the file."""

    part: str
    device: torch.device
    dry: bool
    small: bool
    end: float  # time.monotonic() after which no new case begins
    facts: dict[str, Any]
    cases: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @classmethod
    def begin(cls, part: str, *, dry: bool, small: bool, end: float) -> Report:
        """Open a report.

        Raises:
            NoGPUError: there is no CUDA device and this is no dry run.
        """
        if not dry and not torch.cuda.is_available():
            raise NoGPUError(
                "No CUDA device: these programs check and time the kernels on a GPU. "
                "Use --dry-run to run tiny shapes under Triton's interpreter instead."
            )
        device = torch.device("cpu" if dry else "cuda")
        return cls(part, device, dry, small or dry, end, _facts(device))

    @property
    def late(self) -> bool:
        """Whether the time is over; a dry run takes the time it needs."""
        return not self.dry and time.monotonic() > self.end

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(case.get("passed", True) for case in self.cases)

    def add(self, name: str, **found: Any) -> None:
        """Record a case; `passed` tells whether a check held."""
        self.cases.append({"name": name} | found)

    def write(self, folder: Path) -> Path:
        """Write the file; dry and small runs are named so and prove nothing about speed."""
        folder.mkdir(parents=True, exist_ok=True)
        kind = ".dry" if self.dry else ".small" if self.small else ""
        path = folder / f"{self.part}{kind}.json"
        found = {
            "part": self.part,
            "dry_run": self.dry,
            "small": self.small,
            "complete": not self.late,
            "passed": self.passed,
            **self.facts,
            "cases": self.cases,
        }
        path.write_text(json.dumps(found, indent=1) + "\n")
        return path


def _facts(device: torch.device) -> dict[str, Any]:
    known: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "commit": _said("git", "-C", str(HERE), "rev-parse", "HEAD"),
    }
    if device.type != "cuda":
        return known | {"device": "Triton's interpreter on the CPU", "driver": None}
    properties = torch.cuda.get_device_properties(device)
    driver = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return known | {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "driver": driver,
    }


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip().splitlines()[0]


def timed(
    report: Report, calls: Sequence[Callable[[], Any]], *, graph: bool = True
) -> dict[str, Any]:
    """Time of one call in microseconds: median and quartiles over rounds.

    Args:
        report: tells the device.
        calls: the same work on different inputs, so that no input is still in the cache; a round
            makes all of them.
        graph: also replay a CUDA graph of them, which leaves out what the host does.

    Returns:
        eager_us with its quartiles; graph_us, or graph_error where it cannot be captured; extra
        peak memory of the first call in bytes.
    """
    if report.dry:
        start = time.perf_counter()
        calls[0]()
        return {"eager_us": (time.perf_counter() - start) * 1e6}
    for call in calls:  # compiles, and fills the allocator
        call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    calls[0]()
    torch.cuda.synchronize()
    found: dict[str, Any] = {"peak_bytes": torch.cuda.max_memory_allocated() - before}
    found |= _spread("eager", [_round(calls) for _ in range(_ROUNDS)])
    if not graph:
        return found
    try:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            for call in calls:
                call()
        captured.replay()
        one = [captured.replay] * 3
        found |= _spread("graph", [_round(one) / len(calls) for _ in range(_ROUNDS)])
    except RuntimeError as error:  # a synchronisation inside
        torch.cuda.synchronize()
        found["graph_error"] = str(error).splitlines()[0]
    return found


def _round(calls: Sequence[Callable[[], Any]]) -> float:
    """Microseconds per call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for call in calls:
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e3 / len(calls)


def _spread(name: str, samples: list[float]) -> dict[str, Any]:
    low, _, high = quantiles(samples, n=4)
    return {f"{name}_us": median(samples), f"{name}_quartiles_us": [low, high]}


def rotated(report: Report, make: Callable[[int], Tensor]) -> list[Tensor]:
    """As many inputs as exceed twice the cache of the device, at least 2 and at most 64."""
    first = make(0)
    if report.dry:
        return [first]
    size = first.numel() * first.element_size()
    cache = torch.cuda.get_device_properties(report.device).L2_cache_size
    return [first, *(make(i) for i in range(1, max(2, min(64, 2 * cache // size + 1))))]
