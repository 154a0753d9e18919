"""The command line: results, one line about a failure, exit codes, the live canvas."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dlm_sampling.cli import app as cli
from dlm_sampling.cli.io import UsageError, check_model, parse_value
from dlm_sampling.viewers.safe_text import json_line, one_line, printable
from tests.tiny import CONTEXT

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tiny(tiny_llada: Path) -> str:
    return str(tiny_llada)


class Result(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    """Run the command in this process: importing torch again for every case would take minutes."""

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, captured.out, captured.err)

    handlers = list(logging.getLogger("dlm_sampling").handlers)
    yield run
    logging.getLogger("dlm_sampling").handlers[:] = handlers


def assert_one_line(result: Result, code: int, *words: str) -> None:
    assert result.code == code, result
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("Error: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err, result.err
    assert result.out == ""


SHORT = ("--max-new-tokens", "12", "--sampler", "ancestral")


# Results


def test_text_with_its_prompt(command: Command, tiny: str) -> None:
    result = command("generate", "Once upon", "--model", tiny, *SHORT)
    assert result.code == 0
    assert result.out.startswith("Once upon")
    assert result.out.endswith("\n")
    assert re.fullmatch(r"ancestral, seed 0, \d+ NFE, [\d.]+ s\n", result.err)


def test_seed_repeats_and_matters(command: Command, tiny: str) -> None:
    first = command("generate", "Once", "--model", tiny, *SHORT, "--seed", "7")
    again = command("generate", "Once", "--model", tiny, *SHORT, "--seed", "7")
    other = command("generate", "Once", "--model", tiny, *SHORT, "--seed", "8")
    assert first.out == again.out != other.out
    assert "seed 7" in first.err


def test_json_line_repeats_from_python(command: Command, tiny: str) -> None:
    from dlm_sampling import AutoDenoiser, generate

    result = command("generate", "Once", "--model", tiny, *SHORT, "--json", "-n", "3", "-q")
    assert result.err == ""
    records = [json.loads(line) for line in result.out.splitlines()]
    assert [r["sample"] for r in records] == [0, 1, 2]
    assert {r["sampler"] for r in records} == {"ancestral"}
    assert {r["finish_reason"] for r in records} <= {"length", "eos"}
    denoiser = AutoDenoiser.from_pretrained(tiny)
    seed = [records[2]["row_seed"]]
    output = generate(denoiser, "Once", sampler="ancestral", max_new_tokens=12, seed=seed)
    assert output.token_ids[0] == records[2]["token_ids"]
    assert output.texts == [records[2]["text"]]
    assert output.nfe.tolist() == [records[2]["nfe"]]


def test_results_do_not_depend_on_the_batch(command: Command, tiny: str, tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": "a" * n, "id": f"row {n}"}) for n in (1, 9, 3, 20, 5)]
    source = tmp_path / "prompts.jsonl"
    source.write_text("\n\n".join(lines), encoding="utf-8")
    options = ("generate", "-i", str(source), "--model", tiny, *SHORT, "--json", "-n", "2", "-q")
    one, many = command(*options, "--batch-size", "1"), command(*options, "--batch-size", "16")
    assert one.code == 0
    records, others = ([json.loads(line) for line in r.out.splitlines()] for r in (one, many))
    for record, other in zip(records, others, strict=True):
        assert record.pop("logprob") == pytest.approx(other.pop("logprob"), abs=1e-3)
    assert records == others
    assert [r["id"] for r in records[::2]] == ["row 1", "row 9", "row 3", "row 20", "row 5"]
    assert [r["index"] for r in records] == [i // 2 for i in range(10)]


def test_prompts_from_standard_input_and_text_files(
    command: Command, tiny: str, tmp_path: Path
) -> None:
    source = tmp_path / "prompts.txt"
    source.write_bytes(b"Once\nTwice\r\n")
    piped = command("generate", "--model", tiny, *SHORT, stdin=source.read_bytes())
    read = command("generate", "--model", tiny, *SHORT, "--input", str(source))
    both = command("generate", "Once", "Twice", "--model", tiny, *SHORT)
    assert piped.code == 0
    assert piped.out == read.out == both.out
    assert both.out.startswith("Once")
    assert "\n---\nTwice" in both.out


def test_mask_tokens_are_filled_in_place(command: Command, tiny: str) -> None:
    result = command("generate", "ab<|mask|><|mask|>ba", "--model", tiny, "--seed", "3")
    assert result.code == 0
    assert re.match(r"ab(.|\n)+ba\n$", result.out)


def test_output_file_appears_complete_or_not_at_all(
    command: Command, tiny: str, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"
    done = command("generate", "Once", "--model", tiny, *SHORT, "--json", "-o", str(target))
    assert done.code == 0
    assert done.out == ""
    before = target.read_text(encoding="utf-8")
    assert json.loads(before)["prompt"] == "Once"
    failed = command("generate", "a" * 200, "--model", tiny, *SHORT, "-o", str(target))
    assert failed.code == 1
    assert target.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [target]


def test_settings_reach_the_sampler(command: Command, tiny: str) -> None:
    options = ("generate", "Once", "--model", tiny, "--max-new-tokens", "12", "--json", "-q")
    plain = command(*options, "--sampler", "first-hitting")
    four = command(*options, "--sampler", "first-hitting", "--set", "tokens_per_step=4")
    assert json.loads(plain.out)["nfe"] == 12
    assert json.loads(four.out)["nfe"] == 3


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


# Failures: one line each


def test_unknown_sampler(command: Command, tiny: str) -> None:
    result = command("generate", "x", "--model", tiny, "--sampler", "remmdm")
    assert_one_line(result, 2, "Unknown sampler 'remmdm'", "Did you mean 'remdm-", "samplers")
    theirs = command("generate", "x", "--model", tiny, "--sampler", "low_confidence")
    assert_one_line(theirs, 2, "LLaDA's low_confidence is llada here.")


def test_unknown_option_and_verb(command: Command) -> None:
    theirs = command("generate", "x", "--gen-length", "3")
    assert_one_line(theirs, 2, "'--gen-length'", "LLaDA's gen_length is --max-new-tokens here.")
    typo = command("generate", "x", "--stepps", "3")
    assert_one_line(typo, 2, "Did you mean '--steps'?")
    assert_one_line(command("generat", "x"), 2, "generat")
    assert_one_line(command("generate", "x", "--steps", "many"), 2, "--steps", "integer")


def test_wrong_settings(command: Command, tiny: str) -> None:
    options = ("generate", "x", "--model", tiny, "--sampler", "remdm-cap")
    assert_one_line(command(*options, "--set", "etta=1"), 2, "Did you mean 'eta'?")
    assert_one_line(command(*options, "--set", "eta=much"), 2, "eta=much", "float")
    assert_one_line(command(*options, "--set", "eta"), 2, "name=value")
    assert_one_line(command(*options, "--set", "eta=-1"), 1, "eta=-1")


def test_prompt_longer_than_the_context(command: Command, tiny: str, tmp_path: Path) -> None:
    result = command("generate", "a" * (CONTEXT + 1), "--model", tiny, "--max-new-tokens", "1")
    assert_one_line(result, 1, "Prompt 0", f"context of {CONTEXT}")
    source = tmp_path / "prompts.txt"
    source.write_text("\n".join(["a"] * 3 + ["b" * 200]), encoding="utf-8")
    later = command("generate", "-i", str(source), "--model", tiny, *SHORT, "--batch-size", "1")
    assert later.code == 1
    assert "Prompt 3: 200 tokens" in later.err
    assert len(later.err.splitlines()) == 1


def test_missing_and_damaged_checkpoints(command: Command, tiny: str, tmp_path: Path) -> None:
    assert_one_line(command("generate", "x", "--model", str(tmp_path / "none")), 1, "none")
    shard = tmp_path / "shard"
    shutil.copytree(tiny, shard)
    (shard / "model.safetensors").rename(shard / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (shard / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    result = command("generate", "x", "--model", str(shard))
    assert_one_line(result, 1, "model-00002-of-00002.safetensors")
    cut = tmp_path / "cut"
    shutil.copytree(tiny, cut)
    os.truncate(cut / "model.safetensors", 5000)
    assert_one_line(command("generate", "x", "--model", str(cut)), 1, "safetensors")
    pickle = tmp_path / "pickle"
    shutil.copytree(tiny, pickle)
    (pickle / "model.safetensors").rename(pickle / "pytorch_model.bin")
    result = command("generate", "x", "--model", str(pickle))
    assert_one_line(result, 1, "pytorch_model.bin", "Pickle files are not loaded")


def test_unwritable_output(command: Command, tiny: str, tmp_path: Path) -> None:
    started = time.monotonic()
    result = command("generate", "x", "--model", tiny, "-o", str(tmp_path / "no" / "out.txt"))
    assert_one_line(result, 1, "out.txt", "No such file or directory")
    assert_one_line(command("generate", "x", "-o", str(tmp_path)), 1, str(tmp_path))
    assert time.monotonic() - started < 5, "found out before the model is loaded"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt"', ("line 2", "JSON")),
        ("p.jsonl", b'{"text": "a"}', ("line 1", "prompt")),
        ("p.txt", b"\xff\xfe", ("UTF-8",)),
        ("p.txt", b"\n \n", ("No prompt",)),
    ],
)
def test_wrong_input(
    command: Command, tmp_path: Path, name: str, content: bytes, words: tuple[str, ...]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert_one_line(command("generate", "-i", str(tmp_path / name)), 2, *words)


def test_missing_input(command: Command, tmp_path: Path) -> None:
    result = command("generate", "--input", str(tmp_path / "none.txt"))
    assert_one_line(result, 1, "none.txt", "No such file")
    assert_one_line(command("generate"), 2, "No prompt")
    assert_one_line(command("generate", "x", "-i", "y"), 2, "twice")


def test_values_out_of_range(command: Command, tiny: str) -> None:
    assert_one_line(command("generate", "x", "--model", tiny, "--steps", "0"), 1, "steps=0")
    assert_one_line(command("generate", "x", "--model", tiny, "--top-p", "2"), 1, "top_p=2.0")
    assert_one_line(
        command("generate", "x", "--model", tiny, "--eos", "kep"), 1, "Did you mean 'keep'?"
    )


def test_debug_adds_the_traceback(command: Command, tiny: str) -> None:
    result = command("generate", "x", "--model", tiny, "--steps", "0", "--debug")
    assert result.code == 1
    assert "Traceback" in result.err


def test_log_level_is_checked(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_LOG", "inof")
    assert_one_line(command("samplers"), 2, "DLM_LOG='inof'", "Did you mean 'info'?")


# Listing


def test_samplers_lists_all_with_paper_and_defaults(command: Command) -> None:
    from dlm_sampling import samplers

    text = command("samplers")
    records = json.loads(command("samplers", "--json").out)
    assert [r["name"] for r in records] == list(samplers.available())
    for record in records:
        assert record["name"] in text.out
        assert record["paper"] in text.out
        assert re.search(r"arXiv:\d{4}\.\d{5}", record["paper"])
        for parameter in record["parameters"]:
            assert f"{parameter}=" in text.out


def test_samplers_shows_one(command: Command) -> None:
    shown = command("samplers", "llada").out
    assert "arXiv:2502.09992" in shown
    assert "dlm-sampling generate 'Once upon a time' --sampler llada --set order=" in shown
    assert_one_line(command("samplers", "lladda"), 2, "Did you mean 'llada'?")


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


def test_bench_table_and_json(command: Command) -> None:
    options = ("--rows", "4", "--vocab", "3000", "--repeats", "1")
    table = command("bench", *options)
    assert table.code == 0, table
    for word in ("dlm_sampling", "LLaDA", "MDLM", "multinomial", "peak MB", "[4, 3000]"):
        assert word in table.out
    record = json.loads(command("bench", *options, "--dtype", "bfloat16", "--json").out)
    assert record["dtype"] == "bfloat16"
    assert len(record["methods"]) == 4
    assert_one_line(command("bench", "--rows", "0"), 1, "rows=0")


# What is shown


def test_printable_leaves_nothing_for_the_terminal() -> None:
    hostile = "a\x1b[31mred\x1b]0;title\x07\x9b2J\x00\x7f\r\nb\tc\u202edlrow\u2066"
    shown = printable(hostile)
    assert shown == "a[31mred]0;title2J\nb\tc\\u202edlrow\\u2066"
    assert one_line(" x\n y\x1b") == "x y"


def test_json_line_is_safe_and_lossless() -> None:
    hostile = {"text": "\x1b[2J\x9b\u202e\u2028é漢\ud800"}
    line = json_line(hostile)
    assert json.loads(line) == hostile
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e\u2028]", line)
    assert "é漢" in line


def test_control_codes_of_a_model_do_not_reach_the_terminal(command: Command, tiny: str) -> None:
    options = ("generate", "a\x1b", "--model", tiny, "--sampler", "ancestral", "-n", "4")
    text, records = command(*options), command(*options, "--json")
    written = "".join(json.loads(line)["text"] for line in records.out.splitlines())
    assert {"\x1b", "\u202e"} <= set(written), (
        "the model must try both for this test to mean anything"
    )
    for shown in (text.out, records.out):
        assert not set("\x1b\u202e") & set(shown)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        ("none", int | None, None),
        ("2.5", int | float, 2.5),
        ("true", bool, True),
        ("1,2", tuple[int, ...], (1, 2)),
        ("word", str, "word"),
    ],
)
def test_parse_value(text: str, hint: object, value: object) -> None:
    assert parse_value(text, hint, "name") == value


def test_model_names_are_folders_or_hub_names(tmp_path: Path) -> None:
    assert check_model(str(tmp_path)) == str(tmp_path)
    assert check_model("org/model") == "org/model"
    assert check_model("sudoku4x4") == "sudoku4x4"
    with pytest.raises(UsageError, match="Did you mean 'sudoku4x4'"):
        check_model("sudoku_4x4")


# As a process


def start(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= options.pop("env", {})  # type: ignore[arg-type]
    return subprocess.Popen(
        [sys.executable, "-m", "dlm_sampling", *arguments],
        env=environment,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        | options,  # type: ignore[call-overload]
    )


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


@pytest.fixture(scope="module")
def many_prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "many.txt"
    path.write_text("a\n" * 5000, encoding="utf-8")
    return str(path)


def test_interrupt(tiny: str, many_prompts: str) -> None:
    process = start("generate", "-i", many_prompts, "--model", tiny, *SHORT, "--batch-size", "1")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"Interrupted.\n"


def test_closed_pipe(tiny: str, many_prompts: str) -> None:
    program = (
        f"{sys.executable} -m dlm_sampling generate -i {many_prompts} --model {tiny} --json"
        f" {' '.join(SHORT)} --batch-size 1 | head -n 1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    line, code = done.stdout.splitlines()
    assert json.loads(line)["index"] == 0
    assert code == "1"
    assert done.stderr.startswith("Error: the reader of the output closed it")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        process = start("samplers", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1
    assert b"No space left" in err


def test_closed_streams(tiny: str) -> None:
    program = f"{sys.executable} -m dlm_sampling samplers nothing"
    closed = {
        ">&-": (1, b"Error: Standard output is closed"),
        "2>&-": (2, b""),
        "<&-": (2, b"Error"),
    }
    for redirection, (code, words) in closed.items():
        done = subprocess.run(
            ["bash", "-c", f"{program} {redirection}"],
            cwd=ROOT,
            capture_output=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == code, done
        assert done.stderr.startswith(words)
        assert done.stdout == b""


def run_on_terminal(*arguments: str, env: dict[str, str]) -> tuple[int, str, str]:
    """Run with standard error on a pseudo-terminal; return code, standard output, screen."""
    master, slave = pty.openpty()
    process = start(*arguments, stderr=slave, env=env)
    os.close(slave)
    seen = read_terminal(master)
    assert process.stdout is not None
    out = process.stdout.read().decode()
    process.wait(timeout=30)
    os.close(master)
    return process.returncode, out, seen


def read_terminal(master: int) -> str:
    """Everything that the program writes to the terminal until it closes it."""
    seen = b""
    while True:
        ready, _, _ = select.select([master], [], [], 90)
        try:
            data = os.read(master, 65536) if ready else b""
        except OSError:  # the other side is closed
            break
        if not data:
            break
        seen += data
    return seen.decode(errors="replace")


LIVE = ("--sampler", "llada", "--max-new-tokens", "60", "--live")
COLOUR = re.compile(r"\x1b\[(?:[\d;]*;)?3[0-7]")


def test_live_on_a_terminal(tiny: str) -> None:
    env = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    code, out, screen = run_on_terminal("generate", "Once", "--model", tiny, *LIVE, env=env)
    assert code == 0
    assert out.startswith("Once")
    assert "\x1b" not in out
    assert "·" in screen
    assert "Once" in screen
    assert "60/60 tokens" in screen
    assert COLOUR.search(screen)


def test_live_leaves_the_results_on_a_shared_terminal(tiny: str) -> None:
    """Nothing is erased after a result was written: each stands after the canvas before it."""
    env = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    arguments = ("generate", "Once", "--model", tiny, "-n", "2", "--batch-size", "1", *LIVE)
    master, slave = pty.openpty()
    process = start(*arguments, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    seen = read_terminal(master)
    assert process.wait(timeout=30) == 0
    os.close(master)
    first, second = seen.split("\n---", 1)
    for part in (first, second):
        result = part.rpartition("\x1b[2K")[2]
        assert "Once" in result
        assert "tokens · NFE" not in result


def test_live_without_colour(tiny: str) -> None:
    env = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24", "NO_COLOR": "1"}
    code, _, screen = run_on_terminal("generate", "Once", "--model", tiny, *LIVE, env=env)
    assert code == 0
    assert "60/60 tokens" in screen
    assert not COLOUR.search(screen)


def test_live_without_a_terminal(command: Command, tiny: str) -> None:
    plain = command("generate", "Once", "--model", tiny, *LIVE[:-1])
    live = command("generate", "Once", "--model", tiny, *LIVE)
    assert live.code == 0
    assert live.out == plain.out
    assert "\x1b" not in live.err
