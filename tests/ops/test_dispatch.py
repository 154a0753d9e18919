from __future__ import annotations

import os
import sys
import types

import pytest
import torch

from dlm_sampling.ops._dispatch import kernel, why_no_kernels
from tests.bare import run
from tests.forks import ROOT, Forks


def test_auto_and_torch_stay_on_torch_for_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    for choice in ("auto", "torch"):
        monkeypatch.setenv("DLM_KERNELS", choice)
        assert kernel("draw", torch.empty(1)) is None
    monkeypatch.delenv("DLM_KERNELS")
    assert kernel("draw", torch.empty(1)) is None


def test_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_KERNELS", "cuda")
    with pytest.raises(ValueError, match="auto, triton, torch"):
        kernel("draw", torch.empty(1))


def test_forced_kernels_that_are_missing_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_KERNELS", "triton")
    monkeypatch.setitem(sys.modules, "dlm_kernels", None)
    with pytest.raises(RuntimeError, match=r"DLM_KERNELS=triton.*'draw'.*DLM_KERNELS=auto"):
        kernel("draw", torch.empty(1))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stands for dlm_kernels; it can run float32 only."""
    module = types.ModuleType("dlm_kernels")
    module.CONFIRMED_ON_A_GPU = True  # type: ignore[attr-defined]
    support = types.ModuleType("dlm_kernels.common.support")
    support.obstacle = lambda device, dtype, **_: (  # type: ignore[attr-defined]
        None if dtype == torch.float32 else f"{dtype} on {device}"
    )
    operators = types.ModuleType("dlm_kernels.operators")
    operators.draw = module.draw = len  # type: ignore[attr-defined]
    for part in (module, support, operators):
        monkeypatch.setitem(sys.modules, part.__name__, part)
    return module


def test_forced_kernels_are_used(
    monkeypatch: pytest.MonkeyPatch, package: types.ModuleType
) -> None:
    monkeypatch.setenv("DLM_KERNELS", "triton")
    assert kernel("draw", torch.empty(1), dtype=torch.float32) is package.draw


def test_scores_of_floats_have_kernels(
    monkeypatch: pytest.MonkeyPatch, package: types.ModuleType
) -> None:
    monkeypatch.setenv("DLM_KERNELS", "triton")
    found = kernel("draw", torch.empty(1), dtype=torch.float32, score=torch.float32)
    assert found is package.draw


def test_what_keeps_the_kernels_from_a_device_is_said_or_none(
    monkeypatch: pytest.MonkeyPatch, package: types.ModuleType
) -> None:
    def why(choice: str) -> str | None:
        monkeypatch.setenv("DLM_KERNELS", choice)
        return why_no_kernels(torch.device("cpu"))

    assert why("triton") == why("auto") == "None on cpu"
    monkeypatch.setattr(
        sys.modules["dlm_kernels.common.support"], "obstacle", lambda *_, **__: None
    )
    assert why("triton") is None and why("auto") is None
    monkeypatch.setattr(package, "CONFIRMED_ON_A_GPU", False)
    assert why("triton") is None and "no GPU has run" in str(why("auto"))
    assert why("torch") == "DLM_KERNELS=torch turns them off"


def test_forced_kernels_that_cannot_run_say_why(
    monkeypatch: pytest.MonkeyPatch, package: types.ModuleType
) -> None:
    monkeypatch.setenv("DLM_KERNELS", "triton")
    with pytest.raises(RuntimeError, match=r"'draw' cannot run: torch.float8_e5m2 on cpu\."):
        kernel("draw", torch.empty(1), dtype=torch.float8_e5m2)
    with pytest.raises(RuntimeError, match="'sort' cannot run: it cannot be loaded"):
        kernel("sort", torch.empty(1), dtype=torch.float32)


def test_what_has_no_kernel_by_design_is_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, package: types.ModuleType
) -> None:
    """Rules over tables draw from float64 laws, and orders of positions are whole numbers."""
    monkeypatch.setenv("DLM_KERNELS", "triton")
    assert kernel("draw", torch.empty(1), dtype=torch.float64) is None
    assert kernel("top_k_positions", torch.empty(1), score=torch.int64) is None


class OnTheGPU:
    """As much of a CUDA tensor as the choice of the implementation reads."""

    device = torch.device("cuda:0")


def test_auto_takes_the_kernel_for_cuda_tensors_that_it_can_run(
    package: types.ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    assert kernel("draw", OnTheGPU(), dtype=torch.float32) is package.draw  # type: ignore[arg-type]
    caplog.set_level("INFO", logger="dlm_sampling")
    for _ in range(2):
        assert kernel("draw", OnTheGPU(), dtype=torch.int8) is None  # type: ignore[arg-type]
    assert [r.getMessage() for r in caplog.records] == [
        "torch runs draw on the GPU, without a kernel: torch.int8 on cuda:0"
    ]


def test_auto_leaves_unconfirmed_kernels_alone(
    package: types.ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(package, "CONFIRMED_ON_A_GPU", False)
    caplog.set_level("INFO", logger="dlm_sampling")
    assert kernel("draw", OnTheGPU(), dtype=torch.float32) is None  # type: ignore[arg-type]
    assert "no GPU has run the kernels yet" in caplog.text
    monkeypatch.setenv("DLM_KERNELS", "triton")
    assert kernel("draw", OnTheGPU(), dtype=torch.float32) is package.draw  # type: ignore[arg-type]


def test_the_kernels_refuse_the_cpu() -> None:
    from dlm_kernels.common.support import obstacle

    if os.environ.get("TRITON_INTERPRET") != "1":
        assert obstacle(torch.device("cpu")) is not None


def test_importing_the_kernels_imports_no_triton(bare: Forks) -> None:
    code = "import dlm_kernels.common.support, sys; assert 'triton' not in sys.modules"
    status, _, err = run(bare, code, ROOT, [ROOT / "kernels"])
    assert status == 0, err
