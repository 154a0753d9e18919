"""The compiled pass against the eager operators, to the last bit, and what happens without it."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_sampling import ops
from dlm_sampling.errors import NoLawError, SamplingWarning
from dlm_sampling.ops import fused_cpu, tiles
from dlm_sampling.ops.sources import Block
from dlm_sampling.types import DrawRecord, TokenLaw

HERE = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def fused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Turn the pass on; one compilation serves all tests.  Without a compiler it is the eager."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("DLM_FUSED_CPU", "on")
    with warnings.catch_warnings():
        warnings.simplefilter("error" if HERE else "ignore", SamplingWarning)
        yield


def both(monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> tuple[DrawRecord, ...]:
    """Draw with the pass and without."""
    found: list[DrawRecord] = []
    for choice in ("on", "off"):
        monkeypatch.setenv("DLM_FUSED_CPU", choice)
        found.append(ops.draw(*args, **options))
    return tuple(found)


def places(count: int) -> dict[str, torch.Tensor]:
    each = torch.arange(count)
    return {"keys": 7 * each + 1, "positions": each, "steps": each // 3}


@pytest.mark.slow  # it compiles
@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_table_of_a_draw_is_that_of_the_eager_operators(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, compared = torch.Generator().manual_seed(0), 0
    mixed = torch.tensor([0.0, 0.3, 1.0, 4.0] * 4)
    for vocab in (1, 2, 31, 33, 1000, 1024, 1040, 3071):
        logits = (torch.randn(20, vocab, generator=generator) * 4.0).to(dtype)
        logits[:, 5::9] = -torch.inf
        out = (0, vocab - 1, vocab // 2) if vocab > 3 else ()
        rows = torch.arange(19, 3, -1)
        cases = (
            (TokenLaw(), "model", None),
            (TokenLaw(temperature=0.0, suppressed=out), "model", None),
            (TokenLaw(temperature=0.3), "model", None),
            (TokenLaw(temperature=1.7, suppressed=out), "law", None),
            (TokenLaw(suppressed=out), "model", mixed),
        )
        for law, statistics, temperatures in cases:
            ours, theirs = both(
                monkeypatch, logits, law=law, statistics=statistics, rows=rows,
                temperatures=temperatures, **places(16),
            )  # fmt: skip
            for name, one, other in zip(ours._fields, ours, theirs, strict=True):
                assert torch.equal(one, other), (vocab, law, statistics, name)
                compared += 1
    assert compared == 8 * 5 * 7


@pytest.mark.slow
@pytest.mark.usefixtures("fused")
def test_shares_of_threads_change_nothing_and_lawless_rows_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = torch.randn(9, 2100)
    one, eager = both(monkeypatch, logits, **places(9))
    monkeypatch.setattr(fused_cpu, "_SHARE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setenv("DLM_FUSED_CPU", "on")
    shared = ops.draw(logits, **places(9))
    for first, second, third in zip(one, eager, shared, strict=True):
        assert torch.equal(first, second) and torch.equal(first, third)
    for value, what in ((torch.nan, "NaN"), (torch.inf, r"\+inf"), (-torch.inf, "no token")):
        bad = logits.clone()
        bad[4] = bad[4].clamp(max=-1e30) if what == "no token" else bad[4]
        bad[4, slice(None) if what == "no token" else 2070] = value
        for law in (TokenLaw(), TokenLaw(temperature=0.0)):
            with pytest.raises(NoLawError, match=f"row 4 .* {what}"):
                ops.draw(bad, law=law, **places(9))
    with pytest.raises(IndexError):
        ops.draw(logits, rows=torch.tensor([0, 9]), **places(2))


@pytest.mark.slow
@pytest.mark.usefixtures("fused")
def test_one_compilation_serves_later_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if HERE is None:
        return
    first = fused_cpu._built()
    assert first.parent == folder / "dlm_sampling" and first.suffix == ".so"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert fused_cpu._built() == first and list(first.parent.iterdir()) == [first]


def test_nothing_is_looked_for_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLM_FUSED_CPU", raising=False)
    monkeypatch.setattr(fused_cpu, "read", lambda *_, **__: pytest.fail("not asked for"))
    ops.draw(torch.randn(2, 40), **places(2))
    monkeypatch.setenv("DLM_FUSED_CPU", "yes")
    with pytest.raises(ValueError, match="DLM_FUSED_CPU='yes': must be on or off"):
        ops.draw(torch.randn(2, 40), **places(2))


@pytest.mark.parametrize("missing", [True, False])
def test_without_a_compiler_that_works_one_warning_and_the_eager_operators(
    missing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(3, 40)
    wanted = ops.draw(logits, **places(3))
    monkeypatch.setenv("DLM_FUSED_CPU", "on")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")  # a program that fails
    if missing:
        monkeypatch.setattr(shutil, "which", lambda _: None)
    fused_cpu._compiled.cache_clear()
    try:
        said = "no C.. compiler is found" if missing else "exit status 1"
        with pytest.warns(SamplingWarning, match=f"cannot be used: .*{said}.*eager") as seen:
            found = [ops.draw(logits, **places(3)) for _ in range(2)]
        assert len(seen) == 1
    finally:
        fused_cpu._compiled.cache_clear()
    for one in found:
        assert all(map(torch.equal, one, wanted))


@pytest.mark.slow
@pytest.mark.usefixtures("fused")
def test_a_pass_with_other_numbers_is_refused() -> None:
    if HERE is None:
        return
    library = fused_cpu._library(tiles.read_eagerly)
    assert library is not None and fused_cpu._difference(library, tiles.read_eagerly) is None

    def altered(*args: Any, **options: Any) -> Any:
        found = tiles.read_eagerly(*args, **options)
        if found.shown is not None and found.shown.tiles.shape[1] > 1:
            found.shown.tiles[0, 1] = found.shown.tiles[0, 1].nextafter(torch.tensor(9.0))
        return found

    said = fused_cpu._difference(library, altered)
    assert said == "its numbers differ for torch.float32 logits of 3371 columns"


def test_tensors_are_added_up_from_the_first_to_the_last() -> None:
    """In float32 2^24 + 1 is 2^24: the first sum loses both ones, the second neither."""
    large, one = torch.tensor([2.0**24]), torch.tensor([1.0])
    assert fused_cpu._in_turn((large, one, one)).item() == 2.0**24
    assert fused_cpu._in_turn((one, one, large)).item() == 2.0**24 + 2.0


def test_what_the_eager_operators_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model, filtered = fused_cpu.TemperedLaw(None, 1.0), fused_cpu.TemperedLaw(TokenLaw(), 1.0)
    logits = torch.randn(2, 40)

    def fits(x: torch.Tensor, law: fused_cpu.TemperedLaw = model) -> bool:
        return fused_cpu._fits(Block.of(x, None), model, law)

    assert fits(logits) and fits(logits.bfloat16()) and fits(logits.expand(2, 2, 40)[0])
    assert not (fits(logits.double()) or fits(logits.half()) or fits(logits.T))
    assert not fits(logits, filtered) and not fits(logits.to("meta"))
    with ops.without_sync():
        assert not fits(logits)
