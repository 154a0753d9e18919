"""A sampler that breaks the contract is refused at once, by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytest
import torch

from dlm_sampling import samplers
from dlm_sampling.denoisers import Denoiser, wrap
from dlm_sampling.engine import sample as engine
from dlm_sampling.engine.sample import sample
from dlm_sampling.processes import Uniform
from dlm_sampling.samplers import registry
from dlm_sampling.samplers.base import SamplerBase, reveal
from dlm_sampling.samplers.contract import (
    MEMBERS,
    check_logprobs,
    check_sampler,
    check_step,
    check_written,
)
from dlm_sampling.schedules import LINEAR, Cosine
from dlm_sampling.text.generate import generate
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Schedule, Step, TokenLaw
from tests.capture import recorder

VOCAB, MASK = 5, 4


@dataclass(frozen=True)
class LeftToRight(SamplerBase[None]):
    """The smallest sampler: one position per step, from the left; `spoil` breaks its outcome."""

    spoil: Any = None

    def step(
        self, state: None, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[None, Step]:
        first = canvas.eligible & (canvas.eligible.long().cumsum(1) == 1)
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(first, rng)
        step = reveal(canvas, first, draw)
        return (None, step) if self.spoil is None else self.spoil(step)


@dataclass(frozen=True)
class Other(LeftToRight):
    """Sets every trait by attribute, as a user's sampler may."""

    schedule: Schedule = Cosine()  # noqa: RUF009

    law = TokenLaw(temperature=0.0)
    runs_on = ("absorbing", "uniform")
    recorded_on = ()


def denoiser(**settings: Any) -> Denoiser:
    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.arange(VOCAB).float().expand(*x.shape, VOCAB)

    options = {"mask_token_id": MASK, **settings}
    return wrap(network, vocab_size=VOCAB, **options)


def run(sampler: Any, model: Denoiser | None = None) -> Any:
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    model = denoiser() if model is None else model
    return sample(model, sampler, tokens, torch.ones(2, 4).bool(), seeds=[1, 2])


def test_the_smallest_sampler_writes_every_position() -> None:
    out = run(LeftToRight())
    assert bool((out.tokens < MASK).all())
    assert out.nfe.tolist() == [4, 4]


@pytest.mark.parametrize("name", [n for n in MEMBERS if n != "step"])
def test_a_member_that_is_missing_is_named(name: str) -> None:
    class Partial:
        """Everything but one member."""

    for member in MEMBERS:
        if member != name:
            setattr(Partial, member, getattr(LeftToRight(), member))
    for start in (run, lambda s: generate(denoiser(), [0], sampler=s, max_new_tokens=2)):
        with pytest.raises(TypeError, match=rf"Partial has no {name}; subclass SamplerBase"):
            start(Partial())


def test_every_default_comes_with_the_base() -> None:
    check_sampler(LeftToRight())
    base = LeftToRight()
    assert (base.law, base.runs_on, base.schedule, base.own_steps) == (
        TokenLaw(),
        ("absorbing",),
        LINEAR,
        None,
    )
    assert base.recorded_on == ("absorbing", "uniform")
    assert (base.passes_per_step, base.revises, base.exact) == (1, False, True)
    assert (base.schedule_length(7), base.patience(10)) == (7, 104)


def test_traits_that_a_sampler_sets_are_the_ones_that_count() -> None:
    out = run(Other())
    assert out.tokens.tolist() == [[3] * 4] * 2  # greedy by its own law
    with pytest.raises(ValueError, match="LeftToRight is for absorbing noise"):
        run(LeftToRight(), denoiser(mask_token_id=None, process=Uniform()))
    assert run(Other(), denoiser(mask_token_id=None, process=Uniform())).nfe.tolist() == [4, 4]


def test_only_the_schedule_may_be_a_parameter() -> None:
    for name, entry in samplers.available().items():
        assert set(entry.parameters) & set(MEMBERS) <= {"schedule"}, name


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (samplers.LLaDA, r"sampler is the class LLaDA: .* such as LLaDA\(\)"),
        (7, "sampler is an int, which has no `step`: must be a name or an instance"),
    ],
)
def test_what_is_no_sampler_is_refused(wrong: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        run(wrong)
    with pytest.raises(TypeError, match=match):
        generate(denoiser(), [0], sampler=wrong)


class Spoiled:
    """Outcomes of a step that are none, with the error that names them."""

    CASES: ClassVar[list[tuple[Any, type[Exception], str]]] = [
        (lambda s: s, TypeError, r"LeftToRight\.step returned a Step: must return \(state, Step\)"),
        (lambda s: None, TypeError, r"LeftToRight\.step returned None: must return"),
        (lambda s: (None, s.tokens), TypeError, r"returned a tuple \(NoneType, Tensor\)"),
        (lambda s: (None, s, 1), TypeError, r"returned a tuple \(NoneType, Step, int\)"),
        (
            lambda s: (None, s._replace(tokens=s.tokens.float())),
            TypeError,
            r"LeftToRight\.step: Step\.tokens is torch\.float32: must be a torch\.int64 tensor",
        ),
        (
            lambda s: (None, s._replace(unknown=s.unknown.long())),
            TypeError,
            r"Step\.unknown is torch\.int64: must be a torch\.bool tensor of shape \[2, 4\]",
        ),
        (
            lambda s: (None, s._replace(logprob=s.logprob[:, :1])),
            ValueError,
            r"Step\.logprob has shape \[2, 1\]: must be a floating point tensor of shape \[2, 4\]",
        ),
        (lambda s: (None, s._replace(logprob=0.0)), TypeError, r"Step\.logprob is a float: must"),
    ]


@pytest.mark.parametrize(("spoil", "error", "match"), Spoiled.CASES)
def test_a_wrong_return_names_the_sampler_and_what_a_step_returns(
    spoil: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        run(LeftToRight(spoil))


KINDS = "'absorbing', 'uniform', 'matrix'"
WHOLE = "a whole number of at least 1"


@pytest.mark.parametrize(
    ("member", "value", "must"),
    [
        ("law", 3, r"a TokenLaw, such as TokenLaw\(\)"),
        ("runs_on", "absorbing", f"a tuple of kinds of noise, of {KINDS}"),
        ("runs_on", ("masks",), f"a tuple of kinds of noise, of {KINDS}"),
        ("recorded_on", ["absorbing"], "a tuple of kinds of noise"),
        ("scored_on", None, "a tuple of kinds of noise"),
        ("schedule", 0.5, "a Schedule, with the methods alpha, rate and time_of"),
        ("own_steps", 2.5, f"{WHOLE}, or None"),
        ("own_steps", 0, f"{WHOLE}, or None"),
        ("passes_per_step", True, WHOLE),
        ("passes_per_step", None, WHOLE),
        ("looks_ahead", 1, "True or False"),
        ("revises", None, "True or False"),
        ("exact", "yes", "True or False"),
        ("finished", None, "a method"),
        ("patience", 100, "a method"),
    ],
)
def test_a_member_of_another_type_is_named_before_the_run(
    member: str, value: Any, must: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    wrong = dataclass(frozen=True)(type("Wrong", (LeftToRight,), {member: value}))
    text = rf"sampler: Wrong\.{member} is {re.escape(repr(value))}: must be {must}"
    with pytest.raises(TypeError, match=text):
        run(wrong())
    with pytest.raises(TypeError, match=text):
        generate(denoiser(), [0], sampler=wrong())
    with pytest.raises(TypeError, match=text):
        samplers.register("wrong", wrong)


@pytest.mark.parametrize(
    ("method", "answer", "must"),
    [
        ("schedule_length", "x", f"{WHOLE}, or None"),
        ("schedule_length", 4.0, f"{WHOLE}, or None"),
        ("schedule_length", 0, f"{WHOLE}, or None"),
        ("patience", None, WHOLE),
        ("patience", 1e3, WHOLE),
        ("canvas_process", "absorbing", "a Process of dlm_sampling.processes, or None"),
        ("finished", True, r"a bool tensor of shape \[2\] \(batch rows\), or None"),
        ("finished", torch.ones(2), "a bool tensor"),
        ("finished", torch.ones(2, 1, dtype=torch.bool), "a bool tensor"),
        ("finished", torch.ones((), dtype=torch.bool), "a bool tensor"),
    ],
)
def test_an_answer_of_another_type_is_named(method: str, answer: Any, must: str) -> None:
    wrong = dataclass(frozen=True)(type("Wrong", (LeftToRight,), {method: lambda *_: answer}))
    shown = answer
    if isinstance(answer, torch.Tensor):
        of_rows = answer.dtype is torch.bool
        shown = f"shape {list(answer.shape)}" if of_rows else str(answer.dtype)
    text = rf"sampler: Wrong\.{method} returned .*{re.escape(str(shown))}.*: must return {must}"
    with pytest.raises((TypeError, ValueError), match=text):
        run(wrong())


@pytest.mark.parametrize(
    ("first", "words"),
    [({"a": 1}, "a dict"), ([torch.zeros(2)], "a list"), (torch.zeros(3), r"shape \[3\]")],
)
def test_a_first_state_that_cannot_follow_its_rows_is_refused(first: Any, words: str) -> None:
    wrong = dataclass(frozen=True)(type("Wrong", (LeftToRight,), {"init": lambda *_: first}))
    with pytest.raises((TypeError, ValueError), match=rf"Wrong\.init returned a state .*{words}"):
        run(wrong())


class Tables(NamedTuple):
    """What listeners read of a draw."""

    log_confidence: Any
    entropy: Any


GOOD = torch.zeros(2, 4)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (3, "Step.draw is an int, without log_confidence or entropy: must be a "),
        (Tables(GOOD[0, :3], GOOD), r"Step.draw.log_confidence has shape \[3\]: must be"),
        (Tables(GOOD[:1, :2], GOOD), r"Step.draw.log_confidence has shape \[1, 2\]: must be"),
        (Tables(GOOD, GOOD[:1]), r"Step.draw.entropy has shape \[1, 4\]: must be"),
        (Tables(GOOD, GOOD.long()), "Step.draw.entropy is torch.int64: must be a floating point"),
        (Tables(GOOD, None), "Step.draw.entropy is None: must be a floating point"),
    ],
)
def test_a_draw_that_listeners_cannot_read_is_named(
    draw: Any, match: str, graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any step, not the first alone; without listeners nobody reads it."""
    monkeypatch.setattr(engine, "record", recorder)
    monkeypatch.setattr(engine, "check_device", lambda *_: None)
    count = 0

    def spoil(step: Step) -> Any:
        nonlocal count
        count += 1
        return None, step._replace(draw=draw) if count > 1 else step

    sampler = LeftToRight(spoil)
    options: dict[str, Any] = {"seeds": [1, 2], "cuda_graph": graph}
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    editable = tokens == 0
    assert bool((sample(denoiser(), sampler, tokens, editable, **options).tokens < MASK).all())
    for heard in ({"return_trajectory": True}, {"callback": lambda _: None}):
        count = 0
        with pytest.raises((TypeError, ValueError), match=rf"LeftToRight\.step: {match}"):
            sample(denoiser(), sampler, tokens, editable, **options, **heard)
        assert count == 2


def canvas(rows: int = 2) -> Canvas:
    tokens = torch.full((rows, 3), MASK)
    every = torch.ones_like(tokens, dtype=torch.bool)
    return Canvas(tokens, every, every, torch.zeros(rows, dtype=torch.int64), MASK)


@pytest.mark.parametrize("rows", [1, 2])
def test_state_of_a_step_follows_the_rows(rows: int) -> None:
    """A tensor of any further dimensions, but of the rows first."""
    shown = canvas(rows)
    step = Step(shown.tokens, shown.unknown, torch.zeros(rows, 3), None)  # pyright: ignore
    for state in (None, torch.zeros(rows), torch.zeros(rows, 0), (torch.zeros(rows, 5, 2),)):
        check_step(LeftToRight(), (state, step), shown)
    for state in (torch.tensor(1.0), torch.zeros(rows + 1), torch.zeros(0), torch.zeros(3, rows)):
        with pytest.raises(ValueError, match=r"LeftToRight\.step returned a state with a tensor"):
            check_step(LeftToRight(), (state, step), shown)
    for change, error in (
        ({"tokens": shown.tokens.int()}, TypeError),
        ({"unknown": shown.unknown.long()}, TypeError),
        ({"logprob": shown.tokens}, TypeError),
        ({"tokens": shown.tokens[:, :2]}, ValueError),
        ({"unknown": shown.unknown[:, :2]}, ValueError),
        ({"logprob": torch.zeros(rows, 4)}, ValueError),
        ({"logprob": None}, TypeError),
    ):
        with pytest.raises(error, match=f"Step.{next(iter(change))}"):
            check_step(LeftToRight(), (None, step._replace(**change)), shown)


def test_a_log_probability_that_is_no_number_is_refused() -> None:
    logprob = torch.zeros(2, 3)
    check_logprobs(LeftToRight(), logprob.sub(torch.inf))
    logprob[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"LeftToRight.step returned NaN .* row 8, column 2"):
        check_logprobs(LeftToRight(), logprob, numbers=[7, 8])


def test_ids_that_were_written_are_of_the_vocabulary() -> None:
    tokens = torch.tensor([[0, 4, 9], [-1, 5, 2]])
    where = torch.zeros(2, 3, dtype=torch.bool)
    check_written(LeftToRight(), tokens, where, 5)
    where[0, 1] = True
    check_written(LeftToRight(), tokens, where, 5)
    for row, column, token in ((0, 2, 9), (1, 0, -1), (1, 1, 5)):
        one = torch.zeros_like(where)
        one[row, column] = True
        text = rf"wrote id {token} in batch row {7 + row}, column {column}: must be 0 to 4, .* 5 "
        with pytest.raises(ValueError, match=text):
            check_written(LeftToRight(), tokens, one, 5, numbers=[7, 8])
