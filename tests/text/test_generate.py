"""`generate`: every kind of prompt, endings, streaming, seeds, defaults, and its errors."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import AutoDenoiser, generate, samplers, wrap
from dlm_sampling.engine.trajectory import StepEvent
from dlm_sampling.errors import SamplingWarning
from dlm_sampling.samplers import SamplerConfig, load_config, save_config
from dlm_sampling.text.generate import generate_parts
from dlm_sampling.text.options import GenerateOptions, prepare

VOCAB, MASK, EOS, PAD = 11, 10, 9, 8


def script(*rows: list[int]) -> Any:
    """A denoiser that is certain of a fixed continuation: position i holds rows[b][i]."""
    table = torch.tensor(rows)

    def logits(input_ids: Tensor) -> Tensor:
        target = table[: len(input_ids), : input_ids.shape[1]]
        return torch.nn.functional.one_hot(target, VOCAB) * 50.0

    return wrap(logits, vocab_size=VOCAB, mask_token_id=MASK, eos_token_id=EOS, pad_token_id=PAD)


@pytest.fixture(scope="module")
def tiny(tiny_llada: Path) -> Any:
    return AutoDenoiser.from_pretrained(tiny_llada)


def test_kinds_of_prompts_agree(tiny: Any) -> None:
    ids = tiny.tokenizer("Once upon")["input_ids"]
    options: dict[str, Any] = {"max_new_tokens": 6, "seed": [7], "temperature": 1.0}
    reference = generate(tiny, "Once upon", **options)
    padded = torch.tensor([[0, 0, *ids], [*ids, 0, 0]])
    mask = torch.tensor([[0, 0] + [1] * len(ids), [1] * len(ids) + [0, 0]])
    for prompts in (["Once upon"], ids, [ids], torch.tensor(ids), torch.tensor([ids])):
        assert generate(tiny, prompts, **options).token_ids == reference.token_ids
    both = generate(tiny, padded, attention_mask=mask, **{**options, "seed": [7, 7]})
    assert both.token_ids == [reference.token_ids[0]] * 2
    assert reference.prompt_lengths == [len(ids)]
    assert reference.texts == [
        tiny.tokenizer.decode(reference.token_ids[0], skip_special_tokens=True)
    ]


def test_chat_messages_use_the_template(tiny: Any) -> None:
    turns = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tiny.tokenizer.chat_template = turns + "{% if add_generation_prompt %}: {% endif %}"
    chat = [{"role": "user", "content": "Why"}]
    out = generate(tiny, chat, max_new_tokens=5, seed=[3])
    assert out.token_ids == generate(tiny, "Why: ", max_new_tokens=5, seed=[3]).token_ids
    assert (
        generate(tiny, [chat, chat], max_new_tokens=5, seed=[3, 3]).token_ids == out.token_ids * 2
    )


def test_text_with_masks_is_filled_in_place(tiny: Any) -> None:
    mask = tiny.tokenizer.mask_token
    out = generate(tiny, f"ab{mask}d{mask}", seed=1)
    ids = out.token_ids[0]
    assert out.prompt_lengths == [5]
    assert [tiny.tokenizer.decode([ids[i]]) for i in (0, 1, 3)] == ["a", "b", "d"]
    assert tiny.mask_token_id not in ids
    both = generate(tiny, f"ab{mask}d", max_new_tokens=3, seed=1)
    assert len(both.token_ids[0]) == 7


def test_explicit_infill_and_mask_ids_in_prompts() -> None:
    denoiser = script([0, 1, 2, 3, 4, 5])
    prompt = [0, MASK, 7, 7, MASK, 5]
    filled = generate(denoiser, [prompt], infill=[[False, True, False, True, False, False]])
    assert filled.sequences.tolist() == [
        [0, 1, 7, 3, MASK, 5]
    ]  # the other mask is a token of the prompt
    assert generate(denoiser, prompt, infill=True).sequences.tolist() == [[0, 1, 7, 7, 4, 5]]
    by_tensor = generate(
        denoiser, torch.tensor([prompt]), infill=torch.tensor([[0, 0, 0, 0, 1, 0]]).bool()
    )
    assert by_tensor.sequences.tolist() == [[0, MASK, 7, 7, 4, 5]]


def test_without_a_prompt(tiny: Any) -> None:
    for empty in (None, "", [""]):
        out = generate(
            tiny, empty, max_new_tokens=4, num_return_sequences=3, seed=2, temperature=1.0
        )
        assert out.sequences.shape == (3, 4)
        assert out.prompt_lengths == [0, 0, 0]
    assert len({tuple(ids) for ids in out.token_ids}) > 1


def test_endings() -> None:
    denoiser = script([0, 1, 2, EOS, 4, 5], [0, 1, 2, 3, 4, 5])
    prompts = [[0], [0]]
    options: dict[str, Any] = {
        "max_new_tokens": 5,
        "sampler": samplers.create("llada", order="left_to_right"),
    }
    kept = generate(denoiser, prompts, eos="keep", **options)
    assert kept.sequences.tolist() == [[0, 1, 2, EOS, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert kept.finish_reasons == ["length", "length"]
    cut = generate(denoiser, prompts, eos="cut", **options)
    assert cut.sequences.tolist() == [[0, 1, 2, EOS, PAD, PAD], [0, 1, 2, 3, 4, 5]]
    assert cut.token_ids == [[1, 2], [1, 2, 3, 4, 5]]
    assert cut.nfe.tolist() == [5, 5]
    stopped = generate(denoiser, prompts, **options)
    assert stopped.sequences.tolist() == cut.sequences.tolist()
    assert stopped.finish_reasons == ["eos", "length"]
    assert stopped.nfe.tolist() == [3, 5]
    assert stopped.logprobs[0, 4:].abs().sum() == 0


def test_a_row_stops_only_when_everything_left_of_its_end_is_known() -> None:
    """The end-of-text is written first, the positions to its left later."""
    target = torch.tensor([1, 2, EOS, 4])
    sharpness = torch.tensor([1.0, 3.0, 9.0, 2.0])  # the order of confidence: 2, 1, 3, 0

    def logits(input_ids: Tensor) -> Tensor:
        return (torch.nn.functional.one_hot(target, VOCAB) * sharpness.unsqueeze(1)).expand(
            len(input_ids), -1, -1
        )

    denoiser = wrap(
        logits, vocab_size=VOCAB, mask_token_id=MASK, eos_token_id=EOS, pad_token_id=PAD
    )
    out = generate(denoiser, None, max_new_tokens=4, eos="stop", sampler="llada")
    assert out.nfe.tolist() == [4]
    assert out.sequences.tolist() == [[1, 2, EOS, PAD]]


def test_seeds_repeat_a_row_alone(tiny: Any) -> None:
    prompts = ["One", "Twenty", "abc"]
    out = generate(tiny, prompts, max_new_tokens=7, sampler="first-hitting", num_return_sequences=2)
    again = generate(
        tiny,
        prompts,
        max_new_tokens=7,
        sampler="first-hitting",
        num_return_sequences=2,
        seed=out.seeds,
    )
    assert again.token_ids == out.token_ids
    alone = generate(tiny, "Twenty", max_new_tokens=7, sampler="first-hitting", seed=[out.seeds[3]])
    assert alone.token_ids == [out.token_ids[3]]
    with pytest.warns(SamplingWarning, match=r"is the seed of one row.*: seed=\[\d+\] repeats"):
        generate(tiny, "Twenty", max_new_tokens=1, seed=out.seeds[3])
    assert len(set(out.seeds)) == 6
    small = generate(
        tiny,
        prompts,
        max_new_tokens=7,
        sampler="first-hitting",
        num_return_sequences=2,
        seed=out.seeds,
        batch_size=2,
    )
    assert small.token_ids == out.token_ids
    assert torch.equal(small.sequences, out.sequences)


def test_fresh_entropy_by_default(tiny: Any) -> None:
    first, second = (generate(tiny, "a", max_new_tokens=4, temperature=1.0) for _ in range(2))
    assert first.seeds != second.seeds


def test_guidance_counts_two_forwards_and_sharpens(tiny: Any) -> None:
    plain = generate(tiny, "abc", max_new_tokens=4, seed=1)
    guided = generate(tiny, "abc", max_new_tokens=4, seed=1, guidance_scale=1.5)
    assert guided.nfe.tolist() == [2 * n for n in plain.nfe.tolist()]


def test_suppressed_tokens_are_never_written() -> None:
    out = generate(script([1] * 6), None, max_new_tokens=6, suppress_tokens=[1])
    assert out.sequences.tolist() == [[0] * 6]


def test_steps_blocks_and_positions_first(tiny: Any) -> None:
    for steps in (1, 3, 50):
        for block in (None, 1, 4, 100):
            out = generate(
                tiny, ["ab", "a"], max_new_tokens=10, steps=steps, block_length=block, seed=0
            )
            assert bool((out.nfe <= 10).all())
            assert not bool((out.sequences == tiny.mask_token_id).any())


class Recorder:
    """A streamer with drafts; remembers what it was told."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.current: list[int] = []
        self.drafts = 0
        self.puts: list[int] = []

    def put(self, value: Tensor) -> None:
        tokens = value.reshape(-1).tolist()
        self.puts.append(len(tokens))
        self.current += tokens

    def put_draft(self, value: Tensor) -> None:
        assert value.ndim == 1
        self.drafts += 1

    def end(self) -> None:
        self.rows.append(self.current)
        self.current = []


@pytest.mark.parametrize("sampler", ["llada", "remdm-cap"])
def test_streamers_speak_every_row(tiny: Any, sampler: str) -> None:
    recorder = Recorder()
    prompts = ["One", "Twenty two", "x"]
    out = generate(
        tiny, prompts, max_new_tokens=6, seed=3, sampler=sampler, streamer=recorder, eos="keep"
    )
    ids = [tiny.tokenizer(p)["input_ids"] for p in prompts]
    assert recorder.rows == [i + t for i, t in zip(ids, out.token_ids, strict=True)]
    assert recorder.drafts > 0


def test_stock_text_streamer_with_a_batch(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import TextStreamer

    streamer = TextStreamer(tiny.tokenizer, skip_prompt=True, skip_special_tokens=True)
    out = generate(
        tiny,
        ["One", "Two"],
        max_new_tokens=5,
        seed=3,
        streamer=streamer,
        suppress_tokens=[64, 65, 66],
    )
    assert out.texts is not None
    printed = capsys.readouterr().out
    for text in out.texts:
        assert text.strip() in printed


def test_callback_sees_typed_events(tiny: Any) -> None:
    events: list[StepEvent] = []
    out = generate(
        tiny,
        ["One", "Two"],
        max_new_tokens=5,
        seed=3,
        callback=events.append,
        return_trajectory=True,
    )
    assert out.trajectory is not None
    assert len(events) == len(out.trajectory.events) == int(out.steps.max())
    assert all(isinstance(event, StepEvent) for event in events)
    assert torch.equal(events[-1].tokens[0], out.sequences[0])
    assert out.trajectory.canvas(1, 0).eq(tiny.mask_token_id).sum() == 5


def test_a_sampler_config_travels_with_the_checkpoint(tiny_llada: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny_llada, tmp_path / "tuned")
    config = SamplerConfig(
        "remdm-cap", {"eta": 0.05}, temperature=0.9, block_length=3, notes="by hand"
    )
    save_config(config, folder)
    assert load_config(folder) == config
    tuned = AutoDenoiser.from_pretrained(folder)
    default = generate(tuned, "ab", max_new_tokens=6, seed=[1])
    explicit = generate(
        tuned,
        "ab",
        sampler="remdm-cap",
        sampler_options={"eta": 0.05},
        temperature=0.9,
        block_length=3,
        max_new_tokens=6,
        seed=[1],
    )
    assert default.token_ids == explicit.token_ids
    assert default.steps.tolist() == explicit.steps.tolist() == [8]


ERRORS: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, "max_new_tokens", {"gen_length": 4}),
    (ValueError, "Did you mean 'remdm", {"sampler": "remdm-capp"}),
    (TypeError, "order", {"sampler": "llada", "sampler_options": {"ordr": "random"}}),
    (ValueError, "order", {"sampler": "llada", "sampler_options": {"order": "confidnce"}}),
    (TypeError, "steps='8'", {"steps": "8"}),
    (TypeError, "steps=2.5", {"steps": 2.5}),
    (TypeError, "block_length='2'", {"block_length": "2"}),
    (TypeError, "steps_per_block=1.5", {"steps_per_block": 1.5}),
    (TypeError, "batch_size='4'", {"batch_size": "4"}),
    (TypeError, "num_return_sequences=2.5", {"num_return_sequences": 2.5}),
    (TypeError, "num_return_sequences=None", {"num_return_sequences": None}),
    (TypeError, "max_new_tokens=2.5", {"max_new_tokens": 2.5}),
    (TypeError, "guidance_scale='1'", {"guidance_scale": "1"}),
    (ValueError, "guidance_scale=nan", {"guidance_scale": float("nan")}),
    (TypeError, "temperature='hot'", {"temperature": "hot"}),
    (TypeError, "top_k=2.5", {"top_k": 2.5}),
    (TypeError, "top_p='x'", {"top_p": "x"}),
    (ValueError, "crossing='includ'", {"crossing": "includ"}),
    (ValueError, "steps=0", {"steps": 0}),
    (ValueError, "block_length=0", {"block_length": 0}),
    (ValueError, "temperature=-1", {"temperature": -1.0}),
    (ValueError, "top_p=1.5", {"top_p": 1.5}),
    (ValueError, "top_k=0", {"top_k": 0}),
    (ValueError, "eos='kep'", {"eos": "kep"}),
    (ValueError, "num_return_sequences=0", {"num_return_sequences": 0}),
    (ValueError, "batch_size=0", {"batch_size": 0}),
    (ValueError, "seed", {"seed": [1, 2, 3]}),
    (ValueError, "max_new_tokens=-1", {"max_new_tokens": -1}),
    (ValueError, "exceed the context of 96. Ask for at most 94", {"max_new_tokens": 4000}),
    (ValueError, "attention_mask", {"attention_mask": torch.ones(1, 2)}),
    (ValueError, "infill", {"infill": [[True], [False]]}),
    (TypeError, "infill: 'yes' is no mask", {"infill": "yes"}),
    (TypeError, "infill: 2 is no mask", {"infill": [2, 2]}),
    (TypeError, "seed='7'", {"seed": "7"}),
    (TypeError, "seed=1.5", {"seed": 1.5}),
    (TypeError, "eos_token_id='a'", {"eos_token_id": "a"}),
    (ValueError, "eos_token_id: 99 is no token id", {"eos_token_id": 99}),
    (ValueError, "eos_token_id: -1 is no token id", {"eos_token_id": -1}),
    (TypeError, "suppress_tokens=2.5", {"suppress_tokens": 2.5}),
    (ValueError, "suppress_tokens: 99 is no token id", {"suppress_tokens": [1, 99]}),
    (TypeError, "stop=3", {"stop": 3}),
    (TypeError, "add_special_tokens='no'", {"add_special_tokens": "no"}),
    (TypeError, "chat_template_kwargs='x'", {"chat_template_kwargs": "x"}),
    (TypeError, "streamer is a str", {"streamer": "x"}),
    (TypeError, "tokenizer is a str", {"tokenizer": "gpt2"}),
    (TypeError, "sampler_options=['eta']", {"sampler": "llada", "sampler_options": ["eta"]}),
    (TypeError, "callback is a list", {"callback": []}),
    (TypeError, "progress='no'", {"progress": "no"}),
    (TypeError, "align_blocks=1", {"align_blocks": 1}),
    (TypeError, "causal_blocks=1", {"causal_blocks": 1}),
    (TypeError, "return_trajectory='yes'", {"return_trajectory": "yes"}),
    (TypeError, "every_step=1", {"every_step": 1}),
    (TypeError, "cuda_graph=1", {"cuda_graph": 1}),
    (TypeError, "until is stop here", {"until": ["a"]}),
    (TypeError, "enable_thinking is chat_template_kwargs here", {"enable_thinking": False}),
]


@pytest.mark.parametrize(("kind", "message", "options"), ERRORS)
def test_errors_name_the_argument(
    tiny: Any, kind: type[Exception], message: str, options: dict[str, Any]
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        generate(tiny, "ab", **{"max_new_tokens": 4, **options})


@pytest.mark.parametrize(("kind", "message", "options"), ERRORS)
def test_a_call_that_is_refused_sends_nothing(
    tiny: Any, kind: type[Exception], message: str, options: dict[str, Any]
) -> None:
    """Some arguments are only checked where the run begins; the streamer waits for a step."""
    recorder = Recorder()
    with pytest.raises(kind):
        generate(tiny, "ab", **{"max_new_tokens": 4, "streamer": recorder, **options})
    assert recorder.puts == []


def test_a_sampler_of_another_noise_sends_nothing(tiny: Any) -> None:
    recorder = Recorder()
    with pytest.raises(ValueError, match="noise"):
        generate(tiny, "ab", sampler="planned", max_new_tokens=4, streamer=recorder)
    assert recorder.puts == []


def test_a_row_with_nothing_to_write_is_streamed_too(tiny: Any) -> None:
    recorder = Recorder()
    out = generate(tiny, ["ab", "cd"], max_new_tokens=0, streamer=recorder)
    assert recorder.rows == [row.tolist() for row in out.sequences]


def test_a_denoiser_is_no_name_and_no_network() -> None:
    for wrong in ("tiny-books", torch.nn.Linear(1, 1), None):
        with pytest.raises(TypeError, match=f"denoiser is a {type(wrong).__name__}: must be a De"):
            generate(wrong, "ab")  # pyright: ignore


def test_arguments_of_a_chat_template_need_a_chat(tiny: Any) -> None:
    with pytest.raises(ValueError, match=r"chat_template_kwargs: .* no prompt is a chat"):
        generate(tiny, ["ab", [1, 2]], max_new_tokens=3, chat_template_kwargs={"x": 1})


def test_a_cut_leaves_fixed_context_alone() -> None:
    """The end-of-text is written into the first hole; context and a second hole stand behind it."""
    denoiser = script([0, EOS, 2, 3, 4])
    prompt, fill = [0, MASK, 7, MASK, 7], [[False, True, False, True, False]]
    for eos in ("cut", "stop"):
        out = generate(denoiser, [prompt], infill=fill, eos=eos)
        assert out.sequences.tolist() == [[0, EOS, 7, PAD, 7]]
        assert out.token_ids == [[0]]
        assert out.finish_reasons == ["eos"]
        assert out.logprobs[0, 2:].tolist() == [0.0] * 3
    given = generate(denoiser, [[EOS, MASK, EOS, 7]], infill=True, eos="cut")
    assert given.finish_reasons == ["eos"]  # of the hole
    other = generate(script([0, 1, 2, 3]), [[EOS, MASK, EOS, 7]], infill=True, eos="cut")
    assert other.sequences.tolist() == [[EOS, 1, EOS, 7]]
    assert other.finish_reasons == ["length"]


def test_what_is_behind_an_end_that_the_call_names_is_that_end() -> None:
    """A network without padding has no other id for it, and 0 may be its mask."""
    logits = torch.zeros(4, 8).index_fill(1, torch.tensor([7]), 9.0)
    toy = wrap(
        lambda input_ids: logits.expand(len(input_ids), -1, -1), vocab_size=8, mask_token_id=0
    )
    out = generate(toy, max_new_tokens=4, eos="cut", eos_token_id=7, temperature=0.0)
    assert out.sequences.tolist() == [[7, 7, 7, 7]] and out.token_ids == [[]]


def equal_warnings(seen: pytest.WarningsRecorder) -> list[warnings.WarningMessage]:
    found = [warning for warning in seen.list if "are equal" in str(warning.message)]
    seen.clear()
    return found


def test_equal_samples_of_an_argmax_law_are_told(
    tiny: Any, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "seed": 3, "num_return_sequences": 3}
    out = generate(tiny, ["ab", "cd"], sampler="llada", **options)
    assert out.token_ids[0] == out.token_ids[1] == out.token_ids[2]
    (told,) = equal_warnings(recwarn)
    assert told.filename == __file__  # it points at the call, and shows without set-up
    assert "The 3 sequences of prompt 0 are equal: the temperature is 0" in str(told.message)
    assert "temperature=1.0" in str(told.message)
    generate(tiny, "ab", sampler="ancestral", top_k=1, **options)
    (told,) = equal_warnings(recwarn)
    assert "are equal: top_k is 1" in str(told.message)
    for other in ({"temperature": 1.0}, {"num_return_sequences": 1}, {"sampler": "ancestral"}):
        generate(tiny, "ab", **{"sampler": "llada", **options, **other})
        assert equal_warnings(recwarn) == []

    def masks_left(input_ids: Tensor) -> Tensor:  # an argmax that depends on the random order
        left = (input_ids == MASK).sum(1, keepdim=True).expand(input_ids.shape) % 8
        return torch.nn.functional.one_hot(left, VOCAB) * 50.0

    counting = wrap(masks_left, vocab_size=VOCAB, mask_token_id=MASK)
    drawn = generate(counting, sampler="llada-random", temperature=0.0, **options)
    assert len({tuple(ids) for ids in drawn.token_ids}) > 1  # its order is random
    assert equal_warnings(recwarn) == []
    job = prepare(tiny, "ab", GenerateOptions("llada", max_new_tokens=3, num_return_sequences=4))
    assert len(list(generate_parts(job, 2))) == 2
    assert sum("are equal" in r.getMessage() for r in caplog.records) == 1  # once per command
    assert equal_warnings(recwarn) == []


def test_chat_without_a_template(tiny_llada: Path) -> None:
    with pytest.raises(ValueError, match="Prompt 0 holds chat messages"):
        generate(AutoDenoiser.from_pretrained(tiny_llada), [{"role": "user", "content": "a"}])


def test_errors_of_prompts(tiny: Any) -> None:
    with pytest.raises(ValueError, match="no tokenizer"):
        generate(script([1, 2]), "text", max_new_tokens=1)
    with pytest.raises(ValueError, match="Prompt 1, position 0: id 99"):
        generate(script([1, 2, 3]), [[1], [99]], max_new_tokens=1)
    with pytest.raises(ValueError, match="prompts=\\[\\]"):
        generate(tiny, [], max_new_tokens=1)
    with pytest.raises(ValueError, match="there is nothing to write"):
        generate(tiny, "", max_new_tokens=0)
    with pytest.raises(ValueError, match="float is not understood"):
        generate(tiny, [1.5], max_new_tokens=1)
    with pytest.raises(TypeError, match="sampler is an int"):
        generate(tiny, "a", sampler=3, max_new_tokens=1)  # pyright: ignore


def test_errors_of_tensors(tiny: Any) -> None:
    ids = torch.ones(2, 3).long()
    with pytest.raises(ValueError, match=r"prompts \(0, 4\): no rows"):
        generate(tiny, torch.zeros(0, 4).long(), max_new_tokens=1)
    with pytest.raises(ValueError, match="attention_mask has 1 rows for 2 prompts"):
        generate(tiny, ids, attention_mask=torch.ones(1, 3), max_new_tokens=1)
    with pytest.raises(ValueError, match="infill has 1 rows for 2 prompts"):
        generate(tiny, ids, infill=torch.ones(3).bool())
    with pytest.raises(ValueError, match="must be integer ids"):
        generate(tiny, ids.float(), max_new_tokens=1)


def test_nan_logits_name_the_row() -> None:
    denoiser = wrap(
        lambda input_ids: torch.full((*input_ids.shape, VOCAB), float("nan")),
        vocab_size=VOCAB,
        mask_token_id=MASK,
    )
    with pytest.raises(ValueError, match="NaN"):
        generate(denoiser, None, max_new_tokens=3)
