"""Names of samplers: one's own beside the library's, and what adding one to the library takes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers, wrap
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.ops import top_k_positions
from dlm_sampling.samplers import ConfidenceSampler, registry
from dlm_sampling.text.generate import generate
from tests.bare import run
from tests.forks import ROOT, Forks


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that a test registers are gone after it."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


@dataclass(frozen=True)
class Best(ConfidenceSampler):
    """Write the n most confident positions.

    Fields:
        n: how many.
    """

    n: int = 2

    def positions(self, log_confidence: Tensor, eligible: Tensor) -> Tensor:
        return top_k_positions(log_confidence, eligible, eligible.sum(1).clamp(max=self.n))


def model() -> Denoiser:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    return wrap(lambda x: logits[x], vocab_size=6, mask_token_id=5)


def test_a_name_of_ones_own_is_registered_again_whoever_wrote_the_sampler() -> None:
    samplers.register("mine", samplers.LLaDA)
    samplers.register("mine", Best)
    assert samplers.find("mine").build is Best
    assert not samplers.find("mine").built_in and samplers.find("llada").built_in
    with pytest.raises(ValueError, match="'llada': is taken by LLaDA"):
        samplers.register("llada", Best)


@pytest.mark.parametrize("name", [3, None, "", "  ", "mine.json"])
def test_names_that_are_none(name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^name="):
        samplers.register(name, Best)


def test_what_the_list_shows_of_a_sampler_must_be_there() -> None:
    class Bare:
        """Everything that a run needs, and nothing else."""

        def __getattr__(self, name: str) -> Any:
            if name in ("paper", "nfe"):
                raise AttributeError(name)
            return getattr(Best(), name)

    with pytest.raises(TypeError, match="Bare has no texts `paper` and `nfe`"):
        samplers.register("bare", Bare)  # pyright: ignore[reportArgumentType]


def test_a_docstring_that_begins_like_a_signature_is_a_summary() -> None:
    class Written:
        """Written(n) is no dataclass."""

    build: Any = Written
    assert registry.Entry("written", build).summary == "Written(n) is no dataclass."


def test_a_sampler_without_a_docstring_has_no_summary() -> None:
    """Neither its signature, which a dataclass gets for one, nor the text of its base."""

    @dataclass(frozen=True)
    class Quiet(Best):
        m: int = 3

    class Plain(Best):
        pass

    for build in (Quiet, Plain):
        samplers.register("quiet", build)
        assert samplers.find("quiet").summary == ""
    assert all(entry.summary for name, entry in samplers.available().items() if name != "quiet")


def test_a_sampler_of_ones_own_runs_by_name() -> None:
    samplers.register("best", Best)
    options: dict[str, Any] = {"max_new_tokens": 6, "seed": 0}
    out = generate(model(), [[1, 2]], sampler="best", sampler_options={"n": 3}, **options)
    assert out.steps.tolist() == [2]
    assert out.token_ids == generate(model(), [[1, 2]], sampler=Best(3), **options).token_ids
    assert list(samplers.available())[-1] == "best"
    entry = samplers.find("best")
    assert (entry.summary, entry.parameters) == (
        "Write the n most confident positions.",
        {"n": 2, "delayed_ids": ()},
    )
    assert samplers.create("best", n=5) == Best(5)
    with pytest.raises(TypeError, match="Unknown argument 'm'"):
        samplers.create("best", m=5)
    with pytest.raises(ValueError, match="Did you mean 'best'"):
        samplers.create("bestt")


def test_a_name_of_ones_own_may_be_registered_again() -> None:
    samplers.register("best", Best)
    samplers.register("best", lambda n=4: Best(n))
    assert samplers.create("best") == Best(4)


@pytest.mark.parametrize(
    ("name", "build", "error", "match"),
    [
        ("llada", Best, ValueError, "name='llada': is taken by LLaDA of dlm_sampling.samplers"),
        ("", Best, ValueError, "must not be empty"),
        ("x.json", Best, ValueError, r"nor end in \.json"),
        ("x", lambda n: Best(n), TypeError, "parameters all have defaults"),
        ("x", dict, TypeError, "sampler is a dict, which has no `step`"),
        ("x", lambda: Best, TypeError, "sampler is the class Best"),
        ("x", lambda **kw: Best(**kw), TypeError, r"takes \*\*kw"),
    ],
)
def test_what_cannot_be_registered(
    name: str, build: Callable[..., Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        samplers.register(name, build)
    assert "x" not in samplers.available()


def test_every_export_of_the_package_is_in_its_namespace() -> None:
    names = re.findall(r"(\w+) as \1", (ROOT / "dlm_sampling/samplers/__init__.py").read_text())
    assert len(names) == len(set(names)) > 80
    assert {"reveal", "block_total", "even_quota", "unmask_probs", "register"} <= set(names)


NEW_FILE = '''"""Leftmost: positions from left to right.  Nobody 2026, arXiv:2601.00001."""

from dataclasses import dataclass

from dlm_sampling.samplers.base import SamplerBase, reveal
from dlm_sampling.samplers.registry import register
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step


@dataclass(frozen=True)
class Leftmost(SamplerBase[None]):
    """Write the leftmost position."""

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        """One position."""
        first = canvas.eligible & (canvas.eligible.long().cumsum(1) == 1)
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(first, rng)
        return None, reveal(canvas, first, draw)


register("leftmost", Leftmost)
'''
NEW_LINE = "from dlm_sampling.samplers.leftmost import Leftmost as Leftmost\n"
CHECK = """
import sys
import torch
from dlm_sampling import generate, samplers, wrap
from tests.test_readme import table
assert samplers.__file__.startswith(sys.argv[1]), samplers.__file__
net = wrap(lambda x: torch.zeros(*x.shape, 4), vocab_size=4, mask_token_id=3)
out = generate(net, [[1]], sampler="leftmost", max_new_tokens=5, seed=0)
assert out.nfe.tolist() == [5]
assert isinstance(samplers.create("leftmost"), samplers.Leftmost)
names = list(samplers.available())
assert names.index("leftmost") == names.index("llada-entropy") + 1
assert "| [leftmost](dlm_sampling/samplers/leftmost.py) | Write the leftmost position. |" in table()
"""


def test_a_sampler_is_added_by_its_file_and_one_line(tmp_path: Path, bare: Forks) -> None:
    """In a copy: the file, a line in `samplers/__init__.py`, and the table writes itself."""
    shutil.copytree(
        ROOT / "dlm_sampling",
        tmp_path / "dlm_sampling",
        ignore=shutil.ignore_patterns("models", "__pycache__"),
    )
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "test_readme.py", tmp_path / "tests")
    shutil.copy(ROOT / "README.md", tmp_path)
    folder = tmp_path / "dlm_sampling" / "samplers"
    (folder / "leftmost.py").write_text(NEW_FILE, encoding="utf-8")
    lines = (folder / "__init__.py").read_text(encoding="utf-8").splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if ".llada import" in line)
    lines.insert(place + 1, NEW_LINE)
    (folder / "__init__.py").write_text("".join(lines), encoding="utf-8")
    status, _, err = run(bare, CHECK, tmp_path, [tmp_path], str(tmp_path))
    assert status == 0, err


@cache
def kinds_of(name: str, parameter: str) -> tuple[Any, ...]:
    """The types that the annotation of a sampler's parameter allows."""
    hint = get_type_hints(type(samplers.create(name))).get(parameter)
    return get_args(hint) or (hint,)


WRONG: tuple[object, ...] = ("x", b"1", float("nan"), -(2**70), 2**70, 1j, object(), torch.ones(2))


@pytest.mark.parametrize("name", sorted(n for n, e in samplers.available().items() if e.built_in))
def test_a_parameter_of_another_type_is_refused_by_name(name: str) -> None:
    """Types come before ranges; a text may be the path of a file, which then does not exist."""
    paths = {"planner", "frequencies"}
    for parameter in samplers.available()[name].parameters:
        for value in WRONG[1:] if parameter in paths else WRONG:
            with pytest.raises((TypeError, ValueError), match=rf"\b{parameter}\b"):
                samplers.create(name, **{parameter: value})


BUILT_IN = {name: entry for name, entry in samplers.available().items() if entry.built_in}
NUMBERS = [
    (name, parameter)
    for name, entry in sorted(BUILT_IN.items())
    for parameter in entry.parameters
    if {int, float} & set(kinds_of(name, parameter))
]
NO_LIMIT = {("gillespie", "longest_wait"): float("inf")}  # as documented: no jump is cut short


def test_the_numbers_of_samplers_are_seen() -> None:
    assert len(NUMBERS) > 80
    assert {("fast-dllm", "threshold"), ("klass", "history"), ("picard", "window")} <= set(NUMBERS)


@pytest.mark.parametrize(("name", "parameter"), NUMBERS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e9, 1e9])
def test_a_number_out_of_range_is_refused(name: str, parameter: str, value: float) -> None:
    """The message says which parameter it was, its value, and the values that are allowed."""
    whole = float not in kinds_of(name, parameter)
    wrong = int(value) if whole and abs(value) == 1e9 else value
    if NO_LIMIT.get((name, parameter)) == value:
        samplers.create(name, **{parameter: value})
        return
    with pytest.raises((TypeError, ValueError), match=rf"\b{parameter}={wrong}.*(must be|need)"):
        samplers.create(name, **{parameter: wrong})


def test_a_threshold_of_percent_is_refused() -> None:
    for name, parameter in NUMBERS:
        if parameter.endswith("threshold") and parameter != "kl_threshold":
            samplers.create(name, **{parameter: 0.5})
            with pytest.raises(ValueError, match=f"{parameter}=2: must be "):
                samplers.create(name, **{parameter: 2})


def test_a_number_in_the_place_of_a_schedule_is_refused() -> None:
    with pytest.raises(TypeError, match="schedule=2: must be a Schedule, such as LogLinear"):
        samplers.Gillespie(2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="schedule=16: must be a Schedule"):
        samplers.Ancestral(16)  # type: ignore[arg-type]
