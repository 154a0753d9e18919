"""Compiles kernels for GPUs that are not here, and reads what the assembler made of them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
_TARGET = re.compile(r"0x[0-9a-f]+")


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    operands: str
    guard: str = ""  # the predicate without which it does nothing

    @property
    def jump(self) -> int | None:
        """Address that it branches to, or None."""
        found = _TARGET.findall(self.operands) if self.name.split(".")[0] == "BRA" else []
        return int(found[-1], 16) if found else None


@dataclass(frozen=True)
class Machine:
    """The machine code of one kernel."""

    text: str

    def resource(self, name: str) -> int:
        """REG, STACK, SHARED or LOCAL."""
        found = re.search(rf"\b{name}:(\d+)", self.text)
        assert found is not None, self.text
        return int(found[1])

    @cached_property
    def code(self) -> list[Instruction]:
        found = (_LINE.match(line) for line in self.text.splitlines())
        return [Instruction(int(m[1], 16), m[3], m[4], m[2] or "") for m in found if m is not None]

    def count(self, *names: str) -> int:
        return sum(i.name.split(".")[0] in names for i in self.code)

    def shortest_loop(self, name: str, least: int) -> list[Instruction]:
        """The shortest loop with so many of an instruction, which is what runs when nothing is odd.

        Without what is skipped unless an inner loop has work.
        """
        jumps = [(i.address, i.jump) for i in self.code if i.jump is not None]
        loops = sorted(((at, to) for at, to in jumps if to < at), key=lambda j: j[0] - j[1])
        for end, start in loops:
            body = [i for i in self.code if start <= i.address <= end]
            if sum(i.name.split(".")[0] == name for i in body) >= least:
                break
        else:
            raise ValueError(f"no loop has {least} {name}")
        for inner in (at for at, to in loops if start <= to and at < end):
            skips = [(at, to) for at, to in jumps if start <= at < inner < to <= end]
            if skips:
                at, to = min(skips, key=lambda j: j[1] - j[0])
                body = [i for i in body if not at < i.address < to]
        return body


def source_of(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], odd: bool = False
) -> Any:
    """Return what is compiled; arguments not named in `types` or `constants` are int32."""
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    # Torch aligns its memory; a useful vocabulary, and so the row stride, is a multiple of 16.
    rows = ("vocab", "stride_row", "stride_other_row", "stride_hidden", "stride_weight")
    numbers = () if odd else rows
    aligned = [n for n in names if signature[n].startswith("*") or n in numbers]
    return ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
    )


def compiled(
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    capability: int,
    warps: int,
    most_registers: int | None = None,
    odd: bool = False,
    stages: int | None = None,
) -> Machine:
    """Compile a kernel and read its machine code."""
    target = GPUTarget("cuda", capability, 32)
    options = {"num_warps": warps, "enable_fp_fusion": True, "maxnreg": most_registers}
    if stages is not None:
        options["num_stages"] = stages
    source = source_of(kernel, types, constants, odd)
    return _disassembled(triton.compile(source, target=target, options=options))


def _disassembled(binary: Any) -> Machine:
    path = Path(triton.knobs.cache.dir) / f"{binary.hash}.cubin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(binary.asm["cubin"])

    command = [str(TOOLS / "cuobjdump"), "-res-usage", "-sass", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=250)
    return Machine(done.stdout + done.stderr)
