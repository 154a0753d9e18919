"""`--sampler module:Name` and `--sampler file.py:Name`: samplers that are not the library's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dlm_sampling import samplers
from dlm_sampling.cli.app import find_sampler
from dlm_sampling.cli.exits import verdict
from dlm_sampling.cli.io import parse_settings
from dlm_sampling.errors import UsageError
from dlm_sampling.samplers import registry

SOURCE = '''
from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dlm_sampling.ops import top_k_positions
from dlm_sampling.samplers import ConfidenceSampler


@dataclass(frozen=True)
class Best(ConfidenceSampler):
    """Write the n most confident positions."""

    n: int = 2

    def positions(self, log_confidence: Tensor, eligible: Tensor) -> Tensor:
        return top_k_positions(log_confidence, eligible, eligible.sum(1).clamp(max=self.n))


@dataclass(frozen=True)
class Greedy(ConfidenceSampler):
    n: int

    def positions(self, log_confidence: Tensor, eligible: Tensor) -> Tensor:
        return eligible


class Other:
    """No sampler."""


Three = partial(Best, n=3)
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one_of_mine.py").write_text(SOURCE, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["one_of_mine.py:Best", "./one_of_mine.py:Best", "one_of_mine:Best"]
)
def test_it_is_found_and_takes_settings(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(place))
    entry = find_sampler(name)
    settings = parse_settings(["n=3"], entry.build, name)
    sampler = samplers.create(name, **settings)
    assert (type(sampler).__name__, settings) == ("Best", {"n": 3})
    assert entry.summary == "Write the n most confident positions."


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nothing.py:Best", "--sampler nothing.py:Best: nothing.py: there is no such file"),
        ("not_there.at_all:Best", "at_all:Best: there is no module 'not_there' .*/at_all.py:Best"),
        (
            "one_of_mine.py:Bset",
            r"one_of_mine.py has no 'Bset'\. It defines .*Best.* Did you mean 'Best'",
        ),
        ("learned.json", "--sampler learned.json: no learned sampler there"),
        ("one_of_mine.py", "write it as one_of_mine.py:Name"),
        (":Best", "write it as module:Name or file.py:Name"),
        ("one_of_mine.py:", "write it as module:Name or file.py:Name"),
    ],
)
def test_what_is_not_there_is_wrong_usage(name: str, match: str, place: Path) -> None:
    with pytest.raises(UsageError, match=match):
        find_sampler(name)


def test_what_is_no_sampler_is_refused(place: Path) -> None:
    words = "--sampler one_of_mine.py:Other: sampler is an Other, which has no `step`"
    with pytest.raises(UsageError, match=words) as raised:
        find_sampler("one_of_mine.py:Other")
    assert verdict(raised.value)[0] == 2
    with pytest.raises(UsageError, match=r"py:Greedy: build=Greedy: must be a class or function"):
        find_sampler("one_of_mine.py:Greedy")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import no_such_thing_at_all", ModuleNotFoundError),
        ("X = 1 / 0", ZeroDivisionError),
        ("def X(): raise KeyError('x')", KeyError),
        ("class X(:", SyntaxError),
    ],
)
@pytest.mark.parametrize("name", ["faulty.py:X", "faulty:X"])
def test_a_fault_inside_of_the_file_is_reported_with_the_file(
    name: str, code: str, error: type[Exception], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    (place / "faulty.py").write_text(f"\n{code}\n", encoding="utf-8")
    with pytest.raises(error) as raised:
        find_sampler(name)
    said = verdict(raised.value)[1]
    assert f"for --sampler {name}." in said
    if name.endswith(".py:X") and error is not SyntaxError:  # which says itself where it is
        assert "faulty.py, line 2, was run" in said or "Raised by X of faulty.py" in said
    sys.modules.pop("faulty", None)


def test_a_partial_takes_settings(place: Path) -> None:
    entry = find_sampler("one_of_mine.py:Three")
    assert entry.build().n == 3
    settings = parse_settings(["n=4"], entry.build, entry.name)
    assert samplers.create(entry.name, **settings).n == 4
