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
    repeated = command("generate", "Once", "--config", str(file))
    assert (repeated.code, repeated.out, repeated.err) == (0, direct.out, "")
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
    file.write_text("eta = 0.1")
    assert_one_line(command("generate", "x", "--config", str(file)), 2, "below [set], eta = 0.1")
    file.write_text("steps = = 3")
    assert_one_line(command("generate", "x", "--config", str(file)), 2, "not TOML")
    assert_one_line(command("generate", "x", "--config", "none.toml"), 2, "--config none.toml: no")


@pytest.mark.parametrize(
    "prompts",
    [("Once", "Zo\u00eb \U0001f600"), ("-i", "{file}", "--column", "text"), ("",)],
    ids=["arguments", "input", "empty"],
)
def test_a_printed_file_repeats_the_run(
    command: Command, tiny: str, tmp_path: Path, prompts: tuple[str, ...]
) -> None:
    source = tmp_path / "p.jsonl"
    source.write_text('{"text": "Once"}\n{"text": "a\\u007fb"}', encoding="utf-8")
    words = [word.format(file=source) for word in prompts]
    words += ["--model", tiny, "--max-new-tokens", "4", "--json", "-q", "--stop", "\x7f\U0001f600"]
    file = tmp_path / "run.toml"
    file.write_text(command("generate", *words, "--print-config").out, encoding="utf-8")
    assert command("generate", "--config", str(file)) == command("generate", *words)
    other = command("generate", "Then", "--config", str(file))
    assert [json.loads(line)["prompt"] for line in other.out.splitlines()] == ["Then"]
    if prompts[0] == "Once":
        more = ("-i", str(source), "--column", "text")
        assert len(command("generate", "--config", str(file), *more).out.splitlines()) == 2


def test_prompts_that_are_not_in_the_file_are_told(command: Command) -> None:
    assert command("generate", "--print-config").out.startswith("# without prompts: ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("steps = 'many'", "steps many: must be a whole number"),
        ("steps = [1]", "steps"),
        ("batch_size = 0", "batch-size 0: must be at least 1"),
        ("renoise = 'maybe'", "renoise maybe: must be true or false"),
        ("max_new_tokens = -1", "max_new_tokens=-1: must be at least 0"),
        ("temperature = -1.0", "temperature=-1.0"),
        ("times = '1,x'", "times 1,x: write falling numbers"),
        ("max_errors = 'x'\noutput = '{folder}/'", "max-errors x: must be"),
        ("sampler = 'llda'", "sampler: Unknown sampler 'llda'. Did you mean 'llada'?"),
        ("sampler = 'remdm-cap'\n[set]\neta = -1", "set: eta=-1"),
        ("sampler = 'remdm-cap'\n[set]\nneta = 1", "set: "),
        ("eos = 'kep'", "eos='kep': must be one of"),
        ("max_nfe = 0", "max_nfe=0: must be at least 1"),
        ("cache = 'dkv:every=x'", "cache every=x"),
        ("output = '{folder}/no/x.txt'", "output {folder}/no/x.txt: there is no folder"),
        ("input = '{folder}/none'", "input {folder}/none: no such file"),
    ],
)
def test_a_wrong_value_is_told_by_file_and_key(
    command: Command, tiny: str, tmp_path: Path, line: str, said: str
) -> None:
    file, folder = tmp_path / "run.toml", tmp_path / "out"
    folder.mkdir()
    file.write_text(line.format(folder=folder), encoding="utf-8")
    prompts = () if line.startswith("input") else ("x",)
    wrong = command("generate", *prompts, "--model", tiny, "--config", str(file))
    assert_one_line(wrong, 2, f"{file}, {said.format(folder=folder)}")
    assert "--" not in wrong.err.partition("; ")[0], wrong.err


def test_the_flag_that_overrides_the_file_is_told_as_a_flag(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text("steps = 4")
    wrong = command("generate", "x", "--config", str(file), "--steps", "many")
    assert_one_line(wrong, 2, "Error: --steps many: must be a whole number")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--eta", "0.1"), "Unknown option '--eta'. It is a parameter of samplers: --set eta=0.1"),
        (("--eta=0.1",), "--set eta=0.1"),
        (("eta=0.1",), "The prompt 'eta=0.1' is a parameter of 'remdm-cap': write --set eta=0.1"),
        (("--step", "3"), "Did you mean '--steps'?"),
        (("--gen-length", "3"), "LLaDA's gen_length is --max-new-tokens here."),
        (("--ban", "war"), "Did you mean '--banned'?"),
    ],
)
def test_a_parameter_of_the_sampler_belongs_to_set(
    command: Command, words: tuple[str, ...], said: str
) -> None:
    assert_one_line(command("generate", "x", "--sampler", "remdm-cap", *words), 2, said)
