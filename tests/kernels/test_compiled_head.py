"""The machine code of the fused output head for three GPUs, made without one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dlm_kernels.head.launch import Shape

    from tests.kernels.record import Variant

linux = pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux only")

# What multiplies 16-bit matrices, and the most instructions per logit around that loop.
TENSOR = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}
MOST = {80: 66, 90: 44, 100: 44}

TABLES = {"table": "*fp32", "id_table": "*i32", "inverses": "*fp32", "rows": "*i64"}
HEAD = TABLES | {"rates": "*fp32", "starts": "*i32", "suppressed": "*i32"}
NOISE = dict.fromkeys(("keys", "positions", "steps", "sub"), "*i64")
PICK = TABLES | NOISE | {"token": "*i64", "record": "*fp32", "status": "*i32"}
PLAIN = {"HAS_ROWS": True, "HAS_BIAS": False, "TWO": False, "GREEDY": 0, "ROUND": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "one law": {},
    "two laws, float16": {"TWO": True},
    "two laws, a temperature per row, bias": {"TWO": True, "GREEDY": 2, "HAS_BIAS": True},
    "argmax, float32 logits": {"GREEDY": 1, "ROUND": False},
}
GPUS = [(80, 8192), (90, 32), (90, 8192), (100, 8192)]  # capability and rows
# The variants with the most to hold for every GPU, the two with the least for one.
LEAST = ("one law", "argmax, float32 logits")
CASES = [(name, *gpu) for name in VARIANTS for gpu in GPUS if name not in LEAST or gpu[0] == 90]


RACES = [(64, 1, 1, 90), (64, 8, 4, 90), *((256, 8, 8, capability) for capability in TENSOR)]

pytestmark = [linux, pytest.mark.usefixtures("triton_cache")]


def head(name: str, capability: int, rows: int) -> tuple[Variant, Shape]:
    from dlm_kernels.head.kernel import head_kernel
    from dlm_kernels.head.launch import shape_for

    from tests.kernels.record import Variant

    cut = shape_for(capability, rows, 50258)
    constants = PLAIN | VARIANTS[name] | {"EVEN": True, "GROUP": 16}
    constants |= {"BM": cut.rows, "BN": cut.ids, "BK": cut.depth, "BLOCKS": cut.blocks}
    constants |= {} if constants["HAS_BIAS"] else {"bias": None}
    types = HEAD | dict.fromkeys(
        ("hidden", "weight", "bias"), "*fp16" if "float16" in name else "*bf16"
    )
    return Variant(
        head_kernel,
        types,
        constants,
        capability,
        cut.warps,
        255,
        stages=cut.stages,
        loop=(TENSOR[capability], 1),
    ), cut


def race(tiles: int, parts: int, warps: int, capability: int) -> Variant:
    from dlm_kernels.head.kernel import race_kernel

    from tests.kernels.record import Variant

    constants = {"HAS_ROWS": True, "TWO": True, "GREEDY": 2, "TILES": tiles, "SPLIT": parts}
    return Variant(race_kernel, PICK, constants, capability, warps, 255)


def clock(capability: int) -> Variant:
    from dlm_kernels.head.kernel import clock_kernel

    from tests.kernels.record import Variant

    return Variant(clock_kernel, NOISE | {"rates": "*fp32"}, {}, capability, 1)


def variants() -> dict[str, Variant]:
    """Return every variant that is compiled."""
    found = {
        f"{name}, sm_{gpu}, {rows} rows": head(name, gpu, rows)[0] for name, gpu, rows in CASES
    }
    found |= {f"race {sizes}": race(*sizes) for sizes in RACES}
    return found | {f"clock, sm_{capability}": clock(capability) for capability in TENSOR}


@pytest.mark.parametrize(("name", "capability", "rows"), CASES)
def test_the_head_uses_tensor_cores_and_spills_nothing(
    name: str, capability: int, rows: int
) -> None:
    from tests.kernels.record import fits

    one, cut = head(name, capability, rows)
    made = one.figures()
    each = (made.instructions - made.loop) / (cut.rows * cut.ids / (32 * cut.warps))
    print(
        f"{name}, {cut.rows} x {cut.ids}, sm_{capability}: {made.registers} "
        f"registers, {made.loop} instructions in the product, {each:.1f} per logit around it"
    )
    fits(made, 255)
    assert each <= MOST[capability]
    assert TENSOR[capability] in made.loop_names
    # The product's loop loads and multiplies; nothing else has crept into it.
    assert not set(made.loop_names) & {"MUFU", "FMNMX", "SHFL", "LDL", "STL"}


@pytest.mark.parametrize(("tiles", "parts", "warps", "capability"), RACES)
def test_the_race_of_the_tiles_spills_nothing(
    tiles: int, parts: int, warps: int, capability: int
) -> None:
    from tests.kernels.record import fits

    fits(race(tiles, parts, warps, capability).figures(), 192)
    if tiles == 256:
        fits(clock(capability).figures(), 64)


def test_the_record_is_what_the_compiler_makes() -> None:
    for one in (head("argmax, float32 logits", 90, 32)[0], clock(100)):
        assert one.compile() == one.figures()
