"""The machine code of the kernels for compute capability 8.0, 9.0 and 10.0, made without a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.kernels.record import Variant

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux only")

CAPABILITIES = (80, 90, 100)
HOPPER = (90,)  # for variants whose siblings are compiled for all
PER_LANE = 1024 // 32  # logits of a tile that one lane of its warp reads

STATS = dict.fromkeys(("tile_max", "sums", "entropy_sums", "draw_sums", "inverses", "mix"), "*fp32")
LOOKUP = {"rows": "*i64", "starts": "*i32", "suppressed": "*i32"}
NOISE = dict.fromkeys(("keys", "positions", "steps", "sub", "token"), "*i64")
TILES = STATS | LOOKUP
EDGES = dict.fromkeys(("cuts", "lasts", "sizes"), "*i64") | {"limits": "*fp64"}
KEPT = dict.fromkeys(("kept", "kept_entropy_sums"), "*fp32")
CANVAS = dict.fromkeys(("k", "tokens", "drawn", "counts"), "*i64") | dict.fromkeys(
    ("eligible", "chosen", "unknown"), "*i8"
)
FINISH = TILES | NOISE | EDGES | {"record": "*fp32", "status": "*i32"}
ALONE = {"HAS_ROWS": True, "MIX": 0, "other": None, "mix": None, "stride_id": 1}


class Case(NamedTuple):
    module: str
    kernel: str
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int
    registers: int
    per_element: float | None = None  # most instructions per logit, where a loop reads logits
    # What the assembler is told, by compute capability.
    most_registers: Callable[[int], int | None] = lambda capability: None
    odd: bool = False  # rows of logits begin anywhere, as with V = 50258 packed tightly
    capabilities: tuple[int, ...] = CAPABILITIES
    cycles: int | None = None  # most of them, see `in_order`


def logits(dtype: str, mix: int) -> tuple[dict[str, str], dict[str, Any]]:
    """Types and constants of what is read: one tensor of logits, or two as one."""
    pair = {k: v for k, v in ALONE.items() if k not in ("other", "mix")}
    pair |= {"MIX": mix, "stride_other_id": 1}
    return {"logits": dtype, "other": dtype}, pair if mix else ALONE


def k1(
    dtype: str, limit: float | None, *, two: bool = False, mix: int = 0, odd: bool = False,
    alike: bool = True, group: int = 4, ahead: bool = False,
) -> Case:  # fmt: skip
    """`alike`: rows of both logits begin alike; else they are read one logit at a time."""
    types, constants = logits(dtype, mix)
    constants = constants | {"TWO": two, "GROUP": group, "AHEAD": ahead}
    constants |= {"READ": (2 if odd else 1) if alike else 0}

    def most(capability: int) -> int | None:
        from dlm_kernels.common.logit_pass import k1_registers

        return k1_registers(capability, mix, constants["READ"])

    types |= TILES
    registers = 144 if mix == 2 else 120 if odd else 112
    return Case(
        "dlm_kernels.common.tiles", "tile_kernel", types, constants, 1, registers, limit, most, odd
    )


def cut(dtype: str, *, top_k: bool, top_p: bool) -> Case:
    types, constants = logits(dtype, 0)
    shift = 16 if dtype == "*bf16" else 0
    constants = constants | {"TOP_K": top_k, "TOP_P": top_p, "INCLUDE": True, "SHIFT": shift}
    types = types | TILES | EDGES | KEPT
    constants |= {"TILES": 128}
    return Case(
        "dlm_kernels.filters.kernel",
        "filter_kernel",
        types,
        constants,
        8,
        128,
        most_registers=lambda _: 128,
    )


def shared_cut(kernel: str, dtype: str, **rule: Any) -> Case:
    """The cut of a row by several programs; `rule` holds the constants of the kernel."""
    types, constants = logits(dtype, 0)
    constants = (
        constants | {"SHIFT": 16 if dtype == "*bf16" else 0, "TILES": 128, "PARTS": 8} | rule
    )
    memory = dict.fromkeys(("state", "counts", "ties"), "*i64")
    memory |= dict.fromkeys(("mass_state", "masses", "part_masses"), "*fp64")
    types = types | TILES | EDGES | KEPT | memory
    return Case(
        "dlm_kernels.filters.split", kernel, types, constants, 8, 128,
        most_registers=lambda _: 128, capabilities=HOPPER,
    )  # fmt: skip


def k2(
    tiles: int, warps: int, registers: int, cycles: int, *, greedy: int, filters: bool = False,
    mix: int = 0,
) -> Case:  # fmt: skip
    """`warps` are those of `draw_warps`."""
    types, constants = logits("*bf16", mix)
    constants = constants | {"GREEDY": greedy, "FILTERS": filters, "LAW_STATISTICS": False}
    constants |= {"SHIFT": 16, "TILES": tiles}
    return Case(
        "dlm_kernels.categorical.kernel", "draw_kernel", FINISH | types, constants, warps,
        registers, cycles=cycles,
    )  # fmt: skip


def given(*, every: bool) -> Case:
    types, constants = logits("*bf16", 0)
    constants = constants | {"EVERY": every, "FILTERS": True, "GREEDY": False}
    constants |= {"SHIFT": 16, "TILES": 128}
    types = types | TILES | EDGES | {"tokens": "*i64", "out": "*fp32", "status": "*i32"}
    return Case("dlm_kernels.log_probs.launch", "log_probs_kernel", types, constants, 4, 128)


def moved() -> Case:
    types = dict.fromkeys(("norms", "other_norms", "out", "tiny"), "*fp32") | LOOKUP
    types |= {"tiny": "fp32", "logits": "*bf16", "other": "*bf16"}
    constants = {"HAS_ROWS": True, "GROUP": 8, "stride_id": 1, "stride_other_id": 1}
    return Case("dlm_kernels.divergence.launch", "divergence_kernel", types, constants, 4, 128)


def k3(
    score: str, length: int, *, threshold: bool = False, noise: bool = False, budget: bool = False
) -> Case:
    """A row of this length in registers; 0: a longer row, in pieces."""
    wide = score == "*fp64" or noise
    constants = {"WIDE": wide, "THRESHOLD": threshold, "WRITE": True}
    constants |= {"BUDGET": budget, "WINDOW": budget, "STREAM": 2 if noise else -1}
    types = CANVAS | {"score": score, "threshold": score, "cost": "*fp32", "budget": "*fp64"}
    types |= dict.fromkeys(("window", "keys", "steps", "origins", "sub"), "*i64")
    if length:
        warps = length * (16 if budget else 8 if wide else 4) // 2048
        constants |= {"BLOCK": length}
        return Case(
            "dlm_kernels.positions.kernel", "positions_kernel", types, constants, warps, 128
        )
    types |= {"order": "*u64" if wide else "*u32"}
    constants |= {"CHUNK": 1024}
    return Case(
        "dlm_kernels.positions.long_rows",
        "long_rows_kernel",
        types,
        constants,
        8,
        160,
        most_registers=lambda _: 160,
    )


# Of variants that differ in a number, the one with the most to hold and the one at the other end.
CASES = {
    "K1 bf16": k1("*bf16", 9),
    "K1 fp32": k1("*fp32", 9),
    "K1 bf16, odd rows": k1("*bf16", 9.5, odd=True),
    "K1 fp32, odd rows": k1("*fp32", 9.5, odd=True),
    # The law of the statistics is not the law of the draw: two exponentials per logit.
    "K1 bf16, two laws": k1("*bf16", 13, two=True),
    "K1 fp32, two laws, odd": k1("*fp32", 13, two=True, odd=True),
    "K1 bf16, one tile": k1("*bf16", None, group=1),
    "K1 bf16, ahead": k1("*bf16", 9, ahead=True),
    "K1 fp32, two laws, odd, ahead": k1("*fp32", 14, two=True, odd=True, ahead=True),
    # Per pair of logits.
    "K1 bf16, guidance": k1("*bf16", 13, mix=1),
    "K1 bf16, guidance, odd": k1("*bf16", 13, mix=1, odd=True),
    "K1 bf16, guidance, unlike": k1("*bf16", 22, mix=1, odd=True, alike=False),
    "K1 bf16, remainder": k1("*bf16", 24, mix=2),
    "K1 bf16, remainder, odd": k1("*bf16", 24, mix=2, odd=True),
    "cut fp32, top-p": cut("*fp32", top_k=False, top_p=True),
    "cut bf16, both": cut("*bf16", top_k=True, top_p=True),
    "shared cut fp32, turn": shared_cut(
        "turn_kernel", "*fp32", MASS=True, FIRST=False, INCLUDE=True
    ),
    "shared cut bf16, boundary": shared_cut(
        "boundary_kernel", "*bf16", MASS=True, FIRST=False, INCLUDE=False, COUNT=False
    ),
    "shared cut bf16, sums": shared_cut("sums_kernel", "*bf16", LAST=True),
    "K2 V 131072": k2(128, 1, 168, 4300, greedy=0),
    "K2 V 131072, filters": k2(128, 4, 96, 5300, greedy=2, filters=True),
    "K2 V 131072, filters, many rows": k2(128, 1, 192, 6400, greedy=2, filters=True),
    "K2 V 131072, greedy": k2(128, 1, 104, 2000, greedy=1),
    "K2 V 262144, remainder": k2(256, 1, 255, 14_500, greedy=2, filters=True, mix=2),
    "K2 V 1048576": k2(1024, 8, 128, 6200, greedy=2, filters=True),
    "given token, filters": given(every=False),
    "every token, filters": given(every=True),
    "divergence": moved(),
    "K3 fp32, L 8192": k3("*fp32", 8192, threshold=True),
    "K3 fp64, L 4096": k3("*fp64", 4096, threshold=True),
    "K3 noise, L 4096": k3("*fp32", 4096, noise=True),
    "K3 all, L 2048": k3("*fp32", 2048, threshold=True, noise=True, budget=True),
    "K3 fp32, any L": k3("*fp32", 0, threshold=True),
    "K3 fp64, any L": k3("*fp64", 0, threshold=True),
    "K3 all, any L": k3("*fp32", 0, threshold=True, noise=True, budget=True),
}
# Compiled for all three: a case of every kernel and of every way to read.  Their siblings for one.
EVERYWHERE = {
    "K1 bf16", "K1 bf16, two laws", "K1 bf16, guidance, odd", "K1 bf16, remainder",
    "cut bf16, both", "K2 V 131072, filters", "K3 all, L 2048", "K3 all, any L",
}  # fmt: skip
for sibling in CASES.keys() - EVERYWHERE:
    CASES[sibling] = CASES[sibling]._replace(capabilities=HOPPER)


def variant(case: Case, capability: int) -> Variant:
    import importlib

    from tests.kernels.record import Variant

    return Variant(
        kernel=getattr(importlib.import_module(case.module), case.kernel),
        types=case.types,
        constants=case.constants,
        capability=capability,
        warps=case.warps,
        most_registers=case.most_registers(capability),
        odd=case.odd,
        loop=("FFMA", 2 * PER_LANE) if case.per_element else None,
    )


def variants() -> dict[str, Variant]:
    """Return every variant that is compiled."""
    return {
        f"{name}, sm_{capability}": variant(case, capability)
        for name, case in CASES.items()
        for capability in case.capabilities
    }


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("triton_cache")
def test_no_spills_few_registers_few_instructions(name: str) -> None:
    from tests.kernels.record import fits

    case = CASES[name]
    for capability in case.capabilities:
        made = variant(case, capability).figures()
        each = made.loop / PER_LANE
        print(
            f"{name:24} sm_{capability:<4} {made.registers:4} registers"
            f" {made.instructions:6} instructions" + (f" {each:6.1f} per logit" if each else "")
        )
        fits(made, case.registers)
        if case.cycles and capability in HOPPER:
            print(f"    usually {made.usual}")
            assert 0 < made.usual["cycles"] <= case.cycles
            assert case.warps > 1 or made.usual["barriers"] == 0
        if case.per_element:
            assert 0 < each <= case.per_element


@pytest.mark.parametrize("name", ("K1 bf16, odd rows", "divergence", "K3 fp32, any L"))
@pytest.mark.usefixtures("triton_cache")
def test_the_record_is_what_the_compiler_makes(name: str) -> None:
    one = variant(CASES[name], 90)
    assert one.compile() == one.figures()


def test_the_record_names_what_the_machine_code_follows_from() -> None:
    one = variant(CASES["divergence"], 90)
    changes = ({"capability": 80}, {"warps": 8}, {"most_registers": 64}, {"odd": True})
    changes += ({"constants": one.constants | {"GROUP": 4}}, {"loop": ("FADD", 1)})
    keys = {one.key(), *(replace(one, **change).key() for change in changes)}
    assert len(keys) == 1 + len(changes)


CODE = """
        /*0000*/                   LDG.E.64 R2, desc[UR4][R8.64] ;
        /*0010*/                   IMAD.MOV.U32 R1, RZ, RZ, R7 ;
        /*0020*/                   DADD R4, R10, R2 ;
        /*0030*/                   DSETP.GT.AND P0, PT, R4, RZ, PT ;
        /*0040*/              @!P0 BRA 0x70 ;
        /*0050*/                   CALL.REL.NOINC 0x1000 ;
        /*0060*/                   DADD R4, R4, R4 ;
        /*0070*/                   STG.E.64 desc[UR4][R8.64], R4 ;
        /*0080*/                   EXIT ;
"""


def test_a_warp_waits_for_what_it_reads_and_skips_what_is_odd() -> None:
    """The load is there in cycle 301, the sum in 309, the comparison in 317."""
    from tests.kernels.aot import Machine
    from tests.kernels.in_order import estimate

    found = estimate(Machine(CODE))
    assert found.numbers() == {
        "instructions": 6, "doubles": 2, "barriers": 0, "waits": 1, "cycles": 318
    }  # fmt: skip
    # Where the upper half of the load is another register, the sum waits for it all the same.
    half = CODE.replace("DADD R4, R10, R2", "IADD3 R4, R10, R3, RZ")
    assert estimate(Machine(half)).waits == 1
    assert estimate(Machine(half.replace("R3, RZ", "R12, RZ"))).waits == 0
