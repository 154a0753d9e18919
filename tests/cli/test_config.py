"""A config file says what the options say, and the options win."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch

from dlm_sampling import Denoiser
from dlm_sampling.denoisers import auto
from tests.cli.process import Command, assert_one_line


def test_config_file(command: Command, tiny: str, tmp_path: Path) -> None:
    options = ("--model", tiny, "--sampler", "first-hitting", "--set", "tokens_per_step=4")
    flags = (*options, "--max-new-tokens", "12", "--temperature", "0.5", "--json", "-q")
    shown = command("generate", "--print-config", *flags)
    assert shown.code == 0
    assert 'sampler = "first-hitting"' in shown.out
    file = tmp_path / "run.toml"
    file.write_text(shown.out, encoding="utf-8")
    direct = command("generate", "Once", *flags)
    assert command("generate", "Once", "--config", str(file)) == direct
    assert command("generate", "--config", str(file), "--print-config").out == shown.out
    flag_wins = command("generate", "Once", "--config", str(file), "--max-new-tokens", "8")
    assert json.loads(flag_wins.out)["nfe"] == 2
    file.write_text(f"model = {tiny!r}\nsampler = 'first-hitting'\n[set]\ntokens_per_step = 64")
    assert ", 2 NFE," in command("generate", "Once", "--config", str(file)).err


def test_quantisation_is_an_option_of_every_loading_command(
    command: Command, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = command("generate", "--print-config", "--quantize", "int8")
    assert 'quantize = "int8"' in shown.out
    for words in (("generate", "ab", "--model", tiny), ("doctor", tiny)):
        wrong = command(*words, "--quantize", "int9")
        assert_one_line(wrong, 2, "quantize='int9': must be one of", "Did you mean 'int8'")

    def halve(denoiser: Denoiser, method: str) -> None:
        denoiser.to(torch.float16).quantized = method

    monkeypatch.setattr(auto, "check_method", lambda *_: None)
    monkeypatch.setattr(auto, "quantise", halve)
    plain = command("generate", "ab", "--model", tiny, "--max-new-tokens", "2")
    packed = command(
        "generate", "ab", "--model", tiny, "--max-new-tokens", "2", "--quantize", "nf4"
    )
    assert "quantised by nf4, about" in packed.err
    sizes = [float(run.err.split("weights ")[1].split()[0]) for run in (plain, packed)]
    assert sizes[1] < 0.6 * sizes[0]
    assert "linear layers quantised by nf4" in command("doctor", tiny, "--quantize", "nf4").out


def test_a_single_value_stands_for_a_list_of_one(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('stop = "said"')
    shown = command("generate", "x", "--config", str(file), "--print-config").out
    assert tomllib.loads(shown)["stop"] == ["said"]


def test_wrong_config_file(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("gen_length = 3")
    wrong = command("generate", "x", "--config", str(file))
    assert_one_line(wrong, 2, "unknown key 'gen_length'", "max_new_tokens")
    file.write_text("steps = = 3")
    assert_one_line(command("generate", "x", "--config", str(file)), 2, "not TOML")
    file.write_text("steps = 'many'")
    assert_one_line(command("generate", "x", "--config", str(file)), 2, "steps")
    assert_one_line(command("generate", "x", "--config", "none.toml"), 2, "--config none.toml: no")
