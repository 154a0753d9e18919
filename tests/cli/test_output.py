"""`--output FILE`: rows stay once they are written, and `--resume` goes on after any end."""

from __future__ import annotations

import json
import resource
import signal
import time
from pathlib import Path

import pytest

from dlm_sampling.cli import app as cli
from dlm_sampling.cli.output import lock
from dlm_sampling.errors import UsageError
from tests.cli.process import SHORT, Command, assert_one_line
from tests.forks import Forks


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [json.dumps({"prompt": "a" * (n % 5), "id": n}) for n in range(9)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def words(prompts: str, tiny: str, target: Path, *more: str) -> list[str]:
    own = ["--model", tiny, "-o", str(target), "--batch-size", "2", "-n", "2", *more]
    return ["generate", "-i", prompts, *SHORT, *own]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the rows of one whole run lie, once a test has asked for them."""
    return tmp_path_factory.mktemp("whole") / "clean.jsonl"


@pytest.fixture
def clean(command: Command, prompts: str, tiny: str, whole: Path) -> bytes:
    if not whole.exists():
        assert command(*words(prompts, tiny, whole, "-q")).code == 0
    return whole.read_bytes()


def test_json_lines_by_the_name_of_the_file(clean: bytes) -> None:
    records = [json.loads(line) for line in clean.splitlines()]
    assert [(r["index"], r["sample"], r["id"]) for r in records] == [
        (i // 2, i % 2, i // 2) for i in range(18)
    ]
    assert all(record["work"] > 0 for record in records)
    assert len({record["row_seed"] for record in records}) == 18


@pytest.mark.parametrize(
    ("kept", "torn"),
    [(0, 0), (0, 9), (1, -1), (7, 0), (7, 9), (7, 60), (7, -2), (7, -1), (18, 0), (18, -1)],
)
def test_resume_after_any_row(
    command: Command, prompts: str, tiny: str, tmp_path: Path, clean: bytes, kept: int, torn: int
) -> None:
    """The next row is torn: within its prompt, behind it, before its last brace, before its end."""
    lines = clean.splitlines(keepends=True)
    target = tmp_path / "out.jsonl"
    rest = lines[kept][:torn] if kept < len(lines) else b""
    if kept == len(lines):
        lines[-1] = lines[-1][:torn] if torn else lines[-1]
    target.write_bytes(b"".join(lines[:kept]) + rest)
    resumed = command(*words(prompts, tiny, target, "--resume"))
    assert resumed.code == 0, resumed
    wanted, found = clean.splitlines(), target.read_bytes().splitlines()
    assert found[:kept] == wanted[:kept]
    for mine, theirs in zip(found, wanted, strict=True):
        own, other = json.loads(mine), json.loads(theirs)
        # Batches begin at another row, which may change the last bits of a float32 sum.
        assert own.pop("logprob") == pytest.approx(other.pop("logprob"), abs=1e-3)
        assert own == other


def test_killed_and_resumed(
    command: Command, forks: Forks, prompts: str, tiny: str, tmp_path: Path, clean: bytes
) -> None:
    target = tmp_path / "out.jsonl"
    for _ in range(3):
        before = target.stat().st_size if target.exists() else 0
        run = forks.command(*words(prompts, tiny, target, "--resume", "-q"))
        run.until(lambda size=before: target.exists() and target.stat().st_size > size)
        run.kill()
        assert target.stat().st_size > before
    assert command(*words(prompts, tiny, target, "--resume")).code == 0
    texts = [[json.loads(line)["token_ids"] for line in data.splitlines()]
             for data in (clean, target.read_bytes())]  # fmt: skip
    assert texts[0] == texts[1]


def test_what_is_there_is_never_replaced(
    command: Command, prompts: str, tiny: str, tmp_path: Path, clean: bytes
) -> None:
    target = tmp_path / "out.jsonl"
    target.write_bytes(clean)
    assert_one_line(command(*words(prompts, tiny, target)), 2, "--resume goes on", "which stay")
    other = command(*words(prompts, tiny, target, "--resume", "--seed", "1"))
    assert_one_line(other, 4, "line 1 has row_seed=")
    warmer = command(*words(prompts, tiny, target, "--resume", "--temperature", "0.5"))
    assert_one_line(warmer, 4, "line 1 was made with other options", "temperature")
    assert target.read_bytes() == clean
    target.write_text("Once upon\n", encoding="utf-8")
    assert_one_line(command(*words(prompts, tiny, target, "--resume")), 2, "not hold JSON lines")
    text = command("generate", "x", "-o", str(tmp_path / "out.txt"), "--resume")
    assert_one_line(text, 2, "--resume goes on with JSON lines")


THEIRS = {
    "their last line without an end": b'{"prompt":"one"}\n{"prompt":"two, precious"}',
    "a last line of theirs alone": b'{"prompt":"two, precious"}',
    "a torn line of theirs": b'{"prompt":"two, prec',
    "the row of another prompt": b'{"id": 0, "index": 0, "sample": 0, "prompt": "b',
    "an array": b'[{"prompt":"one"},{"prompt":"two"}]',
    "a number": b"17",
    "text": b"garbage without newline",
    "text below": b'{"id": 0}\ngarbage without newline',
    "bytes": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("data", THEIRS.values(), ids=list(THEIRS))
def test_what_others_have_written_stays(
    command: Command, prompts: str, tiny: str, tmp_path: Path, data: bytes
) -> None:
    target = tmp_path / "mine.json"
    target.write_bytes(data)
    refused = command(*words(prompts, tiny, target, "--json", "--resume"))
    assert refused.code in (2, 4)
    assert_one_line(refused, refused.code, str(target))
    assert target.read_bytes() == data


def test_fewer_prompts_than_rows_are_refused(
    command: Command, tiny: str, tmp_path: Path, clean: bytes
) -> None:
    source, target = tmp_path / "few.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "", "id": 0}\n{"prompt": "a", "id": 1}', encoding="utf-8")
    lines = clean.splitlines(keepends=True)
    for data in (clean, b"".join(lines[:5]), b"".join(lines[:4]) + lines[4][:9]):
        target.write_bytes(data)
        rows = len(data.splitlines())
        refused = command(*words(str(source), tiny, target, "--resume"))
        assert_one_line(refused, 4, f"{target} has {rows} rows, now 4")
        assert target.read_bytes() == data


def test_a_file_has_one_writer(
    command: Command, forks: Forks, tiny: str, tmp_path: Path, prompts: str, clean: bytes
) -> None:
    source, target = tmp_path / "many.txt", tmp_path / "out.jsonl"
    source.write_text("a\n" * 5000, encoding="utf-8")
    first = forks.command("generate", "-i", str(source), "--model", tiny, *SHORT,
                          "--batch-size", "1", "-o", str(target))  # fmt: skip
    first.until(lambda: target.exists() and target.stat().st_size > 0)
    for more in ([], ["--resume"]):
        second = command(*words(prompts, tiny, target, *more))
        assert_one_line(second, 2, f"{target}: another process writes it", "folder")
    first.send_signal(signal.SIGTERM)
    code, _, err = first.ended()
    rows = [json.loads(line)["index"] for line in target.read_bytes().splitlines()]
    assert (code, rows) == (130, list(range(len(rows)))), err


def test_a_file_that_was_removed_meanwhile_is_not_written(tmp_path: Path) -> None:
    """As by another run, which removes its file if it has written nothing."""
    with (tmp_path / "out.txt").open("a") as file:
        lock(file, tmp_path / "out.txt")
        (tmp_path / "out.txt").unlink()
        with pytest.raises(UsageError, match="another process"):
            lock(file, tmp_path / "out.txt")
        (tmp_path / "out.txt").touch()
        with pytest.raises(UsageError, match="another process"):
            lock(file, tmp_path / "out.txt")


def test_a_failure_leaves_what_is_done_and_says_so(
    command: Command, prompts: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlm_sampling.text import generate

    target, run, calls = tmp_path / "out.jsonl", generate.run_parts, iter(range(99))

    def fail(*arguments: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return run(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(generate, "run_parts", fail)
    stopped = command(*words(prompts, tiny, target))
    assert stopped.code == 130
    assert stopped.err == f"Interrupted. 4 of 18 rows are in {target}; --resume goes on.\n"
    assert len(target.read_bytes().splitlines()) == 4


def test_all_prompts_are_checked_before_the_first_pass(
    command: Command, tiny: str, tmp_path: Path
) -> None:
    source, target = tmp_path / "p.txt", tmp_path / "out.jsonl"
    source.write_text("a\n" * 3 + "b" * 200, encoding="utf-8")
    result = command(*words(str(source), tiny, target))
    assert_one_line(result, 2, f"Prompt 3 ({source}, line 4): 200 tokens")
    assert not target.exists()
    source = tmp_path / "p.jsonl"
    for line, said in (
        ('"b\\ud83d"', f"{source}, line 2: half a surrogate pair"),
        ('{"prompt": 7, "id": "x"}', f"{source}, line 2, id 'x': 'prompt' is of type int"),
        (json.dumps({"prompt": "c" * 200, "id": "y"}), f"Prompt 1 ({source}, line 2, id 'y'): 200"),
    ):
        source.write_text(f'"a"\n{line}', encoding="utf-8")
        assert_one_line(command(*words(str(source), tiny, target)), 2, said)


def test_unwritable_output(command: Command, tiny: str, tmp_path: Path) -> None:
    started = time.process_time()
    result = command("generate", "x", "--model", tiny, "-o", str(tmp_path / "no" / "out.txt"))
    assert_one_line(result, 2, "--output", "out.txt: there is no folder", str(tmp_path / "no"))
    (tmp_path / "mine.txt").write_text("x", encoding="utf-8")
    mine = command("generate", "x", "-o", str(tmp_path))
    assert_one_line(mine, 2, str(tmp_path), "holds mine.txt and no job")
    assert time.process_time() - started < 5, "found out before the model is loaded"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_device(command: Command, tiny: str) -> None:
    result = command("generate", "x", "--model", tiny, *SHORT, "-o", "/dev/full")
    assert_one_line(result, 1, "Error: /dev/full: No space left on device.\n")


def with_files_up_to(size: int, *arguments: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    cli.main(list(arguments))


def test_full_disk_keeps_whole_rows(
    command: Command, forks: Forks, prompts: str, tiny: str, tmp_path: Path, clean: bytes
) -> None:
    """A limit of the size of files stands for the full disk."""
    target = tmp_path / "out.jsonl"

    limit = len(clean) // 2
    process = forks.call(with_files_up_to, limit, *words(prompts, tiny, target))
    code, _, err = process.ended()
    assert code == 1
    data = target.read_bytes()
    assert len(data) == limit
    rows = data.count(b"\n")
    assert err.decode() == (
        f"Error: {target}: File too large. {rows} of 18 rows are in {target}; --resume goes on.\n"
    )
    assert command(*words(prompts, tiny, target, "--resume")).code == 0
    texts = [[json.loads(line)["token_ids"] for line in data.splitlines()]
             for data in (clean, target.read_bytes())]  # fmt: skip
    assert texts[0] == texts[1]


def test_sigterm_is_an_interrupt(forks: Forks, tiny: str, tmp_path: Path) -> None:
    source, target = tmp_path / "many.txt", tmp_path / "out.jsonl"
    source.write_text("a\n" * 5000, encoding="utf-8")
    process = forks.command("generate", "-i", str(source), "--model", tiny, *SHORT,
                            "--batch-size", "1", "-o", str(target))  # fmt: skip
    process.until(lambda: target.exists() and target.stat().st_size > 0)
    process.send_signal(signal.SIGTERM)
    code, _, err = process.ended()
    rows = len(target.read_bytes().splitlines())
    assert code == 130
    assert err.decode() == f"Interrupted. {rows} of 5000 rows are in {target}; --resume goes on.\n"
