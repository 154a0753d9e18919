"""`--output FOLDER/`: a job by the command, its exit codes, and what ends it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from dlm_sampling.cli.job import error_limit, one_interrupt_asks
from dlm_sampling.errors import UsageError
from tests.cli.process import SHORT, Command, assert_one_line
from tests.forks import Forks


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": "a" * (n % 5), "id": n}) for n in range(9)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def words(prompts: str, tiny: str, *more: str) -> list[str]:
    own = ["--model", tiny, "--format", "jsonl", "--shard-rows", "4", *more]
    return ["generate", "-i", prompts, *SHORT, *own]


def data(folder: Path) -> list[dict[str, object]]:
    paths = sorted((folder / "data").iterdir())
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_a_job_and_its_exit_codes(
    command: Command, prompts: str, tiny: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    done = command(*words(prompts, tiny, "-o", f"{folder}/"))
    assert done.code == 0, done
    assert f"9 rows in {folder}" in done.err
    rows = data(folder)
    assert [row["index"] for row in rows] == list(range(9))
    lines = command(*words(prompts, tiny, "--json", "-q")).out.splitlines()
    assert [json.loads(line)["token_ids"] for line in lines] == [row["token_ids"] for row in rows]
    again = command(*words(prompts, tiny, "-o", str(folder)))
    assert again.code == 0, "a folder that exists needs no slash"
    assert "nothing was left to do, 9 rows" in again.err
    assert "nothing" not in done.err
    other = command(*words(prompts, tiny, "-o", f"{folder}/", "--seed", "1"))
    assert_one_line(other, 4, "seed=0, now 1", "choose another folder")
    for more, said in (
        (("--stop", "x"), "stop=[], now ['x']"),
        (("--no-add-special-tokens",), "--add-special-tokens=None, now False"),
    ):
        other = command(*words(prompts, tiny, "-o", f"{folder}/", *more))
        assert_one_line(other, 4, said, "choose another folder")
        assert "goes on" not in other.err, "the same command would be refused again"
    live = command(*words(prompts, tiny, "-o", f"{folder}/", "--live"))
    assert_one_line(live, 2, "--live")
    formats = command(*words(prompts, tiny, "-o", f"{folder}/", "--format", "parqet"))
    assert_one_line(formats, 2, "Did you mean 'parquet'?")


def test_rows_that_cannot_run(command: Command, prompts: str, tiny: str, tmp_path: Path) -> None:
    with open(prompts, "a", encoding="utf-8") as file:
        file.write('\n{"prompt": "b\\ud83d", "id": "half"}\n{"prompt": null, "id": "none"}')
    folder = tmp_path / "out"
    stopped = command(*words(prompts, tiny, "-o", f"{folder}/"))
    assert_one_line(stopped, 3, "2 of 11 rows failed, and max_errors allows 1", "line 10")
    assert stopped.err.endswith(f" 0 of 11 rows are in {folder}.\n")
    assert not list((folder / "data").iterdir())
    done = command(*words(prompts, tiny, "-o", f"{folder}/", "--max-errors", "20%"))
    assert_one_line(done, 3, f"2 of 11 rows in {folder} have an error, the others are done")
    errors = {row["id"]: row["error"] for row in data(folder) if row["error"] is not None}
    assert set(errors) == {"half", "none"}
    assert (folder / "_SUCCESS").exists()


def test_a_damaged_manifest_is_named(
    command: Command, prompts: str, tiny: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    assert command(*words(prompts, tiny, "-o", f"{folder}/")).code == 0
    manifest = folder / "manifest.json"
    for text in (manifest.read_text()[:40], "", "[]"):
        manifest.write_text(text)
        torn = command(*words(prompts, tiny, "-o", f"{folder}/"))
        assert_one_line(torn, 2, f"{manifest} is damaged", "restore this file")
        assert manifest.read_text() == text


def test_processes_by_the_environment(
    command: Command, prompts: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLM_SHARD", "2/2")
    folder = f"{tmp_path / 'out'}/"
    assert_one_line(command(*words(prompts, tiny, "-o", folder)), 2, "DLM_SHARD=2/2", "such as 0/4")
    monkeypatch.setenv("DLM_SHARD", "1/2")
    assert command(*words(prompts, tiny, "-o", folder)).code == 0


@pytest.mark.parametrize(
    "launcher",
    [
        {"DLM_SHARD": "0/2"},
        {"RANK": "0", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
        {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_COUNT": "4"},
    ],
    ids=lambda launcher: next(iter(launcher)),
)
def test_a_plain_output_has_one_process(
    command: Command,
    prompts: str,
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launcher: dict[str, str],
) -> None:
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    target = tmp_path / "out.jsonl"
    for output in (["-o", str(target)], ["-o", str(target), "--resume"], []):
        refused = command(*words(prompts, tiny, *output))
        assert_one_line(refused, 2, "this is process", "a folder", "DLM_SHARD=0/1")
    assert not target.exists()
    monkeypatch.setenv("DLM_SHARD", "0/1")
    assert command(*words(prompts, tiny, "-o", str(target))).code == 0
    assert len(target.read_bytes().splitlines()) == 9


def test_the_first_interrupt_asks_and_the_second_one_ends() -> None:
    with one_interrupt_asks() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_sigterm_keeps_the_batches(forks: Forks, tiny: str, tmp_path: Path) -> None:
    source, folder = tmp_path / "many.txt", tmp_path / "out"
    source.write_text("a\n" * 3000, encoding="utf-8")
    process = forks.command(*words(str(source), tiny, "--batch-size", "1", "-o", f"{folder}/"))
    process.until(lambda: bool(list(folder.glob("data/*"))))
    process.send_signal(signal.SIGTERM)
    code, _, err = process.ended()
    assert code == 130
    assert err.startswith(b"Interrupted. "), err
    assert err.endswith(f"of 3000 rows are in {folder}; the same command goes on.\n".encode())
    assert len(err.splitlines()) == 1


def test_error_limit() -> None:
    assert error_limit("3", [0] * 10, 1) == 3
    assert error_limit("1%", [0] * 500, 2) == 10
    assert error_limit("1%", [0] * 5, 1) == 1
    assert error_limit("0%", [0] * 5, 1) == error_limit("0", [0] * 5, 1) == 0
    for text in ("x", "-1", "101%"):
        with pytest.raises(UsageError, match=f"--max-errors {text}"):
            error_limit(text, [0], 1)
