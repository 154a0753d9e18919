"""Read logits on a CPU in one compiled pass, with the numbers of `ops.tiles` to the last bit.

DLM_FUSED_CPU=on asks for it ("off" is the default): the first draw then compiles `fused_cpu.cpp`
with the C++ compiler of the machine (CXX, or c++, g++, clang++; two or three seconds), and keeps
the result in the user's cache folder (XDG_CACHE_HOME, or ~/.cache), where later processes find it.
Nothing is compiled, and no compiler looked for, without it.

The eager operators are the specification.  Before its first use the pass is compared with them, bit
for bit, over small and large vocabularies, both dtypes and ids that are left out; where there is no
compiler, or a number differs (another way to add numbers up in PyTorch), one warning says so and
the eager operators go on.  They also do what the pass does not: filters, float64 and float16.  With
several threads PyTorch itself rounds a few weights in another way, at the ends of each thread's
share; the pass keeps the numbers of one thread.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dlm_sampling.errors import SamplingWarning
from dlm_sampling.ops.host_sync import sync_allowed
from dlm_sampling.ops.laws import LawSums, Reading, entropy_of
from dlm_sampling.ops.reads import EVERYTHING, Wanted
from dlm_sampling.ops.scratch import Scratch, scratch_for
from dlm_sampling.ops.sources import Block
from dlm_sampling.ops.temperature import LOG2E, TemperedLaw, inverse_temperature
from dlm_sampling.ops.vocabulary import AllowedIds, allowed_ids

Eager = Callable[..., Reading]
"""`tiles.read_eagerly`."""

CHOICE = "DLM_FUSED_CPU"
"""Environment variable that asks for the pass."""

_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=off", "-pthread", "-shared", "-fPIC",
)  # fmt: skip
_SECONDS = 300  # most that the compiler may take
_LANES = (8, 16, 4)  # floats in a vector of PyTorch: AVX2, AVX-512, NEON
_SHARE = 1 << 19  # logits that make a further thread worth its start


def asked() -> bool:
    """Return whether the environment asks for the pass.

    Raises:
        ValueError: it is neither "on" nor "off".
    """
    choice = os.environ.get(CHOICE, "off")
    if choice not in ("on", "off"):
        raise ValueError(f"{CHOICE}={choice!r}: must be on or off.")
    return choice == "on"


def read(
    block: Block,
    allowed: AllowedIds,
    shown: TemperedLaw | None,
    drawn: TemperedLaw | None,
    scratch: Scratch,
    eager: Eager,
    *,
    wanted: Wanted,
    best: bool,
) -> Reading | None:
    """Read the logits of a block as `tiles.read_tiles` does; None where the eager code does it.

    Args:
        block: the logits.
        allowed: the ids that may be drawn.
        shown: the law of the statistics, or None.
        drawn: the law of the draw, or None.
        scratch: buffers.
        eager: the specification.
        wanted: the numbers asked for of the law of the statistics.
        best: whether the token of the largest logit is asked for.
    """
    if not _fits(block, shown, drawn):
        return None
    library = _library(eager)
    return None if library is None else _read(
        library, block, allowed, shown, drawn, scratch, wanted=wanted, best=best
    )  # fmt: skip


def _fits(block: Block, shown: TemperedLaw | None, drawn: TemperedLaw | None) -> bool:
    """Return whether the pass reads these logits under these laws."""
    logits, rows = block.logits, block.rows
    return (
        type(logits) is Tensor  # and not one without values, which a trace makes
        and logits.is_cpu
        and logits.dtype in (torch.float32, torch.bfloat16)
        and logits.stride(1) == 1
        and (shown is None or shown.filters is None)
        and (drawn is None or drawn.filters is None)
        and sync_allowed()
        # A row that is not there is the eager code's to refuse.
        and (rows is None or (int(rows.min()) >= 0 and int(rows.max()) < logits.shape[0]))
    )


class _Sums(ctypes.Structure):
    """Lay out `Sums` of the source."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("inverse", "tiles", "products")]


class _Reading(ctypes.Structure):
    """Lay out `Reading` of the source."""

    _fields_ = [
        ("logits", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("count", "stride", "vocab", "tiles", "width")),
        ("banned", ctypes.c_void_p),
        ("bans", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("tile_max", "peak", "best", "second", "only")),
        ("laws", _Sums * 2),
        ("law_count", ctypes.c_int64),
    ]


def _read(
    library: ctypes.CDLL,
    block: Block,
    allowed: AllowedIds,
    shown: TemperedLaw | None,
    drawn: TemperedLaw | None,
    scratch: Scratch,
    *,
    wanted: Wanted,
    best: bool,
) -> Reading:
    """Call the pass."""
    logits, count, dtype = block.logits, block.size, block.dtype
    rows = None if block.rows is None else block.rows.contiguous()
    laws = [law for law in (shown, drawn) if law is not None]
    if shown is drawn:
        laws = laws[:1]
    sums = list(logits.new_empty(len(laws), 2, count, allowed.tiles, dtype=dtype).unbind())
    inverses = [_inverses(law, count, dtype) for law in laws]
    products = [wanted.entropy and law is shown for law in laws]
    described = [
        _Sums(inverse.data_ptr(), own[0].data_ptr(), own[1].data_ptr() if both else None)
        for inverse, both, own in zip(inverses, products, sums, strict=True)
    ]
    tile_max = scratch.rows("tile_max", count, allowed.tiles, dtype)
    peak = logits.new_empty(count, dtype=dtype)
    place = logits.new_empty(count, dtype=torch.int64) if best or wanted.second else None
    second = torch.empty_like(peak) if wanted.second else None
    only = None
    if allowed.tiles == 1 and drawn is not None:
        only = scratch.rows("tile", count, allowed.width, dtype)
    banned = allowed.suppressed.ids
    parameters = _Reading(
        logits.data_ptr(), _pointer(rows), count, logits.stride(0), block.vocab, allowed.tiles,
        allowed.width, banned.data_ptr(), len(banned), tile_max.data_ptr(), peak.data_ptr(),
        _pointer(place), _pointer(second), _pointer(only), (_Sums * 2)(*described), len(laws),
    )  # fmt: skip
    shares = min(torch.get_num_threads(), count, 1 + count * block.vocab // _SHARE)
    library.dlm_read(ctypes.byref(parameters), logits.dtype == torch.bfloat16, shares)
    found: list[LawSums] = []
    for own, both in zip(sums, products, strict=True):
        total = own[0].sum(-1, dtype=torch.float64)
        found.append(LawSums(own[0], total, entropy_of(total, own[1]) if both else None, None))
    return Reading(
        place,
        peak,
        second,
        None if shown is None else found[0],
        None if drawn is None else found[-1],
        only,
    )


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _inverses(law: TemperedLaw, count: int, dtype: torch.dtype) -> Tensor:
    """Return log2(e) / temperature for each row, [count]."""
    inverse = inverse_temperature(law.temperature, dtype, times=LOG2E)
    if isinstance(inverse, Tensor):
        return inverse[:, 0].contiguous()
    return torch.full((count,), inverse, dtype=dtype)


_lock = threading.Lock()


def _library(eager: Eager) -> ctypes.CDLL | None:
    """Return the compiled pass, or None where there is none; one warning says why."""
    with _lock:  # a compiler runs once
        return _compiled(eager)


@cache
def _compiled(eager: Eager) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(_built()))
        library.dlm_read.argtypes = [ctypes.POINTER(_Reading), ctypes.c_int, ctypes.c_int64]
        library.dlm_read.restype = None
        problem = _difference(library, eager)
    except (OSError, subprocess.SubprocessError) as error:
        library, problem = None, _first_line(error)
    if problem is None:
        return library
    warnings.warn(
        f"{CHOICE}=on, but the compiled pass cannot be used: {problem}. The eager operators "
        f"go on, with the same tokens; {CHOICE}=off says nothing.",
        SamplingWarning,
        stacklevel=2,
    )
    return None


def _first_line(error: Exception) -> str:
    """Return what a compiler said first, or the error."""
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
    return next(iter((said or str(error)).strip().splitlines()), type(error).__name__)


def _built() -> Path:
    """Return the compiled file, which is made where it is not there yet.

    Raises:
        OSError: there is no compiler, or a folder cannot be written to.
        subprocess.SubprocessError: the compiler fails.
    """
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError("no C++ compiler is found (CXX, c++, g++, clang++)")
    lanes = _lanes()
    flags = (*_FLAGS, f"-DLANES={lanes}", f"-DSTEP={2 * lanes}")
    source = _SOURCE.read_bytes()
    said = (compiler, *flags, platform.machine(), _processor())
    key = hashlib.sha256(source + "\0".join(said).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlm_sampling"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / f"fused_cpu-{key}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as room:
            made = Path(room) / target.name
            subprocess.run(
                [compiler, *flags, "-o", str(made), str(_SOURCE)],
                check=True, capture_output=True, text=True, timeout=_SECONDS,
            )  # fmt: skip
            made.replace(target)  # at once: other processes see all of it or nothing
    return target


def _processor() -> str:
    """Return what the processor can do: code for it may not run on another one of the folder."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    return next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])


def _lanes() -> int:
    """Return how many floats PyTorch adds up side by side, by the last bits of its sums."""
    weights = torch.rand(64, 1024, generator=torch.Generator().manual_seed(0))
    wanted = weights.sum(-1)
    for lanes in _LANES:
        parts = weights.view(64, -1, 16, 4 * lanes)
        near = torch.zeros(64, parts.shape[1], 4 * lanes)
        for row in parts.unbind(2):
            near += row
        cascade = _in_turn(_in_turn(near.unbind(1)).view(64, 4, lanes).unbind(1))
        if torch.equal(_in_turn(cascade.unbind(1)), wanted):
            return lanes
    return _LANES[0]  # the comparison will say that something else is done


def _in_turn(parts: tuple[Tensor, ...]) -> Tensor:
    """Add tensors up from the first to the last."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _difference(library: ctypes.CDLL, eager: Eager) -> str | None:
    """Return in which case the pass gives another number than the eager operators, or None."""
    for vocab, law, wanted, block in _trials():
        allowed = allowed_ids(vocab, (0, vocab - 1), block.logits.device)
        scratch = scratch_for(vocab, block.logits.device)
        for shown, drawn in ((law, None), (law, TemperedLaw(None, 0.7)), (law, law)):
            parts = [
                _flat(found)
                for found in (
                    _read(library, block, allowed, shown, drawn, scratch, wanted=wanted, best=True),
                    eager(block, allowed, shown, drawn, scratch, wanted=wanted, best=True),
                )
            ]
            if not all(torch.equal(ours, theirs) for ours, theirs in zip(*parts, strict=True)):
                return f"its numbers differ for {block.logits.dtype} logits of {vocab} columns"
    return None


def _trials() -> Iterator[tuple[int, TemperedLaw, Wanted, Block]]:
    """Yield vocabularies of one tile and of several, in both dtypes, with rows that are picked."""
    generator = torch.Generator().manual_seed(0)
    for vocab in (5, 1000, 3371):
        logits = torch.randn(7, vocab, generator=generator) * 4.0
        logits[:, 1::7] = -torch.inf
        for dtype in (torch.float32, torch.bfloat16):
            block = Block.of(logits.to(dtype), torch.tensor([3, 1, 4, 1, 5]))
            yield vocab, TemperedLaw(None, 1.0), EVERYTHING, block
            temperatures = torch.tensor([0.3, 2.0, 1.0, 0.05, 30.0], dtype=torch.float64)
            wanted = EVERYTHING._replace(entropy=False, second=False)
            yield vocab, TemperedLaw(None, temperatures), wanted, block


def _flat(found: Reading) -> list[Tensor]:
    """Return copies of all tensors of a reading."""
    sums = [own for law in (found.shown, found.drawn) if law is not None for own in law]
    own = (found.best, found.peak, found.second, found.tile)
    return [part.clone() for part in (*own, *sums) if isinstance(part, Tensor)]
