"""Tokenizers as published: complete files, bare vocabularies, and names; never a Python file."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from dlm_sampling.denoisers import AutoDenoiser, CheckpointError
from dlm_sampling.denoisers.checkpoints import tokenizers as text
from dlm_sampling.denoisers.checkpoints.settings import listed_ids, number, section, setting
from dlm_sampling.denoisers.checkpoints.tokenizers import (
    TextFacts,
    gpt2_with_mask,
    load_from_folder,
    tokenizer_source,
    with_special_ids,
)

DREAM = Path(__file__).parents[2] / "fixtures" / "models" / "dream"


def write_bare_vocabulary(folder: Path) -> None:
    """Vocabulary and merges without tokenizer.json, and a tokenizer class of the authors' own."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*letters, "th", "the", "<|mask|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\n", encoding="utf-8")
    (folder / "tokenization_dream.py").write_text("raise SystemExit('the code ran')")
    config = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "mask_token": "<|mask|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_a_bare_vocabulary_is_read_without_its_code(tmp_path: Path) -> None:
    write_bare_vocabulary(tmp_path)
    loaded: Any = load_from_folder(tmp_path)
    assert loaded.decode(loaded("the thin").input_ids) == "the thin"
    assert loaded.convert_ids_to_tokens(loaded("the").input_ids) == ["the"]
    assert loaded.mask_token == "<|mask|>"
    assert loaded.mask_token_id == 258


def test_a_tokenizer_can_be_given_or_named(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(tmp_path)
    assert AutoDenoiser.from_pretrained(DREAM).tokenizer is None
    assert AutoDenoiser.from_pretrained(DREAM, tokenizer=tokenizer).tokenizer is tokenizer
    named: Any = AutoDenoiser.from_pretrained(DREAM, tokenizer=str(tmp_path)).tokenizer
    assert named.mask_token_id == tokenizer.mask_token_id


def test_loading_waits_until_the_tokenizer_is_asked_for(tmp_path: Path) -> None:
    called: list[str] = []
    source: Any = tokenizer_source(tmp_path, None, lambda: called.append("default"))
    assert called == []
    assert source() is None
    assert called == ["default"]


def test_gpt2_gets_a_mask_behind_its_tokens(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any, caplog: Any
) -> None:
    monkeypatch.setattr(text, "load_named", lambda name: tokenizer)
    ready: Any = gpt2_with_mask()
    assert ready.mask_token == "[MASK]"

    def offline(name: str) -> Any:
        raise OSError("We couldn't connect.\nMore.")

    monkeypatch.setattr(text, "load_named", offline)
    assert gpt2_with_mask() is None
    assert "pass tokenizer= for text" in caplog.text


def test_special_ids(tokenizer: Any) -> None:
    class Config:
        eos_token_id = (7, 8)

    given = TextFacts(tokenizer=tokenizer, eos_token_id=3)
    assert with_special_ids(given, Config).get("eos_token_id") == 3
    known = with_special_ids(TextFacts(tokenizer=tokenizer), Config)
    assert known.get("eos_token_id") == tokenizer.eos_token_id
    assert known.get("tokenizer") is tokenizer
    read = with_special_ids(TextFacts(), Config)
    assert read == {"tokenizer": None, "eos_token_id": 7, "pad_token_id": None}


def test_settings_are_read_with_their_type() -> None:
    config = SimpleNamespace(size=3, none=None, rate=1, ids=[4, 5], parts={"a": 1}, word="x")
    assert setting(config, "size", int) == 3
    assert setting(config, "none", int) is setting(config, "absent", int) is None
    assert setting(None, "size", int) is None
    assert number(config, "rate") == 1.0
    assert section(config, "parts") == {"a": 1}
    assert section(config, "absent") == {}
    assert listed_ids(config, "ids") == (4, 5)
    assert listed_ids(config, "size") == (3,)
    assert listed_ids(config, "absent") == ()
    for read in (
        lambda: setting(config, "word", int),
        lambda: number(config, "word"),
        lambda: section(config, "word"),
        lambda: listed_ids(config, "word"),
    ):
        with pytest.raises(CheckpointError, match="SimpleNamespace has word='x': must be"):
            read()
