"""Processes that start in milliseconds: forks of one process that has imported everything.

A fork copies the one thread that asks for it, and every lock as it is at that moment: a lock that
another thread holds stays locked in the fork for good.  So the process that forks is a clean one,
without a second thread, and not the process of the tests.  No wait here is without a bound.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import pickle
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0  # seconds for any wait that says nothing else; a busy machine is slow
READY = b"."
START = "import sys; from tests.forks import serve; serve(int(sys.argv[1]), sys.argv[2])()"
EVERYTHING = (
    "dlm_eval.cli.app",
    "dlm_eval.comparison.part",
    "dlm_eval.likelihood.run",
    "dlm_eval.text.run",
    "jinja2",
    "matplotlib.backends.backend_svg",
)
PIPE, NOTHING, CLOSED = -1, -2, -3
"""In place of a file descriptor: a pipe that the test reads, the null device, no stream at all."""


class Order(NamedTuple):
    """What a fork runs, and in which surroundings."""

    work: bytes  # a pickled function without arguments, for the fork alone to read
    environment: Mapping[str, str]
    streams: tuple[int, ...]  # those of 0, 1 and 2 that are open, in the order they are sent


class Fork:
    """A running fork: its streams, its exit code, signals to it."""

    def __init__(self, name: str, status: int, out: int | None, err: int | None) -> None:
        self._name = name
        self._status = status
        self._code: int | None = None
        self._pipes = {1: out, 2: err}
        self._seen = {1: b"", 2: b""}
        self.pid = int.from_bytes(self._read_status(PATIENCE, "start"), "little")

    def _read_status(self, patience: float, what: str) -> bytes:
        """The next four bytes of the process that forks: first the pid, then the exit code."""
        if not select.select([self._status], [], [], patience)[0]:
            raise TimeoutError(f"{self._name} did not {what} in {patience:g} s.{self._stacks()}")
        data = os.read(self._status, 4)
        if len(data) < 4:
            raise RuntimeError(f"The process that forks has died: no {what} of {self._name}.")
        return data

    def _stacks(self) -> str:
        """End a process that hangs; what it has written, the stacks of its threads included."""
        if not hasattr(self, "pid"):
            return ""
        os.kill(self.pid, signal.SIGABRT)
        time.sleep(1)
        os.kill(self.pid, signal.SIGKILL)
        self._pump(5.0, lambda: False)
        return f"\n{self._seen[2].decode(errors='replace')}"

    def _pump(self, patience: float, enough: Callable[[], bool]) -> None:
        """Read its streams until they have ended, or there is enough, or time is up."""
        deadline = time.monotonic() + patience
        while not enough():
            pipes = {pipe: n for n, pipe in self._pipes.items() if pipe is not None}
            left = deadline - time.monotonic()
            if not pipes or left < 0:
                return
            for pipe in select.select(list(pipes), [], [], left)[0]:
                number = pipes[pipe]
                data = os.read(pipe, 65536)
                self._seen[number] += data
                if not data:
                    self.close(number)

    def close(self, number: int) -> None:
        """Close our end of its stream, as a reader that has seen enough."""
        pipe = self._pipes[number]
        if pipe is not None:
            os.close(pipe)
        self._pipes[number] = None

    def first_line(self) -> bytes:
        """The first line that it writes to standard output."""
        self._pump(PATIENCE, lambda: b"\n" in self._seen[1])
        line, newline, _ = self._seen[1].partition(b"\n")
        assert newline, f"{self._name} wrote no line: {self._seen}"
        return line

    def alive(self) -> bool:
        if self._code is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self._code is None

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code; minus the signal that ended it."""
        if self._code is None:
            code = self._read_status(patience, "end")
            self._code = int.from_bytes(code, "little", signed=True)
            os.close(self._status)
        return self._code

    def ended(self, patience: float = PATIENCE) -> tuple[int, bytes, bytes]:
        """Exit code, standard output, standard error."""
        deadline = time.monotonic() + patience
        self._pump(patience, lambda: False)
        code = self.wait(max(1.0, deadline - time.monotonic()))
        for number in self._pipes:
            self.close(number)
        return code, self._seen[1], self._seen[2]

    def until(self, reached: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait for a state of the world, or for the end of the process."""
        deadline = time.monotonic() + patience
        while self.alive() and not reached():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._name}: nothing in {patience:g} s.{self._stacks()}")
            time.sleep(0.002)

    def send_signal(self, number: int) -> None:
        if self.alive():
            os.kill(self.pid, number)

    def kill(self) -> int:
        """Kill it, if it still runs; the exit code."""
        self.send_signal(signal.SIGKILL)
        return self.wait()


class Forks:
    """The process that forks, seen from the tests."""

    def __init__(self, prepare: str = "tests.forks.import_everything", **environment: str) -> None:
        """Start it; it calls the function of the name `prepare` before the first fork."""
        self._socket, theirs = socket.socketpair()
        self._environment = environment
        folders = [str(ROOT / folder) for folder in ("", "kernels", "eval")]
        path = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
        single = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(theirs.fileno()), prepare],
            env=os.environ | single | environment | {"PYTHONPATH": path},
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        theirs.close()
        self._socket.settimeout(2 * PATIENCE)
        if self._socket.recv(1) != READY:
            said, _ = self._process.communicate(timeout=PATIENCE)
            raise RuntimeError(f"The process that forks has ended: {said!r}")
        self._socket.settimeout(PATIENCE)

    def close(self) -> None:
        """End it, and every fork that still runs."""
        self._socket.close()
        try:
            self._process.communicate(timeout=PATIENCE)
        finally:
            self._process.kill()

    def call(
        self,
        work: Callable[..., object],
        *arguments: object,
        env: Mapping[str, str] | None = None,
        stdin: int = NOTHING,
        stdout: int = PIPE,
        stderr: int = PIPE,
    ) -> Fork:
        """Run a function that can be pickled, and end as a process whose main function it is."""
        status, ours = os.pipe()
        with open(os.devnull, "r+b") as nothing:
            sent = dict(enumerate((stdin, stdout, stderr)))
            pipes = {n: os.pipe() for n, file in sent.items() if file == PIPE}
            sent |= {n: pipe[1] for n, pipe in pipes.items()}
            sent |= {n: nothing.fileno() for n, file in sent.items() if file == NOTHING}
            sent = {n: file for n, file in sent.items() if file != CLOSED}
            clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
            surroundings = clean | self._environment | dict(env or {})
            order = Order(pickle.dumps(partial(work, *arguments)), surroundings, tuple(sent))
            data = pickle.dumps(order)
            try:
                head = len(data).to_bytes(8, "little")
                socket.send_fds(self._socket, [head], [ours, *sent.values()])
                self._socket.sendall(data)
            except OSError as error:
                said, _ = self._process.communicate(timeout=PATIENCE)
                raise RuntimeError(f"The process that forks has ended: {said!r}") from error
            finally:
                for file in (ours, *(pipe[1] for pipe in pipes.values())):
                    os.close(file)
        readers = [pipes[n][0] if n in pipes else None for n in (1, 2)]
        return Fork(f"{work.__name__}{arguments}", status, *readers)

    def command(self, *words: str, **surroundings: Any) -> Fork:
        """Run the command line, as `python -m dlm_sampling WORDS` does."""
        return self.call(command, *words, **surroundings)


def command(*words: str) -> None:
    """Be the command line."""
    from dlm_sampling.__main__ import main

    sys.argv = ["dlm-sampling", *words]
    main()


def run_program(*words: str) -> None:
    """Run a file or folder as `python -W ignore WORDS` does."""
    warnings.simplefilter("ignore")
    sys.argv = list(words)
    runpy.run_path(words[0], run_name="__main__")


def run_module(name: str, *words: str) -> None:
    """Run a module as `python -W ignore -m NAME WORDS` does."""
    warnings.simplefilter("ignore")
    sys.argv = [name, *words]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def import_everything() -> None:
    """Import what commands need, at their first use of a model too."""
    for name in EVERYTHING:
        importlib.import_module(name)
    import torch
    import tqdm
    from dlm_eval.cli.app import app as evaluation
    from dlm_eval.judges.causal import CausalJudge
    from dlm_eval.report.plots import draw
    from typer.main import get_command

    from dlm_sampling import AutoDenoiser
    from dlm_sampling.cli.app import app

    tqdm.tqdm.monitor_interval = 0  # a thread
    torch.set_num_threads(1)
    # After a fork PyTorch replaces its pool at the first call of this function, which every new
    # thread makes: of two new threads at once (transformers loads with four) one finds no pool.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
    CausalJudge.from_pretrained("own")
    get_command(evaluation)
    commands: Any = get_command(app)
    commands.commands["samplers"].make_context("samplers", [])  # typer imports how at first use
    draw("", "", lambda figure: figure.add_subplot().set_title("as matplotlib its fonts"))
    for name in ("sudoku4x4", "tiny-books"):
        AutoDenoiser.from_pretrained(name)


def serve(file: int, prepare: str) -> Callable[[], object]:
    """Fork for every order that comes in; return, in the fork, what it has to run."""
    import gc
    import threading

    import tqdm

    # tqdm's own lock is a semaphore that forks share: one that is killed while it holds that lock
    # would stop all others.  A lock of threads is copied by a fork instead.
    tqdm.tqdm.set_lock(threading.RLock())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pkgutil.resolve_name(prepare)()
    gc.collect()
    gc.freeze()
    running: dict[int, int] = {}
    with socket.socket(fileno=file) as orders:
        orders.send(READY)
        while True:
            if select.select([orders], [], [], 0.002 if running else None)[0]:
                head, files, _, _ = socket.recv_fds(orders, 8, 4)
                if not head:
                    break
                data = b""
                while len(data) < int.from_bytes(head, "little"):
                    more = orders.recv(1 << 16)
                    assert more, "the tests have ended in the middle of an order"
                    data += more
                order: Order = pickle.loads(data)
                tasks = Path("/proc/self/task")
                assert not tasks.exists() or len(list(tasks.iterdir())) == 1, "a second thread"
                child = os.fork()
                if child == 0:
                    for other in running.values():
                        os.close(other)
                    break
                os.write(files[0], child.to_bytes(4, "little"))
                running[child] = files[0]
                for given in files[1:]:
                    os.close(given)
            for child, status in list(running.items()):
                pid, code = os.waitpid(child, os.WNOHANG)
                if pid:
                    number = os.waitstatus_to_exitcode(code)
                    os.write(status, number.to_bytes(4, "little", signed=True))
                    os.close(running.pop(child))
    if not head:
        for child in running:
            os.kill(child, signal.SIGKILL)
        return lambda: None
    settle(order, files)
    return partial(run, order.work)


def run(work: bytes) -> NoReturn:
    """End with its exit code; an interpreter that frees all it has imported takes a second."""
    code = 1
    try:
        pickle.loads(work)()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        code = 120  # the interpreter's own code for it
    os._exit(code)


def settle(order: Order, files: list[int]) -> None:
    """Give the fork its own streams, environment and signals."""
    for given, number in zip(files[1:], order.streams, strict=True):
        os.dup2(given, number)
    for given in files:
        os.close(given)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if number not in order.streams:
            os.close(number)
            setattr(sys, name, None)
            setattr(sys, f"__{name}__", None)
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=os.isatty(1))
    if sys.stderr is not None:
        faulthandler.enable(sys.stderr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order.environment)
