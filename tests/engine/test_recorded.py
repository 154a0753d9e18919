"""`cuda_graph=True`: the recorded step gives what the ordinary loop gives, and holds no question.

There is no GPU here: `tests.capture.recorder` stands in for the CUDA graph, and refuses what one
cannot hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import samplers
from dlm_sampling.caches import BlockCache
from dlm_sampling.denoisers import AutoDenoiser, Denoiser, wrap
from dlm_sampling.engine import recorded as steps
from dlm_sampling.engine import sample as loop
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.errors import NoLawError
from dlm_sampling.samplers.base import SamplerBase, reveal
from dlm_sampling.text.generate import generate
from dlm_sampling.types import ColumnCache, Pass, TokenLaw
from tests.capture import CannotRecordError, recorder
from tests.denoisers.fast_dllm_v2 import MASK, write_checkpoint
from tests.test_contract import CASES, RAGGED, CountingToy, canvas, denoiser, made

FAMILIES = Path(__file__).parents[1] / "fixtures" / "models"
HELD = [(name, kind) for name, kind in CASES if kind in samplers.available()[name].recorded_on]
RECORDED = (
    "llada",
    "dream",
    "mdlm",
    "mdlm_hf",
    "sedd_absorb",
    "sedd_uniform",
    "duo",
    "bd3lm",
    "sdar",
)
FIELDS = ("rows", "before", "tokens", "unknown", "written", "block", "step", "final")
NOT_HELD = [case for case in CASES if case not in HELD]


@pytest.fixture(autouse=True)
def no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "record", recorder)
    monkeypatch.setattr(loop, "check_device", lambda *_: None)


def run(name: str, kind: str, *, captured: bool, **options: Any) -> SampleOutput:
    tokens, editable, attention = canvas(RAGGED)
    options = {"steps": 6, "block_length": 4, "attention_mask": attention, **options}
    model = denoiser(CountingToy(), kind)
    return sample(
        model, made(name), tokens, editable, seeds=[1, 2, 3, 4], cuda_graph=captured,
        **options,
    )  # fmt: skip


def same(ours: SampleOutput, theirs: SampleOutput) -> None:
    assert torch.equal(ours.tokens, theirs.tokens)
    torch.testing.assert_close(ours.logprob, theirs.logprob)
    assert torch.equal(ours.steps, theirs.steps)
    assert torch.equal(ours.ended, theirs.ended)
    assert bool((ours.nfe >= theirs.nfe).all())


@pytest.mark.parametrize(("name", "kind"), HELD)
def test_a_recorded_step_gives_the_tokens_of_the_loop(name: str, kind: str) -> None:
    """Ragged rows, blocks that end at different steps, and schedules that leave something over."""
    options = {"steps": 3, "block_length": 6, "law": TokenLaw(temperature=0.8)}
    ours = run(name, kind, captured=True, **options)
    same(ours, run(name, kind, captured=False, **options))


@pytest.mark.parametrize("name", ["llada", "ancestral", "remdm-cap", "psi"])
def test_a_whole_canvas_in_too_few_steps(name: str) -> None:
    kind = "uniform" if name == "psi" else "absorbing"
    ours = run(name, kind, captured=True, steps=2, block_length=None)
    same(ours, run(name, kind, captured=False, steps=2, block_length=None))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llada", "remdm-conf", "d2f"])
def test_rows_that_are_done_leave_at_the_next_bucket(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compaction on equals off: tokens, counts and events; passes hold at most a bucket of rows."""
    rows = [([1 + n], 1 + n) for n in (5, 0, 1, 6, 6, 2, 3, 6)]
    tokens, editable, attention = canvas(rows)

    def recorded() -> tuple[SampleOutput, list[StepEvent], list[int]]:
        toy, heard = CountingToy(), list[StepEvent]()
        out = sample(
            denoiser(toy), made(name), tokens, editable, attention_mask=attention, seeds=range(8),
            cuda_graph=True, callback=heard.append, law=TokenLaw(temperature=0.8),
        )  # fmt: skip
        return out, heard, toy.calls

    out, heard, calls = recorded()
    monkeypatch.setattr(steps, "next_bucket", lambda rows: 0)
    off, all_heard, all_calls = recorded()
    same(out, off)
    assert torch.equal(out.nfe, off.nfe) and torch.equal(out.work, off.work)
    assert set(all_calls) == {8}
    assert calls == sorted(calls, reverse=True) and {4} <= set(calls) - {8} <= {4, 2, 1}
    assert len(heard) == len(all_heard)
    for ours, theirs in zip(heard, all_heard, strict=True):
        for field in (*FIELDS, "nfe", "logprob"):
            assert torch.equal(getattr(ours, field), getattr(theirs, field)), field


def test_buckets_are_powers_of_two() -> None:
    assert [steps.next_bucket(n) for n in (0, 1, 2, 3, 4, 5, 8, 9, 64, 65)] == [
        0, 0, 1, 2, 2, 4, 4, 8, 32, 64,
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), NOT_HELD)
def test_what_cannot_be_recorded_is_refused_and_really_cannot(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"cuda_graph=True: on \w+ noise .* can be recorded: "):
        run(name, kind, captured=True)
    monkeypatch.setattr("dlm_sampling.engine.sample.check_recordable", lambda *_: None)
    with pytest.raises((CannotRecordError, ValueError), match=r"host|values|cuda_graph"):
        run(name, kind, captured=True, attention_mask=None)


def test_guidance_filters_hidden_blocks_and_the_end_of_text() -> None:
    cases: list[dict[str, Any]] = [
        {"guidance_scale": 1.5},
        {"law": TokenLaw(top_k=3, temperature=0.7)},
        {"law": TokenLaw(top_p=0.8, min_p=0.02), "causal_blocks": True},
        {"stop_token_ids": (3, 5), "law": TokenLaw()},
        {"every_step": True},
        {"suppress_mask": False, "align_blocks": True},
    ]
    for options in cases:
        for name in ("llada", "ancestral", "remdm-conf", "dinfer-threshold"):
            ours = run(name, "absorbing", captured=True, **options)
            same(ours, run(name, "absorbing", captured=False, **options))


def test_listeners_hear_the_same_story() -> None:
    for name in ("llada", "remdm-cap", "euler"):
        heard: list[list[StepEvent]] = [[], []]
        for captured in (False, True):
            out = run(
                name, "absorbing", captured=captured, callback=heard[captured].append,
                return_trajectory=True, steps=3, block_length=None,
            )  # fmt: skip
            assert out.trajectory is not None
            assert len(out.trajectory.events) == len(heard[captured])
        assert len(heard[0]) == len(heard[1]) > 2
        for ours, theirs in zip(heard[1], heard[0], strict=True):
            for field in (
                "rows",
                "before",
                "tokens",
                "unknown",
                "written",
                "block",
                "step",
                "final",
            ):
                assert torch.equal(getattr(ours, field), getattr(theirs, field)), field
            torch.testing.assert_close(ours.logprob, theirs.logprob)
            assert ours.iteration == theirs.iteration


class Slow(SamplerBase[None]):
    """Writes one position per step, however few the steps: the loop has to fill the rest."""

    def step(self, state: None, canvas: Any, clock: Any, predict: Any, rng: Any) -> Any:
        first = canvas.eligible & (canvas.eligible.long().cumsum(1) == 1)
        return None, reveal(
            canvas, first, predict(canvas.tokens, clock.step.double()).draw(first, rng)
        )


@pytest.mark.parametrize("listens", [False, True])
def test_what_a_schedule_leaves_is_filled_between_replays(listens: bool) -> None:
    """In every block, at other steps in every row; the rows that wait lose and repeat nothing."""
    tokens, editable, attention = canvas(RAGGED)
    stories: list[list[StepEvent]] = [[], []]
    found = [
        sample(
            denoiser(CountingToy()),
            Slow(),
            tokens,
            editable,
            attention_mask=attention,
            seeds=[1, 2, 3, 4],
            steps_per_block=2,
            block_length=4,
            cuda_graph=captured,
            callback=stories[captured].append if listens else None,
        )
        for captured in (False, True)
    ]
    same(found[1], found[0])
    assert torch.equal(found[1].nfe, found[0].nfe) and bool((found[0].nfe > found[0].steps).all())
    assert len(stories[0]) == len(stories[1])
    for ours, theirs in zip(stories[1], stories[0], strict=True):
        for field in FIELDS:
            assert torch.equal(getattr(ours, field), getattr(theirs, field)), field
        torch.testing.assert_close(ours.logprob, theirs.logprob)


def test_a_pass_that_was_made_counts_even_if_nothing_was_written() -> None:
    """The graph always holds the forward pass: nfe is what was run for rows that were not done."""
    ours = run("ancestral", "absorbing", captured=True)
    theirs = run("ancestral", "absorbing", captured=False)
    assert bool((ours.nfe > theirs.nfe).any())
    # A step each, and one more pass where the last step left something to fill.
    assert bool(((ours.nfe - ours.steps >= 0) & (ours.nfe - ours.steps <= 3)).all())


def test_logits_without_a_law_and_samplers_without_progress_end_the_run() -> None:
    def broken(input_ids: Tensor) -> Tensor:
        logits = torch.zeros(*input_ids.shape, 5)
        return torch.cat([logits[:1], logits[1:] / 0.0])

    model = wrap(broken, vocab_size=5, mask_token_id=4)
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    options: dict[str, Any] = {"seeds": [1, 2], "cuda_graph": True}
    with pytest.raises(NoLawError, match="row 1: the logits hold NaN"):
        sample(model, samplers.LLaDA(), tokens, tokens == 0, **options)

    class Idle(SamplerBase[None]):
        def schedule_length(self, steps: int) -> None:
            """Adaptive."""

        def step(self, state: Any, canvas: Any, clock: Any, predict: Any, rng: Any) -> Any:
            draw = predict(canvas.tokens, canvas.unknown_fraction).draw(canvas.eligible, rng)
            return None, reveal(canvas, canvas.eligible & False, draw)

    good = wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5, mask_token_id=4)
    with pytest.raises(RuntimeError, match="Idle made 80 steps"):
        sample(good, Idle(), tokens, tokens == 0, **options)


def test_a_step_that_asks_is_found() -> None:
    """The stand-in has power: an innocent question to the device is an error."""

    class Curious(samplers.LLaDA):
        def step(self, state: Any, canvas: Any, *rest: Any) -> Any:
            if bool(canvas.unknown.all()):
                pass
            return super().step(state, canvas, *rest)

    tokens = torch.zeros(1, 4, dtype=torch.int64)
    model = denoiser(CountingToy())
    with pytest.raises(CannotRecordError, match="reads a value on the host"):
        sample(model, Curious(), tokens, tokens == 0, seeds=[1], cuda_graph=True)


@dataclass(frozen=True)
class Numbered(SamplerBase[Any]):
    """Writes the position that a number in its state names; `first` makes the first state."""

    first: Any = None

    def init(self, canvas: Any) -> Any:
        return self.first(canvas)

    def step(self, state: Any, canvas: Any, clock: Any, predict: Any, rng: Any) -> Any:
        number = state[1] if isinstance(state, tuple) else state
        draw = predict(canvas.tokens, canvas.unknown_fraction).draw(canvas.eligible, rng)
        at = number.unsqueeze(1) if isinstance(number, Tensor) else number
        where = canvas.eligible & (torch.arange(canvas.tokens.shape[1]) == at)
        step = reveal(canvas, where, draw)
        return (state[0], number + 1) if isinstance(state, tuple) else number + 1, step


def numbered(first: Any, *, captured: bool) -> SampleOutput:
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    return sample(
        denoiser(CountingToy()), Numbered(first), tokens, tokens == 0, seeds=[1, 2], steps=4,
        cuda_graph=captured,
    )  # fmt: skip


def test_a_number_in_the_state_that_a_replay_would_freeze_is_refused() -> None:
    """The loop counts on; a replay would repeat the number of the recorded step."""

    def zeros(canvas: Any) -> Tensor:
        return torch.zeros(len(canvas.tokens), dtype=torch.int64)

    firsts: tuple[Any, ...] = (lambda canvas: 0, lambda canvas: (zeros(canvas), 0))
    wanted = numbered(zeros, captured=False)
    same(numbered(zeros, captured=True), wanted)
    for first in firsts:
        same(numbered(first, captured=False), wanted)
        words = r"cuda_graph=True: the state of Numbered: .* hold 1 and 0 .* int64 \[B\]"
        with pytest.raises(ValueError, match=words):
            numbered(first, captured=True)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("folder", RECORDED)
def test_networks_of_the_families_can_be_recorded(folder: str, padded: bool) -> None:
    model = AutoDenoiser.from_pretrained(FAMILIES / folder)
    prompts = [[5, 6, 7], [8, 9] if padded else [8, 9, 10]]
    options: dict[str, Any] = {"max_new_tokens": 8, "seed": 3, "steps": 3}
    ours = generate(model, prompts, cuda_graph=True, **options)
    theirs = generate(model, prompts, **options)
    assert torch.equal(ours.sequences, theirs.sequences)


class Watched:
    """Notes columns and addresses of the passes of a model with a cache."""

    def __init__(self, model: Denoiser) -> None:
        run = model.forward
        self.widths: list[int] = []
        self.places: dict[int, set[int]] = {}  # by the number of rows

        def forward(inputs: Pass) -> Any:
            out = run(inputs)
            assert isinstance(inputs.cache, ColumnCache)
            self.widths.append(inputs.cache.query.shape[1])
            places = self.places.setdefault(len(inputs.tokens), set())
            places |= {layer.keys.data_ptr() for layer in inputs.cache.layers}
            return out

        model.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("llada", {"steps": 6}),
        ("dinfer-threshold", {"sampler_options": {"threshold": 0.05}}),  # rows at different blocks
        ("d2f", {"sampler_options": {"threshold": 0.05, "add": 0.3, "buffer": 2}}),
        ("ancestral", {"steps": 8, "guidance_scale": 0.7}),
        (Slow(), {"steps_per_block": 2}),  # leaves something to fill, between replays
    ],
)
def test_the_block_cache_has_two_shapes_and_one_place(sampler: Any, options: Any) -> None:
    """Blocks of 4 columns of a block-causal network; the prompts end in their first 3 blocks."""
    model = AutoDenoiser.from_pretrained(FAMILIES / "sdar", block_length=4)
    options = {"max_new_tokens": 11, "seed": 3, "temperature": 1.0, "eos": "keep", **options}
    prompts = [[5, 6, 7, 8, 9], [4, 4], [9, 8, 7, 6, 5, 4, 3, 2, 1]]
    theirs = generate(model, prompts, sampler=sampler, **options)
    layers = len(model.module.model.layers)  # type: ignore[union-attr]
    watched = Watched(model)
    ours = generate(model, prompts, sampler=sampler, cuda_graph=True, cache="block", **options)
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-5, rtol=0)
    assert ours.cache is not None and ours.cache.exact
    guided = 2 if "guidance_scale" in options else 1
    # The first pass computes the longest prompt and its block.
    shapes = {8, 12} if sampler == "d2f" else {4, 8}  # two blocks and the one left behind
    assert set(watched.widths[:guided]) == {12} and set(watched.widths[guided:]) == shapes
    for places in watched.places.values():  # of 3 rows, and of 2 or 1 once the others are done
        assert len(places) == layers * guided
    if sampler == "llada":
        assert torch.equal(ours.nfe, theirs.nfe)
        torch.testing.assert_close(ours.work, theirs.work)


def test_the_block_cache_of_a_network_with_a_shift_has_one_column_more(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    model = AutoDenoiser.from_pretrained(tmp_path, mask_token_id=MASK)
    options: dict[str, Any] = {"max_new_tokens": 11, "seed": 3, "eos": "keep", "temperature": 1.0}
    options["sampler_options"] = {"threshold": 0.3, "sub_block": 2}
    prompts = [[5, 6, 7, 8, 9], [4, 4], [9, 8, 7, 6, 5, 4, 3, 2, 1]]
    theirs, watched = generate(model, prompts, **options), Watched(model)
    ours = generate(model, prompts, cuda_graph=True, cache="block", **options)
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-5, rtol=0)
    assert watched.widths[0] == 12 and set(watched.widths[1:]) == {5, 9}


def test_what_the_block_cache_cannot_record_is_refused() -> None:
    model = AutoDenoiser.from_pretrained(FAMILIES / "sdar")
    options: dict[str, Any] = {"max_new_tokens": 4, "cuda_graph": True}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"cache": "dual"}, "cuda_graph=True.*those of 'block'"),
        ({"cache": BlockCache("separate")}, "cuda_graph=True.*passes of its own"),
        ({"cache": "block", "cache_audit": 0.5}, "cache_audit: recorded steps"),
    ]
    for given, why in cases:
        with pytest.raises(ValueError, match=why):
            generate(model, [[1, 2, 3]], **given, **options)
    model.time_conditioned = True
    with pytest.raises(ValueError, match=r"is told the time.*cuda_graph=True"):
        generate(model, [[1, 2, 3]], cache="block", **options)


@pytest.mark.parametrize(
    ("folder", "why"), [("llada_moe", "experts"), ("diffusion_gemma", "carries a state")]
)
def test_networks_that_cannot_be_recorded_are_refused(folder: str, why: str) -> None:
    model = AutoDenoiser.from_pretrained(FAMILIES / folder)
    with pytest.raises(ValueError, match=f"cuda_graph=True: .*{why}"):
        generate(model, [[5, 6, 7]], max_new_tokens=8, cuda_graph=True)


def test_a_network_without_an_attention_mask_takes_rows_of_one_length() -> None:
    model = wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5, mask_token_id=4)
    generate(model, [[1, 2], [3, 1]], max_new_tokens=3, cuda_graph=True, sampler="llada")
    with pytest.raises(ValueError, match="Give prompts of one length, or batch_size=1"):
        generate(model, [[1, 2], [3]], max_new_tokens=3, cuda_graph=True, sampler="llada")


def test_rows_with_nothing_to_write_need_no_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "record", None)
    tokens = torch.full((2, 4), 3)
    out = sample(
        denoiser(CountingToy()), samplers.LLaDA(), tokens, tokens < 0, seeds=[1, 2], cuda_graph=True
    )
    assert torch.equal(out.tokens, tokens) and out.nfe.tolist() == [0, 0]
