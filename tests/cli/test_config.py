"""A config file says what the options say, and the options win."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_wrong_config_file(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("gen_length = 3")
    wrong = command("generate", "x", "--config", str(file))
    assert_one_line(wrong, 2, "unknown key 'gen_length'", "max_new_tokens")
    file.write_text("steps = = 3")
    assert_one_line(command("generate", "x", "--config", str(file)), 2, "not TOML")
    file.write_text("steps = 'many'")
    assert_one_line(command("generate", "x", "--config", str(file)), 2, "steps")
    assert_one_line(command("generate", "x", "--config", "none.toml"), 1, "No such file")
