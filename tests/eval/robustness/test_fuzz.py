"""Random calls of `generate` keep every invariant; the full run is a command with a result file."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from dlm_eval.robustness import fuzz, invariants
from dlm_eval.robustness.calls import PAIRS, Call
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
CALLS = 2  # of each kind, for each pair of sampler and noise: the simplest, and a random one
FIRST = {name: kind for name, kind in reversed(PAIRS)}  # arguments are refused on any noise
CASES = [(*pair, False) for pair in PAIRS] + [(*pair, True) for pair in FIRST.items()]


@pytest.fixture(autouse=True)
def the_same_calls_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis mixes in numbers that it finds in the source of all modules imported so far.

    In a whole run those are a thousand files, which takes seconds, and others in every worker.
    """
    none = Constants()
    monkeypatch.setattr(providers, "_get_local_constants", lambda: none, raising=False)


@pytest.mark.parametrize(("name", "kind", "wrong"), CASES)
def test_random_calls_keep_every_invariant(name: str, kind: str, wrong: bool) -> None:
    own = zlib.crc32(f"{name}, {kind}".encode())  # no two pairs are called alike
    assert fuzz.fuzz(name, kind, CALLS, own, wrong=wrong)["broken"] == {}


def call(**options: Any) -> Call:
    return Call("llada", "absorbing", [[1, 2], [3]], {"seed": 5, "max_new_tokens": 6, **options})


def test_a_planted_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each invariant can fail: what `generate` returns is changed behind its back."""
    assert invariants.judge(call()).broken == ()
    right = invariants.generate

    def tampered(change: str, at: int) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            out = right(*args, **options)
            value: Tensor = getattr(out, change)
            value.view(-1)[at] += 1
            return out

        return run

    for change, at, words in (
        ("sequences", 0, "the prompt changed"),
        ("logprobs", -1, "log-probability above 0"),
        ("logprobs", 0, "a fixed position has a log-probability"),
        ("nfe", 0, "nfe sums to"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(invariants, "generate", tampered(change, at))
            assert any(words in line for line in invariants.judge(call()).broken), words


def test_an_error_of_torch_or_one_without_the_name_is_a_break() -> None:
    def raised(error: Exception) -> Exception:
        try:
            raise error
        except Exception as found:
            return found

    assert "refused by" in invariants.refusal(call(), raised(ValueError("steps")))[0]
    other = Call("llada", "absorbing", [[1]], {"max_new_tokens": 1, "steps": -1}, "seed")
    with pytest.raises(ValueError, match="steps") as unnamed:
        invariants.generate(other.network()[1], [[1]], sampler="llada", steps=-1)
    right = Call("llada", "absorbing", [[1]], {"max_new_tokens": 1}, "seed")
    assert "does not name seed" in invariants.refusal(right, unnamed.value)[0]


def test_the_committed_run_is_whole_and_broke_nothing() -> None:
    found = json.loads((ROOT / "eval/results/fuzz.json").read_text())
    assert found["calls"] >= 10_000
    assert [pair for pair, part in found["pairs"].items() if part["broken"]] == []
    assert {f"{name}, {kind}" for name, kind in PAIRS} <= found["pairs"].keys()


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, made = tmp_path / "fuzz.json", list[str]()

    def counted(name: str, kind: str, *args: Any, **options: Any) -> dict[str, Any]:
        made.append(f"{name} {kind}")
        if len(made) == 7:
            raise KeyboardInterrupt
        return {"calls": 1, "refused": 0, "broken": {}}

    monkeypatch.setattr(fuzz, "fuzz", counted)
    with pytest.raises(KeyboardInterrupt):
        fuzz.main(count=200, start=0, out=out)
    with pytest.raises(fuzz.typer.Exit):
        fuzz.main(count=200, start=0, out=out)
    assert json.loads(out.read_text())["calls"] == 2 * len(PAIRS)
    assert len(made) == 2 * len(PAIRS) + 1
