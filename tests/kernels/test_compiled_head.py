"""The machine code of the fused output head for three GPUs, made without one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.kernels.aot import Machine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux only")

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


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        patch.delenv("TRITON_INTERPRET", raising=False)
        yield


def fits(made: Machine, registers: int) -> None:
    assert made.code, "nothing was disassembled"
    assert made.resource("STACK") == made.resource("LOCAL") == 0
    assert made.count("LDL", "STL") == 0
    assert made.resource("REG") <= registers


@pytest.mark.parametrize(("name", "capability", "rows"), CASES)
def test_the_head_uses_tensor_cores_and_spills_nothing(
    name: str, capability: int, rows: int
) -> None:
    from dlm_kernels.head.kernel import head_kernel
    from dlm_kernels.head.launch import shape_for

    from tests.kernels.aot import compiled

    cut = shape_for(capability, rows, 50258)
    constants = PLAIN | VARIANTS[name] | {"EVEN": True, "GROUP": 16}
    constants |= {"BM": cut.rows, "BN": cut.ids, "BK": cut.depth, "BLOCKS": cut.blocks}
    constants |= {} if constants["HAS_BIAS"] else {"bias": None}
    types = HEAD | dict.fromkeys(
        ("hidden", "weight", "bias"), "*fp16" if "float16" in name else "*bf16"
    )
    made = compiled(head_kernel, types, constants, capability, cut.warps, 255, stages=cut.stages)
    inner = made.shortest_loop(TENSOR[capability], 1)
    each = (len(made.code) - len(inner)) / (cut.rows * cut.ids / (32 * cut.warps))
    print(
        f"{name}, {cut.rows} x {cut.ids}, sm_{capability}: {made.resource('REG')} "
        f"registers, {len(inner)} instructions in the product, {each:.1f} per logit around it"
    )
    fits(made, 255)
    assert each <= MOST[capability]
    # The product's loop loads and multiplies; nothing else has crept into it.
    assert not {i.name.split(".")[0] for i in inner} & {"MUFU", "FMNMX", "SHFL", "LDL", "STL"}


@pytest.mark.parametrize(
    ("tiles", "parts", "warps", "capability"),
    [(64, 1, 1, 90), (64, 8, 4, 90), *((256, 8, 8, capability) for capability in TENSOR)],
)
def test_the_race_of_the_tiles_spills_nothing(
    tiles: int, parts: int, warps: int, capability: int
) -> None:
    from dlm_kernels.head.kernel import clock_kernel, race_kernel

    from tests.kernels.aot import compiled

    constants = {"HAS_ROWS": True, "TWO": True, "GREEDY": 2, "TILES": tiles, "SPLIT": parts}
    fits(compiled(race_kernel, PICK, constants, capability, warps, 255), 192)
    if tiles == 256:
        fits(compiled(clock_kernel, NOISE | {"rates": "*fp32"}, {}, capability, 1), 64)
