"""DiffusionGemma against its own `generate`, token for token and step for step.

The model is transformers' class with random weights.  Its `generate` has two sources of random
numbers, and both are replaced by ours:

- the candidates: `torch.multinomial` of its probabilities becomes our categorical draw of the same
  probabilities, with the number that our loop has for that row, position and step;
- the noise: `EntropyBoundSampler.initialize_canvas` returns our uniform tokens, those of the first
  canvas at the start of a block and those of the step when it replaces what was not accepted.

Nothing else is shared: temperatures, entropies, what is accepted, self-conditioning, the stop rule,
the growing prompt with its cache and its positions, and the end of a text run as released, on a
left-padded batch in which all rows are in the same block.  In our loop every row runs alone.
"""

from __future__ import annotations

import itertools
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor

from dlm_sampling import AutoDenoiser, generate, ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.sample import sample
from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.processes import Uniform
from dlm_sampling.samplers import DiffusionGemma
from dlm_sampling.samplers.diffusion_gemma import Stability, fresh_noise
from dlm_sampling.types import Canvas, Clock, Predict, RandomSource, Step, TokenLaw

if not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
    pytest.skip("transformers before 5.23 lacks the model", allow_module_level=True)

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "models" / "diffusion_gemma"
CANVAS, VOCAB = 8, 128
PROMPTS = [[5, 17, 99], [4, 4, 8, 15, 16, 23, 42, 7, 11, 60, 61, 62], [77], [9, 8, 7, 6, 5, 4, 3]]
SEEDS = [11, 12, 13, 14]


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return AutoDenoiser.from_pretrained(FOLDER)


class Seen(NamedTuple):
    """One step of one row."""

    start: int  # first column of the canvas
    canvas: list[int]  # what the next step sees, at the end the result
    best: list[int]  # the argmax canvas


class Reference:
    """The released loop on a left-padded batch, with its random numbers replaced by ours."""

    def __init__(self, model: Any, patch: pytest.MonkeyPatch, greedy: bool) -> None:
        width = max(map(len, PROMPTS))
        pads = torch.tensor([width - len(p) for p in PROMPTS])
        self.prompts = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
        self.rng = ops.Rng.from_seeds(SEEDS)
        self.rng = ops.Rng(self.rng.keys, self.rng.step, pads)
        self.taken = torch.zeros(len(PROMPTS), dtype=torch.int64)
        self.start, self.inside, self.greedy = width - CANVAS, False, greedy
        self.model, self.steps = model, []
        released = model._denoising_step

        def denoising_step(**given: Any) -> Any:
            running = ~given["finished_denoising"]
            self.inside = True
            out = released(**given)
            self.inside = False
            self.steps.append((self.start, running.clone(), out[0].clone(), out[1].clone()))
            self.taken = self.taken + running
            return out

        module = __import__(
            type(model).__module__.replace("modeling", "generation"), fromlist=["_"]
        )
        patch.setattr(model, "_denoising_step", denoising_step)
        patch.setattr(torch, "multinomial", self.candidates)
        patch.setattr(module.EntropyBoundSampler, "initialize_canvas", self.noise)
        self.bound = module.EntropyBoundSamplerConfig

    def noise(self, batch_size: int, device: torch.device) -> Tensor:
        like = torch.zeros(batch_size, self.start + 2 * CANVAS, dtype=torch.int64)
        if not self.inside:
            self.start += CANVAS
            tokens = Uniform().prior(like, self.rng, VOCAB)
        else:
            tokens = fresh_noise(like, self.rng.with_step(self.taken), VOCAB)
        return tokens[:, self.start : self.start + CANVAS]

    def candidates(self, probs: Tensor, num_samples: int) -> Tensor:
        canvas = torch.arange(self.start, self.start + CANVAS)
        flat = ops.draw(
            probs.log(),
            keys=self.rng.keys.repeat_interleave(CANVAS),
            positions=(canvas - self.rng.origin.unsqueeze(1)).flatten(),
            steps=self.taken.repeat_interleave(CANVAS),
            law=TokenLaw(temperature=0.0 if self.greedy else 1.0),
        )
        return flat.token.unsqueeze(1)

    def run(self, sampler: DiffusionGemma, new: int, **given: Any) -> Any:
        return self.model.generate(
            self.prompts,
            attention_mask=(torch.arange(self.prompts.shape[1]) >= self.rng.origin.unsqueeze(1)),
            max_new_tokens=new,
            max_denoising_steps=sampler.max_steps,
            sampler_config=self.bound(entropy_bound=sampler.gamma),
            t_min=sampler.t_min,
            t_max=sampler.t_max,
            stability_threshold=sampler.stable_steps,
            confidence_threshold=sampler.confidence,
            **given,
        )

    def of_row(self, row: int) -> list[Seen]:
        """The steps that the row took."""
        steps = [
            Seen(start, canvas[row].tolist(), best[row].tolist())
            for start, running, canvas, best in self.steps
            if running[row]
        ]
        for now, after in itertools.pairwise([*steps, Seen(-1, [], [])]):
            if now.start != after.start:
                now.canvas[:] = now.best  # what the block leaves behind is the argmax canvas
        return steps


class Watched(DiffusionGemma):
    """The sampler, with the argmax canvas and what was accepted in every step."""

    seen: list[tuple[Tensor, Tensor]]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seen", [])

    def step(
        self, state: Stability, canvas: Canvas, clock: Clock, predict: Predict, rng: RandomSource
    ) -> tuple[Stability, Step]:
        state, step = super().step(state, canvas, clock, predict, rng)
        assert step.draw is not None
        self.seen.append((state.best, self.accept(step.draw.entropy, canvas.editable)))
        return state, step


# Fields of the sampler, and whether the candidates are the argmax.
SETTINGS: dict[str, tuple[tuple[Any, ...], bool]] = {
    "released": ((), False),
    "few steps": ((0.7, 1.3, 0.2, 2, 0.25, 9), False),
    "at once": ((3.0, 0.9, 0.1, 0, 0.9, 5), False),
    "argmax": ((1.5, 0.8, 0.4, 1, 0.05, 12), True),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_step_of_every_row_is_that_of_generate(
    setting: str, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three canvases after prompts of four lengths; the last one leaves the sliding window."""
    fields, greedy = SETTINGS[setting]
    blocks = 1 if setting == "released" else 3  # its 48 steps a canvas are shown by one
    watched, events = Watched(*fields), []
    with monkeypatch.context() as patch:
        reference = Reference(denoiser.module, patch, greedy)
        theirs = reference.run(watched, blocks * CANVAS)
    ours = generate(
        denoiser,
        PROMPTS,
        sampler=watched,
        max_new_tokens=blocks * CANVAS,
        seed=SEEDS,
        temperature=0.0 if greedy else None,
        eos="keep",
        callback=events.append,
    )
    steps = [steps_of(row, events, watched) for row in range(len(PROMPTS))]
    for row, own in enumerate(steps):
        assert own == reference.of_row(row)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(ours.nfe, reference.taken)
    passes = blocks * CANVAS / theirs.tokens_per_forward
    assert torch.equal(ours.nfe, passes.round().long())
    check_variety(setting, steps, watched, blocks)


def steps_of(row: int, events: list[StepEvent], watched: Watched) -> list[Seen]:
    """The steps of a row in our loop."""
    found: list[Seen] = []
    width = max(map(len, PROMPTS))
    for event, (best, _) in zip(events, watched.seen, strict=True):
        for i in (event.rows == row).nonzero().flatten().tolist():
            start = width + CANVAS * int(event.block[i])
            canvas = slice(start, start + CANVAS)
            found.append(Seen(start, event.tokens[i, canvas].tolist(), best[i, canvas].tolist()))
    return found


def check_variety(setting: str, steps: list[list[Seen]], watched: Watched, blocks: int) -> None:
    """The comparison has to see partial acceptance, early ends, and ends by the budget."""
    counts = torch.cat([accepted.sum(1) for _, accepted in watched.seen]).tolist()
    lengths = [n for row in steps for n in Counter(step.start for step in row).values()]
    assert len(lengths) == blocks * len(PROMPTS)
    assert len(set(counts) - {1, CANVAS}) > 2
    assert min(lengths) < max(lengths) <= watched.max_steps
    assert setting == "at once" or max(lengths) == watched.max_steps


def test_logits_carried_at_another_temperature_are_noticed(
    denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is given back what was drawn from, not its logits as they are."""

    def run() -> Tensor:
        found = generate(denoiser, PROMPTS, seed=SEEDS, max_new_tokens=CANVAS, steps=6, eos="keep")
        return found.sequences

    with monkeypatch.context() as patch:
        reference = Reference(denoiser.module, patch, greedy=False)
        theirs = reference.run(DiffusionGemma(max_steps=6), CANVAS).sequences
    assert torch.equal(run(), theirs)
    monkeypatch.setattr(type(denoiser), "temper", Denoiser.temper)
    assert not torch.equal(run(), theirs)


def test_rows_end_with_the_same_texts(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any id of the model's list ends a row after its canvas; what follows is padding."""
    sampler, ends = DiffusionGemma(2.0, max_steps=4), (120, 33)
    monkeypatch.setattr(denoiser, "further_eos_ids", ends)
    with monkeypatch.context() as patch:
        reference = Reference(denoiser.module, patch, greedy=False)
        theirs = reference.run(sampler, 4 * CANVAS, eos_token_id=[1, *ends], pad_token_id=0)
    ours = generate(denoiser, PROMPTS, sampler=sampler, seed=SEEDS, max_new_tokens=4 * CANVAS)
    assert {"eos", "length"} == set(ours.finish_reasons)
    assert torch.equal(ours.sequences, theirs.sequences)
    new = ours.sequences[:, -4 * CANVAS :]
    assert torch.equal(ours.nfe, ((new != 0).sum(1) / theirs.tokens_per_forward).round().long())
    assert len(set(ours.nfe.tolist())) > 1


def test_is_the_default_of_its_models_with_their_own_values(
    denoiser: Denoiser, tmp_path: Path
) -> None:
    prompts = PROMPTS[:1]
    given: dict[str, Any] = {"max_new_tokens": CANVAS, "seed": 3, "eos": "keep"}
    chosen = generate(denoiser, prompts, **given)
    named = generate(denoiser, prompts, sampler="diffusion-gemma", **given)
    assert torch.equal(chosen.sequences, named.sequences)
    assert int(chosen.nfe.max()) > CANVAS  # 48 planned steps, not one per token
    rounded = generate(denoiser, prompts, **{**given, "max_new_tokens": CANVAS - 3})
    assert torch.equal(rounded.sequences, chosen.sequences)

    denoiser.save_pretrained(tmp_path)
    config: Any = denoiser.module.generation_config  # type: ignore[union-attr]
    module: Any = import_module(type(config).__module__)
    module.DiffusionGemmaGenerationConfig(
        max_denoising_steps=5,
        sampler_config=module.EntropyBoundSamplerConfig(entropy_bound=0.3),
        t_min=0.1,
        t_max=1.5,
        stability_threshold=3,
        confidence_threshold=0.2,
        eos_token_id=[1, 106, 50],
    ).save_pretrained(tmp_path)
    tuned = AutoDenoiser.from_pretrained(tmp_path)
    assert tuned.generation_defaults == {
        "sampler": "diffusion-gemma",
        "sampler_options": {
            "gamma": 0.3, "t_max": 1.5, "t_min": 0.1, "stable_steps": 3, "confidence": 0.2,
            "max_steps": 5,
        },
    }  # fmt: skip
    assert (tuned.eos_token_id, tuned.further_eos_ids) == (1, (106, 50))
    out = generate(tuned, prompts, **given)
    explicit = DiffusionGemma(0.3, 1.5, 0.1, 3, 0.2, 5)
    assert torch.equal(
        out.sequences, generate(denoiser, prompts, sampler=explicit, **given).sequences
    )
    assert int(out.nfe.max()) == 5


def test_only_whole_canvases_after_a_prompt(denoiser: Denoiser) -> None:
    tokens = torch.randint(
        0, VOCAB, (2, 3 + 2 * CANVAS), generator=torch.Generator().manual_seed(0)
    )
    editable = torch.zeros_like(tokens).bool()
    editable[:, 3:] = True
    arguments: dict[str, Any] = {"seeds": [1, 2], "steps_per_block": 2}

    def run(where: Tensor, **options: Any) -> Any:
        return sample(denoiser, DiffusionGemma(), tokens, where, **arguments, **options)

    assert torch.equal(run(editable).tokens, run(editable, block_length=CANVAS).tokens)
    with pytest.raises(ValueError, match="block_length=4: this network writes canvases of 8"):
        run(editable, block_length=4)
    with pytest.raises(ValueError, match="canvases of this network begin where the prompt ends"):
        run(editable, align_blocks=True)
    editable[1, -1] = False
    with pytest.raises(ValueError, match="row 1 has a block that is not 8 columns wide"):
        run(editable)
    editable[1, 3 + CANVAS :] = False
    editable[1, 5] = False  # a fixed token inside of a canvas is no obstacle
    kept = run(editable)
    assert torch.equal(kept.tokens[~editable], tokens[~editable])
    assert kept.nfe.tolist() == [4, 2]
    with pytest.raises(ValueError, match="at least one prompt token and a canvas of 8"):
        generate(denoiser, None, max_new_tokens=CANVAS)
