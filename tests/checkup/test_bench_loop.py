from __future__ import annotations

import json
import time

import pytest
import torch
from rich.console import Console

from dlm_sampling.checkup import bench_loop
from dlm_sampling.checkup.bench_loop import (
    LoopReport,
    fixed_denoiser,
    measured,
    profiled,
    run_bench_loop,
)
from dlm_sampling.checkup.by_hand import (
    ANCESTRAL,
    CCD_LOOP,
    CREDIT,
    ENTROPY,
    KLASS_LOOP,
    LLADA,
    LOOPS,
    MARGIN,
    MEAN,
    UNIFORM,
    HandLoop,
    ancestral_by_hand,
    ccd_by_hand,
    credit_by_hand,
    entropy_by_hand,
    klass_by_hand,
    llada_by_hand,
    loop_like,
    margin_by_hand,
    mean_by_hand,
    uniform_by_hand,
)
from dlm_sampling.engine.sample import sample
from dlm_sampling.samplers import create
from tests.ops.laws import chi_square_p


@pytest.mark.slow
def test_a_report_has_every_loop_at_every_setting_and_goes_on_from_any_point() -> None:
    threads, told = torch.get_num_threads(), list[tuple[str, LoopReport]]()
    names, settings = ["llada", "picard"], [(2, 8), (1, 9)]

    def watch(name: str, report: LoopReport) -> None:
        told.append((name, report))

    report = run_bench_loop(names, settings, 40, 3, repeats=1, profile=["llada"], watch=watch)
    assert torch.get_num_threads() == threads
    order = [(name, *setting) for setting in settings for name in (*LOOPS, *names)]
    assert [(r.sampler, r.rows, r.length) for r in report.loops] == order
    assert [name for name, _ in told] == [*(name for name, *_ in order), "profile of llada"]
    assert [len(so_far.loops) for _, so_far in told] == list(range(len(order) + 1))
    rows = {(row.sampler, row.rows): row for row in report.loops}
    assert all(row.microseconds > 0.0 for row in report.loops)
    assert rows["llada", 2].steps == 3 and rows["llada", 2].passes == 1.0
    assert rows["picard", 2].passes > 1.0
    hot = report.profiles["llada"]
    assert list(report.profiles) == ["llada"]
    assert [one.microseconds for one in hot] == sorted(
        (one.microseconds for one in hot), reverse=True
    )
    record = json.loads(report.to_json())
    assert LoopReport.of({"command": "bench loop", **record}) == report
    begun = told[len(LOOPS) + 1][1]  # cut short before its second sampler
    told.clear()
    whole = run_bench_loop(names, settings, 40, 3, repeats=1, begun=begun, watch=watch)
    assert whole.loops[: len(begun.loops)] == begun.loops
    assert [(r.sampler, r.rows, r.length) for r in whole.loops] == order
    assert len(told) == len(order) - len(begun.loops) and told[0][0] == "picard"
    console = Console(width=80)
    with console.capture() as shown:
        for table in report.tables():
            console.print(table)
    assert all(f" {name} " in shown.get() for name in (*LOOPS, *names))  # none is cut off
    headers = [str(column.header) for column in report.tables()[0].columns]
    assert headers[:5] == ["sampler", "by hand", headers[2], "x", "own"]  # a word, one meaning
    assert "B 2 L 8:" in shown.get() and hot[0].function in shown.get()
    with pytest.raises(ValueError, match="begun: it was measured with other repeats and vocab"):
        run_bench_loop(names, settings, 41, 3, repeats=2, begun=begun)


class Clock:
    """Stand for the clock of the processor: a loop moves it by what it costs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "process_time", self.read)

    def read(self) -> float:
        """Return the seconds so far."""
        return self.now

    def loop(self, steps: int, passes: float, *costs: float) -> bench_loop.Loop:
        """Return a loop that takes these seconds, one number a run."""
        left = list(costs)

        def run() -> tuple[int, float]:
            self.now += left.pop(0)
            return steps, passes

        return run


def test_a_row_is_the_least_of_the_rounds_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    loops = {
        LLADA: clock.loop(2, 1.0, 1e-6, 8e-6, 4e-6),
        CREDIT: clock.loop(4, 1.0, 1e-6, 80e-6, 160e-6),
        "dinfer-credit": clock.loop(5, 2.0, 1e-6, 500e-6, 400e-6),
    }
    row = measured("dinfer-credit", loops, 3, 7, repeats=2, seconds=1.0)
    assert (row.sampler, row.rows, row.length, row.steps) == ("dinfer-credit", 3, 7, 5)
    assert (row.passes, row.hand) == (2.0, CREDIT)
    assert row.microseconds == pytest.approx(80.0)
    assert row.ratio == pytest.approx(40.0) and row.ratio_of_pass == pytest.approx(20.0)
    assert row.ratio_of_hand == pytest.approx(2.0)


def test_a_long_run_gets_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    loops = {LLADA: clock.loop(1, 1.0, *[1.0] * 9), "llada": clock.loop(1, 0.5, 0.9, 0.3, 0.2)}
    row = measured("llada", loops, 1, 1, repeats=5, seconds=1.0)
    assert row.microseconds == pytest.approx(0.3e6)  # the warm-up and one round took over 1 s
    assert row.ratio_of_hand == row.ratio_of_pass == pytest.approx(0.3)
    loops["llada"] = clock.loop(1, 1.0, 1.5)
    assert measured("llada", loops, 1, 1, repeats=5, seconds=1.0).microseconds == 1.5e6


def test_each_sampler_has_the_loop_by_hand_that_does_as_much() -> None:
    expected = {
        "llada": LLADA, "dream-maskgit-plus": LLADA, "fast-dllm": LLADA, "rdm": LLADA,
        "llada-margin": MARGIN, "dream-topk-margin": MARGIN, "llada-entropy": ENTROPY,
        "dream-entropy": ENTROPY, "eb-sampler": ENTROPY,
        "d3llm": ENTROPY, "ccd": CCD_LOOP, "ccd-average": MEAN, "dinfer-credit": CREDIT,
        "klass": KLASS_LOOP, "klass-dream": KLASS_LOOP, "ancestral": ANCESTRAL,
        "picard": ANCESTRAL,
    }  # fmt: skip
    assert {name: loop_like(create(name), "absorbing") for name in expected} == expected
    assert loop_like(create("duo"), "uniform") == loop_like(create("rdm"), "uniform") == UNIFORM


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


@pytest.mark.parametrize(
    ("name", "loop"),
    [
        ("llada", llada_by_hand),
        ("klass", klass_by_hand),
        ("llada-margin", margin_by_hand),
        ("llada-entropy", entropy_by_hand),
        ("ccd", ccd_by_hand),
        ("ccd-average", mean_by_hand),
        ("dinfer-credit", credit_by_hand),
    ],
)
def test_the_loops_by_hand_write_what_the_samplers_write(name: str, loop: HandLoop) -> None:
    logits = torch.randn(1, 16, 12, generator=torch.Generator().manual_seed(0)) * 6.0
    logits = logits.repeat(2, 1, 1)  # a row that goes on alone is shown those of the first
    logits[..., 11] = -100.0  # by hand the mask is not banned
    tokens, everywhere = torch.full((2, 16), 11), torch.ones(2, 16, dtype=torch.bool)
    denoiser, sampler = fixed_denoiser(logits, "absorbing"), create(name)
    counts: list[int] = []
    for steps in (1, 4, 16):
        out = sample(denoiser, sampler, tokens, everywhere, seeds=[0, 1], steps=steps)
        written, taken = loop(logits, steps)
        assert torch.equal(written, out.tokens) and taken == int(out.steps.max())
        counts.append(taken)
    adaptive = len(set(counts)) == 1  # planned steps mean nothing to it
    assert adaptive == (name == "dinfer-credit") and (adaptive or counts[0] == 1)
    early = name in ("klass", "ccd", "dinfer-credit")
    assert (counts[2] < 16) == early  # some are ready early


@pytest.mark.parametrize("loop", [ancestral_by_hand, uniform_by_hand])
def test_the_loops_by_hand_draw_from_the_law(loop: HandLoop) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, -100.0]).expand(1, 4000, 4)
    counts = torch.bincount(loop(logits, 2)[0][0], minlength=4)
    assert int(counts[3]) == 0
    assert chi_square_p(counts[:3], logits[0, 0, :3].double().softmax(-1)) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"settings": [(0, 4)]}, "rows=0"),
        ({"repeats": 0}, "repeats=0"),
        ({"seconds": 0.0}, "seconds=0.0"),
    ],
)
def test_what_cannot_be_measured_is_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_bench_loop(["llada"], **options)  # pyright: ignore[reportArgumentType]
