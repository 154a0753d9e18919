"""Verbs and options that all verbs share; the doctor and the benchmark as commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.process import ROOT, Command, assert_one_line


def test_unknown_option_and_verb(command: Command) -> None:
    theirs = command("generate", "x", "--gen-length", "3")
    assert_one_line(theirs, 2, "'--gen-length'", "LLaDA's gen_length is --max-new-tokens here.")
    typo = command("generate", "x", "--stepps", "3")
    assert_one_line(typo, 2, "Did you mean '--steps'?")
    assert_one_line(command("generat", "x"), 2, "generat")
    assert_one_line(command("generate", "x", "--steps", "many"), 2, "--steps", "integer")


def test_debug_adds_the_traceback(command: Command, tiny: str) -> None:
    result = command("generate", "x", "--model", tiny, "--steps", "0", "--debug")
    assert result.code == 1
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


def test_bench_table_and_json(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--rows", "4", "--vocab", "3000", "--repeats", "1")
    table = command("bench", *options)
    assert table.code == 0, table
    for word in ("dlm_sampling", "LLaDA", "MDLM", "multinomial", "peak MB", "[4, 3000]"):
        assert word in table.out
    monkeypatch.setattr("dlm_sampling.checkup.bench.peak_megabytes", lambda *_: 1.5)
    record = json.loads(command("bench", *options, "--dtype", "bfloat16", "--json").out)
    assert record["dtype"] == "bfloat16"
    assert [method["peak_megabytes"] for method in record["methods"]] == [1.5] * 4
    assert_one_line(command("bench", "--rows", "0"), 1, "rows=0")


def test_help_imports_no_torch() -> None:
    code = (
        "import sys\nfrom dlm_sampling.cli import app as cli\n"
        "try: cli.main(['generate', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(sorted({'torch', 'transformers', 'rich', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")
    assert "--max-new-tokens" in done.stdout
