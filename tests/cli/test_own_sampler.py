"""`--sampler module:Name` and `--sampler file.py:Name`: samplers that are not the library's."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlm_sampling import samplers
from dlm_sampling.cli.app import find_sampler
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
        ("nothing.py:Best", "nothing.py:...: there is no such file"),
        ("not_there.at_all:Best", "no module 'not_there' on the path.*not_there/at_all.py:"),
        (
            "one_of_mine.py:Bset",
            r"one_of_mine.py has no 'Bset'\. It defines .*Best.* Did you mean 'Best'",
        ),
        (":Best", "write it as module:Name or file.py:Name"),
        ("one_of_mine.py:", "write it as module:Name or file.py:Name"),
    ],
)
def test_what_is_not_there_is_wrong_usage(name: str, match: str, place: Path) -> None:
    with pytest.raises(UsageError, match=match):
        find_sampler(name)


def test_what_is_no_sampler_is_refused(place: Path) -> None:
    with pytest.raises(TypeError, match="sampler is an Other, which has no `step`"):
        find_sampler("one_of_mine.py:Other")
    (place / "needs.py").write_text("import no_such_thing_at_all\n", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing_at_all"):
        find_sampler("needs.py:X")


def test_a_partial_takes_settings(place: Path) -> None:
    entry = find_sampler("one_of_mine.py:Three")
    assert vars(entry.build()) == {"n": 3}
    settings = parse_settings(["n=4"], entry.build, entry.name)
    assert vars(samplers.create(entry.name, **settings)) == {"n": 4}
