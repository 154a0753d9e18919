"""Files of a job appear whole or not at all: full disk, read-only folder, a cut log."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_sampling import AutoDenoiser, Denoiser
from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import Job, Rank, run_job
from dlm_sampling.jobs.files import SUCCESS, append_line, count_errors, publish, read_lines
from tests.forks import Forks
from tests.jobs.conftest import contents, load_and_run

NOBODY = 65534


def with_files_up_to(size: int, job: Job) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    with pytest.raises(OSError, match=r"File too large.*part-0000"):
        load_and_run(job, Rank(0, 1))


def test_full_disk_loses_nothing(job: Job, denoiser: Denoiser, clean: Path, forks: Forks) -> None:
    """A limit of the size of files stands for the full disk: batches fit, a shard does not."""
    largest = max(map(len, (v for k, v in contents(clean).items() if k.startswith("data"))))
    code, _, err = forks.call(with_files_up_to, largest - 1, job).ended()
    assert code == 0, err.decode()
    assert job.rows_done() > 0
    assert not list((job.folder / "partial").glob("*.tmp"))
    run_job(job, denoiser)
    assert contents(job.folder) == contents(clean)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(job: Job) -> None:
    denoiser = AutoDenoiser.from_pretrained(job.model)
    assert denoiser.tokenizer is not None  # read now: nobody may not reach its files
    if os.geteuid() == 0:  # whom no folder refuses
        os.setuid(NOBODY)
    with pytest.raises(PermissionError, match=r"Permission denied.*partial/00000-00003"):
        run_job(job, denoiser)


def test_read_only_folder_is_named(
    job: Job, denoiser: Denoiser, clean: Path, forks: Forks, open_folder: Path
) -> None:
    job = replace(job, output=open_folder / "out")
    with pytest.raises(KeyboardInterrupt):
        run_job(job, denoiser, stop=lambda: job.rows_done() == 3)
    before = contents(job.folder)
    for path in (job.folder, *job.folder.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    code, _, err = forks.call(as_nobody, job).ended()
    assert code == 0, err.decode()
    assert contents(job.folder) == before
    for path in (job.folder, *job.folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    run_job(job, denoiser)
    assert contents(job.folder) == contents(clean)


def test_a_file_that_cannot_be_finished_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "partial").mkdir()
    publish(tmp_path, "a", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*/a"):
        publish(tmp_path, "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert not list((tmp_path / "partial").iterdir())


def test_a_folder_that_somebody_has_removed_is_told(tmp_path: Path) -> None:
    """Only a job that another process has finished needs no file any more."""
    with pytest.raises(FileNotFoundError, match="No such file"):
        publish(tmp_path, "a", b"new")
    (tmp_path / SUCCESS).touch()
    publish(tmp_path, "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == [SUCCESS]


def test_lines_that_were_cut_off_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_lines(path) == []
    append_line(path, {"a": 1})
    with path.open("ab") as file:
        file.write(b'{"a"')
    assert read_lines(path) == [{"a": 1}]
    append_line(path, {"a": 2})
    assert read_lines(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("line", ["{", "3", ""])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log"
    path.write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(UsageError, match=f"{path}, line 2 is damaged .*restore"):
        read_lines(path)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=f"{path} is damaged"):
        count_errors(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_by_the_log_too() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        append_line(Path("/dev/full"), {"a": 1})
    assert caught.value.filename == "/dev/full"


def with_a_log_up_to(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5,) * 2)
    with pytest.raises(OSError, match=f"(No space|too large).*{path.name}"):
        append_line(path, {"event": "row failed", "row": 3})


def test_a_full_disk_leaves_no_half_line_in_the_log(tmp_path: Path, forks: Forks) -> None:
    """The next line would join it, and the job be refused as damaged for good."""
    path = tmp_path / "events.jsonl"
    append_line(path, {"a": 1})
    code, _, err = forks.call(with_a_log_up_to, path).ended()
    assert code == 0, err.decode()
    append_line(path, {"a": 2})
    assert read_lines(path) == [{"a": 1}, {"a": 2}]
