"""Verbs and options that all verbs share; the doctor and the benchmark as commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dlm_sampling.checkup.bench import METHODS
from tests.cli.process import Command, assert_one_line
from tests.forks import ROOT


def test_unknown_option_and_verb(command: Command) -> None:
    theirs = command("generate", "x", "--gen-length", "3")
    assert_one_line(theirs, 2, "'--gen-length'", "LLaDA's gen_length is --max-new-tokens here.")
    typo = command("generate", "x", "--stepps", "3")
    assert_one_line(typo, 2, "Did you mean '--steps'?")
    assert_one_line(command("generat", "x"), 2, "generat")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--steps many", "--steps many: must be a whole number, such as 4."),
        ("--steps 2.5", "--steps 2.5: must be a whole number, such as 4."),
        ("--temperature hot", "--temperature hot: must be a number, such as 0.5."),
        ("-n 0", "--num-return-sequences 0: must be at least 1."),
        ("--steps 0", "steps=0: need at least 1."),
        ("--steps 1000000", "steps=1000000: must be at most 100000"),
        ("--temperature -1", "temperature=-1.0: must be finite and >= 0"),
        ("--top-p 2", "top_p=2.0: must be in (0, 1]"),
        ("--max-new-tokens -1", "max_new_tokens=-1: must be at least 0."),
        ("--guidance-scale nan", "guidance_scale=nan: must be between"),
        ("--device gpu", "device_map='gpu': must be a device"),
        ("--dtype float7", "dtype='float7': must be"),
        ("--sampler fast-dllm --set threshold=90", "threshold=90.0: must be a probability"),
        ("--sampler euler --cuda-graph", "cuda_graph=True: the denoiser is on cpu"),
        ("--eos kep", "Did you mean 'keep'?"),
        ("--max-nfe 0", "max_nfe=0: must be at least 1"),
        ("--max-nfe 4 --cuda-graph", "max_nfe=4: goes without cuda_graph=True"),
        ("--speculate 0", "speculate=0: must be from 1"),
        ("--cache dul", "Did you mean 'dual'?"),
        ("--cache dkf:every=4", "--cache='dkf': must be one of"),
        ("--cache dkv:evry=4", "Policy 'dkv' has no parameter 'evry'. Did you mean 'every'?"),
        ("--cache dkv:every=0", "every=0: must be at least 1"),
    ],
)
def test_a_wrong_value_of_an_option_is_wrong_usage(
    words: str, message: str, command: Command, tiny: str
) -> None:
    assert_one_line(command("generate", "x", "--model", tiny, *words.split()), 2, message)


def test_debug_adds_the_traceback(command: Command, tiny: str) -> None:
    result = command("generate", "x", "--model", tiny, "--steps", "0", "--debug")
    assert result.code == 2
    assert "Traceback" in result.err


def test_log_level_is_checked(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_LOG", "inof")
    assert_one_line(command("samplers"), 2, "DLM_LOG='inof'", "Did you mean 'info'?")


def test_doctor_reports_and_fails(command: Command, tiny: str, tmp_path: Path) -> None:
    well = command("doctor", tiny)
    assert well.code == 0, well
    assert f"{tiny} (llada)" in well.out
    assert re.search(r"^  pass  mask id +1 ", well.out, re.MULTILINE)
    record = json.loads(command("doctor", tiny, "--json").out)
    assert record["ok"] is True
    assert {"mask id", "alignment", "padding", "batch"} <= {c["name"] for c in record["checks"]}
    ill = command("doctor", str(tmp_path))
    assert ill.code == 1
    assert "no config.json" in ill.out
    assert len(ill.err.splitlines()) == 1
    assert "failed: load" in ill.err


def test_bench_table_and_json(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peak memory takes a process per method: `tests/checkup/test_bench.py` measures it."""
    options = ("--rows", "4", "--vocab", "3000", "--repeats", "1")
    measured: list[tuple[object, ...]] = []

    def peak(*setting: object) -> float:
        measured.append(setting)
        return 1.5

    monkeypatch.setattr("dlm_sampling.checkup.bench.peak_megabytes", peak)
    table = command("bench", *options)
    assert table.code == 0, table
    for word in (
        "dlm_sampling",
        "LLaDA",
        "MDLM",
        "multinomial",
        "peak MB",
        "[4, 3000]",
        "top-k 50",
    ):
        assert word in table.out
    assert [setting[:3] for setting in measured] == [(name, 4, 3000) for name in METHODS]
    record = json.loads(command("bench", *options, "--dtype", "bfloat16", "--json").out)
    assert record["dtype"] == "bfloat16"
    assert [method["peak_megabytes"] for method in record["methods"]] == [1.5] * 4
    assert_one_line(command("bench", "--rows", "0"), 2, "rows=0")
    small = ("--sampler", "llada", "--rows", "2", "--length", "4", "--vocab", "9", "--steps", "2")
    loop = json.loads(command("bench", "loop", *small, "--repeats", "1", "--json").out)
    assert [row["sampler"] for row in loop["loops"] if "by hand" not in row["sampler"]] == ["llada"]
    assert_one_line(command("bench", "loop", *small, "--sampler", "lada"), 2, "llada")
    held = tmp_path / "loop.json"
    again = ("--json", "--out", str(held), "--repeats")
    loop["loops"][-1]["microseconds"] = 7.0  # what is there is kept
    held.write_text(json.dumps(loop))
    more = command("bench", "loop", *small, "--sampler", "duo", *again, "1")
    assert json.loads(held.read_text()) == json.loads(more.out)
    assert [row["sampler"] for row in json.loads(more.out)["loops"]][-2:] == ["llada", "duo"]
    assert json.loads(more.out)["loops"][-2]["microseconds"] == 7.0
    assert_one_line(command("bench", "loop", *small, *again, "2"), 4, "other repeats")
    for wrong in (tmp_path, tmp_path / "none" / "loop.json"):
        assert_one_line(command("bench", "loop", *small, "--out", str(wrong)), 2, f"--out {wrong}")
    held.write_text("{}")
    assert_one_line(command("bench", "loop", *small, *again, "1"), 2, "is no result of this")


LIGHT = [  # the words of a command, and what it says
    ("generate --help", "--max-new-tokens"),
    ("generate x --max-new-token 3", "Did you mean '--max-new-tokens'?"),
    ("generate x --eta 0.1", "It is a parameter of samplers: --set eta=0.1"),
    ("generate x --gen-length 3", "LLaDA's gen_length is --max-new-tokens here."),
    ("generate x --quux", "Unknown option '--quux'. List all: --help"),
    ("generate x --config run.tmol", "--config run.tmol: no such file."),
    ("generate x --config {file}", "unknown key 'max_new_token'. Did you mean 'max_new_tokens'?"),
    ("doctor tiny-books --devic cpu", "Did you mean '--device'?"),
    ("bench --row 3", "Did you mean '--rows'?"),
    ("bench loop --row 3", "Did you mean '--rows'?"),
    ("learn tiny-books --step 3", "Did you mean '--steps'?"),
    ("samplers --jsn", "Did you mean '--json'?"),
    ("eval text --samplr llada", "Did you mean '--sampler'?"),
    ("eval bound tiny-books --protocl x", "Did you mean '--protocol'?"),
    ("eval compare --sampler x", "Did you mean '--samplers'?"),
    ("eval cache --promts x", "Did you mean '--prompts'?"),
    ("eval show --ot x", "Did you mean '--out'?"),
    ("eval tasks tiny-books --task x", "Did you mean '--tasks'?"),
]


def test_help_and_unknown_options_import_no_torch(tmp_path: Path) -> None:
    """Of every command, in one process: what takes seconds is imported once the words are right."""
    (tmp_path / "run.toml").write_text("max_new_token = 3")
    words = [line.format(file=tmp_path / "run.toml").split() for line, _ in LIGHT]
    code = (
        "import sys\nfrom dlm_sampling.cli import app as cli\n"
        f"for words in {words}:\n"
        "    try: cli.main(words)\n"
        "    except SystemExit as end: print(end.code, file=sys.stderr)\n"
        "print(sorted({'torch', 'transformers', 'rich', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )  # fmt: skip
    assert done.stdout.endswith("[]\n")
    assert LIGHT[0][1] in done.stdout
    said = done.stderr.splitlines()
    assert said[0] == "0" and said[2::2] == ["2"] * (len(LIGHT) - 1), said
    for line, (_, wanted) in zip(said[1::2], LIGHT[1:], strict=True):
        assert wanted in line
