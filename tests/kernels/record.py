"""Keeps what the assembler made of a kernel, so that only a changed kernel is compiled again.

The machine code of a kernel follows from its source, its constants, the options and Triton's
version; `key` names them all.  A kernel whose key is not in `machine_code.json` is compiled.
`python -m tests.kernels.record` compiles every case and writes the file anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton

from tests.kernels.aot import Machine, compiled, source_of
from tests.kernels.in_order import estimate

FILE = Path(__file__).parent / "machine_code.json"


@dataclass(frozen=True)
class Figures:
    """What the tests ask of the machine code of one kernel."""

    registers: int
    stack: int  # bytes
    local: int  # bytes
    spills: int  # loads and stores of local memory
    instructions: int
    loop: int  # instructions of the shortest loop that does the work; 0: no loop was asked for
    loop_names: list[str]  # sorted, without their suffixes
    usual: dict[str, int]  # of the usual path, see `in_order.Estimate`


@dataclass(frozen=True)
class Variant:
    """A kernel with the constants and the target that it is compiled for."""

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    capability: int
    warps: int
    most_registers: int | None = None
    odd: bool = False
    stages: int | None = None
    loop: tuple[str, int] | None = None  # an instruction, and how many of it the loop has

    def key(self) -> str:
        source = source_of(self.kernel, self.types, self.constants, self.odd)
        words = (triton.__version__, source.hash(), self.capability, self.warps)
        words += (self.most_registers, self.stages, self.loop)
        return hashlib.sha256(repr(words).encode()).hexdigest()[:32]

    def compile(self) -> Figures:
        made: Machine = compiled(
            self.kernel, self.types, self.constants, self.capability, self.warps,
            self.most_registers, self.odd, self.stages,
        )  # fmt: skip
        assert made.code, "nothing was disassembled"
        body = made.shortest_loop(*self.loop) if self.loop else []
        return Figures(
            registers=made.resource("REG"),
            stack=made.resource("STACK"),
            local=made.resource("LOCAL"),
            spills=made.count("LDL", "STL"),
            instructions=len(made.code),
            loop=len(body),
            loop_names=sorted({i.name.split(".")[0] for i in body}),
            usual=estimate(made).numbers(),
        )

    def figures(self) -> Figures:
        """Return the recorded figures, or compile where there are none."""
        kept = recorded().get(self.key())
        return Figures(**kept) if kept is not None else self.compile()


def recorded() -> dict[str, dict[str, Any]]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def fits(made: Figures, registers: int) -> None:
    assert made.stack == made.local == made.spills == 0
    assert made.registers <= registers


def main(note: Callable[[str], None] = print) -> None:
    """Compile every variant of the tests and write the record."""
    from tests.kernels import test_compiled, test_compiled_head

    found: dict[str, dict[str, Any]] = {}
    old = recorded()
    for name, variant in {**test_compiled.variants(), **test_compiled_head.variants()}.items():
        key = variant.key()
        found[key] = asdict(variant.compile())
        note(f"{name}: {'as before' if old.get(key) == found[key] else found[key]}")
    lines = (f"{json.dumps(key)}: {json.dumps(found[key])}" for key in sorted(found))
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
