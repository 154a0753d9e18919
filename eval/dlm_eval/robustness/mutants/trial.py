"""Runs the tests of one source file against each of its mutants.

A process that has imported torch and collected the tests forks once for every mutant.  The child
exchanges the code of the changed function in place, so every reference to the function sees the
fault, and runs the tests until one fails; nothing is imported or written again.
"""

from __future__ import annotations

import gc
import importlib
import math
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import IO, Literal

import pytest

from dlm_eval.robustness.mutants.operators import Mutant, planted

Verdict = Literal["killed", "survived", "timeout", "invalid"]
CACHED = type(cache(len))
MEMORY = 24 << 30
"""Bytes of address space of a child; a fault may ask for any amount."""

PATIENCE = 20
"""A child that sleeps is ended after this many times its limit; a busy machine is not to matter."""


@dataclass(frozen=True)
class Trial:
    """What the tests say of the mutants of a file: verdicts in order, and how long it took."""

    verdicts: list[Verdict]
    tests: int
    seconds: float


def codes(code: CodeType) -> dict[tuple[str, int], CodeType]:
    """Return the code of all functions below a code object by qualified name and first line."""
    found: dict[tuple[str, int], CodeType] = {}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found[constant.co_qualname, constant.co_firstlineno] = constant
            found |= codes(constant)
    return found


def living(file: str) -> dict[tuple[str, int], list[FunctionType]]:
    """Return all functions in memory that come from a file."""
    found: dict[tuple[str, int], list[FunctionType]] = {}
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename == file:
            key = (thing.__code__.co_qualname, thing.__code__.co_firstlineno)
            found.setdefault(key, []).append(thing)
    return found


def forget() -> None:
    """Empty the caches of functions, which hold results from before the fault."""
    for thing in gc.get_objects():
        if type(thing) is CACHED and thing.__module__.startswith(("dlm_", "tests", "test_")):
            thing.cache_clear()


def takes_code(function: FunctionType, code: CodeType) -> bool:
    """Whether the code can be put into the function: both close over the same names."""
    return function.__code__.co_freevars == code.co_freevars


def in_child(passes: Callable[[], bool], limit: int) -> Verdict:
    """Run tests in a fork of this process, which may use `limit` seconds of a core."""
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            os._exit(0 if passes() else 1)
        except BaseException:
            os._exit(1)
    end = time.monotonic() + PATIENCE * limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
                return "timeout"
            return "survived" if status == 0 else "killed"
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


class Loop:
    """Takes the place of pytest's loop over the collected tests, once for every mutant."""

    def __init__(
        self,
        source: Path,
        mutants: Sequence[Mutant],
        takes: Callable[[pytest.Item], bool],
        floor: int,
    ) -> None:
        """Try these mutants of a file with the tests that `takes` names."""
        self.source, self.mutants, self.takes, self.floor = source, mutants, takes, floor
        self.durations: dict[str, float] = {}
        self.result: Trial | None = None
        self.problem = "the tests could not be collected"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how long a test takes."""
        self.durations[report.nodeid] = self.durations.get(report.nodeid, 0.0) + report.duration

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests without a fault, then, the quickest first, with each."""
        began, used = time.monotonic(), time.process_time()
        items = [item for item in session.items if self.takes(item)]

        def first_failed(tests: Sequence[pytest.Item]) -> int | None:
            for number, item in enumerate(tests):
                following = tests[number + 1] if number + 1 < len(tests) else None
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.testsfailed:
                    return number
            return None

        if not items or first_failed(items) is not None:
            self.problem = f"its {len(items)} tests fail without a fault"
            return True
        gc.unfreeze()  # the suite freezes what it collected, and frozen objects are not listed
        forget()
        limit = self.floor + math.ceil(4 * (time.process_time() - used))
        items.sort(key=lambda item: self.durations[item.nodeid])
        text = self.source.read_text(encoding="utf-8")
        functions = living(str(self.source))
        killers: set[int] = set()

        def trial(mutant: Mutant, killer: IO[str]) -> Verdict:
            key = (mutant.function, mutant.first_line)
            new = codes(compile(planted(text, mutant), str(self.source), "exec"))[key]
            fitting = [f for f in functions.get(key, ()) if takes_code(f, new)]
            if not fitting:
                return "invalid"

            def faulty() -> bool:
                for function in fitting:
                    function.__code__ = new
                number = first_failed(items)
                Path(killer.name).write_text("" if number is None else str(number))
                return number is None

            verdict = in_child(faulty, limit)
            number = killer.read()
            if number:
                killers.add(int(number))
            return verdict

        verdicts: list[Verdict] = []
        for mutant in self.mutants:
            with tempfile.NamedTemporaryFile("r") as killer:
                verdicts.append(trial(mutant, killer))
        if self.mutants and set(verdicts) == {"invalid"}:
            self.problem = "none of its functions was found in memory"
            return True
        # the tests that killed must pass in a fork without a fault, or the fork killed
        control = [items[number] for number in sorted(killers)]
        if in_child(lambda: first_failed(control) is None, limit) != "survived":
            self.problem = "its tests fail in a fork without a fault"
            return True
        self.result = Trial(verdicts, len(items), round(time.monotonic() - began, 1))
        return True


def try_mutants(
    source: Path, module: str, mutants: Sequence[Mutant], arguments: Sequence[str],
    takes: Callable[[pytest.Item], bool] = lambda _: True, floor: int = 10,
) -> Trial:  # fmt: skip
    """Judge mutants by tests.

    Args:
        source: the file, as its functions name it.
        module: its name for import.
        mutants: faults of the file.
        arguments: paths and options for pytest.
        takes: whether a collected test counts.
        floor: seconds of a core that a run may use beyond four times those without a fault.

    Raises:
        RuntimeError: the tests fail without a fault, or there are none.
    """
    importlib.import_module(module)
    loop = Loop(source, mutants, takes, floor)
    with tempfile.TemporaryDirectory() as scratch:
        options = ["-q", "-s", "-n0", "-p", "no:cacheprovider", f"--basetemp={scratch}/base"]
        pytest.main([*options, *arguments], plugins=[loop])
    if loop.result is None:
        raise RuntimeError(f"{source}: {loop.problem}")
    return loop.result
