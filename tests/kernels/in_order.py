"""Estimates how long one program takes: a warp issues in order, and waits for what it reads.

The machine code names every instruction and register, so what a warp waits for follows from it.
How long each kind of instruction takes does not: the table below is of published measurements of
GPUs of capability 9.0, rounded, and a load is taken to come from the cache of the whole GPU.  So
cycles are an estimate, good for comparing two ways to write a kernel; no GPU has confirmed them.

The path is the usual one.  What is skipped unless something is odd is left out: a branch around a
loop (suppressed ids), around a call (division of odd numbers) or around a long piece of float64
(races that nearly tie, logarithms of 0).  Every loop is gone through once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields

from tests.kernels.aot import Instruction, Machine

DOUBLES = ("DFMA", "DADD", "DMUL", "DSETP")
# Cycles until the result is there; 5 for all others.
LATENCY = {
    **dict.fromkeys(DOUBLES, 8), "LDG": 300, "LDS": 30, "LDC": 30, "SHFL": 24, "BAR": 25,
    "MUFU": 24, "REDUX": 24, "F2F": 14, "I2F": 14, "F2I": 14, "VOTE": 12, "S2R": 20,
}  # fmt: skip
# Cycles until a quarter of a processor can begin another of its kind; 1 for all others.
BUSY = dict.fromkeys(DOUBLES, 2) | {"MUFU": 8, "F2F": 8, "REDUX": 4, "IMAD": 2, "SHFL": 2, "LDG": 2}
SHARED = ("STS", "LDS", "BAR")
STORES = ("STS", "STG", "BAR", "BRA", "EXIT", "BSSY", "BSYNC", "WARPSYNC")
LONG = 20  # more float64 than this is skipped unless something is odd
_REGISTER = re.compile(r"(?<![A-Z0-9])(UR\d+|R\d+|UP\d|P\d)(\.64)?")
_SECOND_RESULT = re.compile(r"\s*(?:U?P\d|U?PT)\s*$")


@dataclass
class Estimate:
    """What one warp does on the usual path."""

    instructions: int = 0
    doubles: int = 0  # of them, float64
    barriers: int = 0
    waits: int = 0  # times that it waits at least 60 cycles: for loads
    cycles: int = 0
    _ready: dict[str, int] = field(default_factory=dict[str, int])
    _free: dict[str, int] = field(default_factory=dict[str, int])
    _shared: int = 0  # when what was stored for other lanes is there

    def numbers(self) -> dict[str, int]:
        """The fields by name."""
        shown = (f for f in fields(self) if not f.name.startswith("_"))
        return {f.name: int(vars(self)[f.name]) for f in shown}

    def issue(self, name: str, reads: list[str], writes: list[str]) -> None:
        """Issue an instruction as soon as its operands are there."""
        there = max([self._ready.get(register, 0) for register in reads], default=0)
        if name in SHARED:
            there = max(there, self._shared)
        start = max(self.cycles + 1, there, self._free.get(name, 0))
        self.waits += start - self.cycles >= 60
        self.cycles, self._free[name] = start, start + BUSY.get(name, 1)
        done = start + LATENCY.get(name, 5)
        if name in SHARED:
            self._shared = done
        self._ready.update(dict.fromkeys(writes, done))
        self.instructions += 1
        self.doubles += name in DOUBLES
        self.barriers += name == "BAR"


def estimate(machine: Machine) -> Estimate:
    """Go down the usual path of a kernel."""
    found, skipped_to = Estimate(), 0
    ends = (i for i in machine.code if i.name == "EXIT" and not i.guard)
    end = next(ends, machine.code[-1])
    for one in machine.code:
        if one is end:
            break
        if one.address < skipped_to:
            continue
        found.issue(kind(one), *operands(one))
        if one.guard and one.jump is not None and one.address < one.jump <= end.address:
            over = [i for i in machine.code if one.address < i.address < one.jump]
            skipped_to = one.jump if is_odd(over) else 0
    return found


def kind(one: Instruction) -> str:
    """The name without its suffixes."""
    return one.name.split(".")[0]


def is_odd(piece: list[Instruction]) -> bool:
    """Whether a piece of code that can be skipped is for what is odd."""
    names = [kind(i) for i in piece]
    backwards = any(i.jump is not None and i.jump < i.address for i in piece)
    return backwards or "CALL" in names or sum(n in DOUBLES for n in names) > LONG


def operands(one: Instruction) -> tuple[list[str], list[str]]:
    """The registers that an instruction reads, and those that it writes."""
    base, parts = kind(one), one.operands.split(",")
    two = len(parts) > 1 and _SECOND_RESULT.match(parts[1]) is not None
    results = 0 if base in STORES else 1 + two
    writes = [name for part in parts[:results] for name in registers(part, width(one))]
    each = 2 if base in DOUBLES else 1
    reads = [name for part in parts[results:] for name in registers(part, each)]
    if ".WIDE" in one.name:
        reads += registers(parts[-1], 2)
    if one.guard:
        reads += [*registers(one.guard, 1), *writes]  # what it leaves alone stays as it was
    return reads, writes


def width(one: Instruction) -> int:
    """How many registers a result has."""
    base, *kinds = one.name.split(".")
    if "128" in kinds:
        return 4
    return 2 if base in DOUBLES or {"WIDE", "64"} & {*kinds} or kinds[:1] == ["F64"] else 1


def registers(part: str, each: int) -> list[str]:
    """The registers of an operand, of `each` neighbours."""
    found: list[str] = []
    for name, pair in _REGISTER.findall(part):
        letters = name.rstrip("0123456789")
        count = 1 if letters.endswith("P") else max(each, 2 if pair else 1)
        found += [f"{letters}{int(name[len(letters) :]) + i}" for i in range(count)]
    return found
