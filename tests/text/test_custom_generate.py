"""Our samplers behind `model.generate` of transformers, on a small bidirectional BERT."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    TextStreamer,
    dynamic_module_utils,
)

from dlm_sampling import generate
from dlm_sampling.denoisers.transformers_model import denoiser_of
from dlm_sampling.text.custom_generate import diffusion_generate, save_custom_generate
from tests.tiny import tiny_tokenizer

V, MASK, END, PAD = 20, 19, 18, 0
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
    "pad_token_id": PAD,
    "eos_token_id": END,
}
IDS = torch.tensor([[PAD, PAD, 3, 4], [5, 6, 7, 8]])
SEEN = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])


@pytest.fixture
def model() -> Any:
    """A network whose laws are far from flat, dropout included, and that never ends a text."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = BertLMHeadModel(BertConfig(**SIZES)).train()
        with torch.no_grad():
            for weight in made.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
            made.cls.predictions.bias[[PAD, END]] = -1e4
    made.generation_config.mask_token_id = MASK
    return made


def ours(model: Any, **options: Any) -> Tensor:
    out = generate(denoiser_of(model), IDS, attention_mask=SEEN.bool(), eos="stop", **options)
    return out.sequences


def theirs(model: Any, how: Any = diffusion_generate, **options: Any) -> Tensor:
    return model.generate(IDS, attention_mask=SEEN, custom_generate=how, **options)


def test_gives_the_tokens_of_generate(model: Any) -> None:
    options: dict[str, Any] = {
        "sampler": "remdm-cap",
        "sampler_options": {"eta": 0.2},
        "steps": 3,
        "max_new_tokens": 6,
        "seed": 4,
    }
    found = theirs(model, **options)
    assert model.training, "the mode is given back"
    assert found.dtype == torch.int64
    assert torch.equal(found[:, :4], IDS)
    assert torch.equal(found, ours(model, **options))
    assert not torch.equal(found, theirs(model, **{**options, "seed": 5}))
    again = theirs(model, **{**options, "num_return_sequences": 2, "do_sample": True})
    assert again.shape == (4, 10)
    assert len({tuple(row) for row in again[:, 4:].tolist()}) == 4


def test_do_sample_brings_the_law_of_the_generation_config(model: Any) -> None:
    options: dict[str, Any] = {"sampler": "ancestral", "max_new_tokens": 6, "seed": 4}
    for law in (
        *({"temperature": 0.3, "top_k": 3}, {"top_p": 0.5}, {"min_p": 0.4, "top_k": 0}),
        {"typical_p": 0.5, "eta_cutoff": 0.1, "repetition_penalty": 1.5},
    ):
        own = {"top_k": 50, **law}
        expected = ours(model, **options, **{k: v or None for k, v in own.items()})
        assert torch.equal(theirs(model, do_sample=True, **law, **options), expected)
    greedy = theirs(model, do_sample=True, top_k=1, sampler="llada", max_new_tokens=6)
    assert torch.equal(greedy, ours(model, sampler="llada", max_new_tokens=6))


def test_a_text_ends_with_its_end_and_padding(model: Any) -> None:
    with torch.no_grad():
        model.cls.predictions.bias[END] = 4.0
    options: dict[str, Any] = {"sampler": "ancestral", "max_new_tokens": 30, "seed": 8}
    found, whole = theirs(model, **options)[:, 4:], ours(model, **options)[:, 4:]
    assert torch.equal(found, whole[:, : found.shape[1]])
    ends = (found == END).int().argmax(1)
    assert found.shape[1] == int(ends.max()) + 1 < 30
    for row, end in zip(found.tolist(), ends.tolist(), strict=True):
        assert set(row[end + 1 :]) <= {PAD}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place of its own for the scripts that transformers copies."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.usefixtures("modules")
def test_a_folder_does_what_the_function_does(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "remdm"
    script = save_custom_generate(folder, sampler="remdm-cap", sampler_options={"eta": 0.2}, seed=4)
    assert script == folder / "custom_generate" / "generate.py"
    assert (script.parent / "requirements.txt").read_text() == "dlm-sampling\n"
    options: dict[str, Any] = {"sampler": "remdm-cap", "sampler_options": {"eta": 0.2}}
    options |= {"max_new_tokens": 6, "seed": 4}
    how = {"how": str(folder), "trust_remote_code": True}
    assert torch.equal(theirs(model, **how, max_new_tokens=6), theirs(model, **options))
    changed = theirs(model, **how, max_new_tokens=6, seed=5)
    assert torch.equal(changed, theirs(model, **{**options, "seed": 5}))
    with pytest.raises(ValueError, match="streamer"):
        theirs(model, **how, streamer=TextStreamer(tiny_tokenizer()))  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("modules")
def test_a_checkpoint_in_the_folder_writes_so_by_itself(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "bert")
    save_custom_generate(tmp_path / "bert", sampler="maskgit", seed=3, mask_token_id=MASK)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "bert", trust_remote_code=True)
    expected = theirs(model, sampler="maskgit", seed=3, max_new_tokens=5)
    given = {"attention_mask": SEEN, "max_new_tokens": 5}
    assert torch.equal(loaded.generate(input_ids=IDS, **given), expected)
    assert torch.equal(loaded.generate(IDS, **given), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 3}, "num_beams=3"),
        ({"no_repeat_ngram_size": 2}, "NoRepeatNGramLogitsProcessor"),
        ({"max_time": 3.0}, "MaxTimeCriteria"),
        ({"output_scores": True, "return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"sampler": "lada"}, "Did you mean 'llada'"),
        ({"penalty_alpha": 0.5}, "penalty_alpha"),
        ({"output_scores": True}, "output_scores"),
    ],
)
def test_what_samplers_lack_is_refused(model: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        theirs(model, max_new_tokens=4, **options)


def test_networks_that_cannot_be_sampled_are_refused(model: Any) -> None:
    causal = LlamaForCausalLM(LlamaConfig(**SIZES))
    with pytest.raises(ValueError, match="attends causally"):
        causal.generate(IDS, custom_generate=diffusion_generate, mask_token_id=MASK)
    del model.generation_config.mask_token_id
    with pytest.raises(ValueError, match="mask_token_id=None"):
        theirs(model, max_new_tokens=4)
    assert theirs(model, max_new_tokens=4, mask_token_id=MASK).shape == (2, 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stpes": 3}, "steps"),
        ({"sampler": "remdm-cap", "sampler_options": {"etta": 1}}, "eta"),
        ({"sampler": object()}, "by name"),
        ({"steps": "x"}, "steps"),
        ({"shifted": 1}, "shifted"),
    ],
)
def test_options_that_cannot_be_saved_are_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        save_custom_generate(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
