from __future__ import annotations

import json
import time

import pytest
import torch
from rich.console import Console

from dlm_sampling.checkup.bench_loop import (
    fixed_denoiser,
    profiled,
    run_bench_loop,
)
from dlm_sampling.checkup.by_hand import (
    ANCESTRAL,
    KLASS,
    LLADA,
    LOOPS,
    UNIFORM,
    HandLoop,
    ancestral_by_hand,
    klass_by_hand,
    llada_by_hand,
    uniform_by_hand,
)
from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import create
from tests.ops.laws import chi_square_p


@pytest.mark.slow
def test_a_report_has_every_loop_at_every_setting_and_names_its_functions() -> None:
    threads = torch.get_num_threads()
    report = run_bench_loop(
        ["llada", "klass", "duo", "picard"],
        [(2, 8), (1, 9)],
        vocab=40,
        steps=3,
        repeats=1,
        profile=True,
    )
    assert torch.get_num_threads() == threads
    names = [*LOOPS, "llada", "klass", "duo", "picard"]
    assert [(r.sampler, r.rows, r.length) for r in report.loops] == [
        (name, *setting) for setting in ((2, 8), (1, 9)) for name in names
    ]
    rows = {(row.sampler, row.rows): row for row in report.loops}
    for row in report.loops:
        assert row.microseconds > 0.0
        base = rows[LLADA, row.rows].microseconds
        assert row.ratio == row.microseconds / base
        assert row.ratio_of_pass == row.ratio / max(row.passes, 1.0)
        own = rows[row.hand, row.rows].microseconds
        assert row.ratio_of_hand == row.microseconds / own / max(row.passes, 1.0)
    hands = {name: rows[name, 1].hand for name in names}
    assert hands == {
        **{name: name for name in LOOPS},
        "llada": LLADA, "klass": KLASS, "duo": UNIFORM, "picard": ANCESTRAL,
    }  # fmt: skip
    assert rows["llada", 2].steps == 3 and rows["llada", 2].passes == 1.0
    assert rows["picard", 2].passes > 1.0
    assert list(report.profiles) == names[len(LOOPS) :]
    hot = report.profiles["llada"]
    assert [one.microseconds for one in hot] == sorted(
        (one.microseconds for one in hot), reverse=True
    )
    assert json.loads(report.to_json())["loops"][0]["sampler"] == LLADA
    console = Console(width=80)
    with console.capture() as shown:
        for table in report.tables():
            console.print(table)
    assert all(f" {name} " in shown.get() for name in names)  # none is cut off
    assert "B 2 L 8:" in shown.get() and hot[0].function in shown.get()


def test_a_profile_counts_calls_and_microseconds_of_a_step() -> None:
    def twice_a_step() -> None:
        time.sleep(0.002)

    def loop() -> tuple[int, float]:
        for _ in range(8):
            twice_a_step()
        return 4, 1.0

    begun = time.perf_counter()
    found = {one.function: one for one in profiled(loop)}
    whole = 1e6 * (time.perf_counter() - begun)
    (name,) = (name for name in found if "twice_a_step" in name)
    (slept,) = (name for name in found if "sleep" in name)
    assert found[name].calls == 2.0 and found[slept].calls == 2.0
    assert 4000 <= found[slept].microseconds <= whole / 4
    assert 0.0 < found[name].microseconds < 1000.0  # finer than the profile's own report


def test_functions_of_the_same_name_have_lines_of_their_own_in_a_profile() -> None:
    class One:
        def of(self) -> None: ...

    class Two:
        def of(self) -> None: ...

    def loop() -> tuple[int, float]:
        One().of()
        Two().of()
        return 1, 1.0

    assert sum(hot.function.startswith("of (test_bench_loop.py:") for hot in profiled(loop)) == 2


@pytest.mark.parametrize(("name", "loop"), [("llada", llada_by_hand), ("klass", klass_by_hand)])
def test_the_loops_by_hand_write_what_the_samplers_write(name: str, loop: HandLoop) -> None:
    logits = torch.randn(1, 9, 12, generator=torch.Generator().manual_seed(0)) * 6.0
    logits = logits.repeat(2, 1, 1)  # a row that goes on alone is shown those of the first
    logits[..., 11] = -100.0  # by hand the mask is not banned
    tokens, everywhere = torch.full((2, 9), 11), torch.ones(2, 9, dtype=torch.bool)
    denoiser, sampler = fixed_denoiser(logits, "absorbing"), create(name)
    counts: list[int] = []
    for steps in (1, 4, 9):
        out = sample(denoiser, sampler, tokens, everywhere, seeds=[0, 1], steps=steps)
        written, taken = loop(logits, steps)
        assert torch.equal(written, out.tokens) and taken == int(out.steps.max())
        counts.append(taken)
    assert counts[0] == 1 and (counts[2] == 9) == (name == "llada")  # some are ready early


@pytest.mark.parametrize("loop", [ancestral_by_hand, uniform_by_hand])
def test_the_loops_by_hand_draw_from_the_law(loop: HandLoop) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, -100.0]).expand(1, 4000, 4)
    counts = torch.bincount(loop(logits, 2)[0][0], minlength=4)
    assert int(counts[3]) == 0
    assert chi_square_p(counts[:3], logits[0, 0, :3].double().softmax(-1)) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "steps=0"), ({"settings": [(0, 4)]}, "rows=0"), ({"repeats": 0}, "repeats=0")],
)
def test_what_cannot_be_measured_is_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_bench_loop(["llada"], **options)  # pyright: ignore[reportArgumentType]
