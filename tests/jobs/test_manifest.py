"""The manifest: another job in the same folder is refused by the name of the option."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from dlm_sampling import Denoiser
from dlm_sampling.cli.app import app
from dlm_sampling.cli.job import as_option
from dlm_sampling.engine.request import BlockRequest
from dlm_sampling.errors import JobMismatchError, UsageError
from dlm_sampling.jobs import Job, PromptItem, ShardRunner, run_job
from dlm_sampling.jobs.manifest import (
    MADE_WITH,
    NAME,
    DifferentJobError,
    compare,
    make_folder,
    manifest_of,
)
from dlm_sampling.text.prompt_rows import prepare_items
from dlm_sampling.types import TokenLaw
from tests.jobs.conftest import PROMPTS, contents


def test_another_seed_or_prompt_is_refused(job: Job, denoiser: Denoiser, clean: Path) -> None:
    run_job(job, denoiser)
    before = contents(job.folder)
    reseeded = replace(job, options=replace(job.options, seed=4))
    for changed, words in (
        (
            reseeded,
            "holds a job with seed=3, now 4. Give",
        ),
        (replace(job, prompts=PROMPTS[:-1]), "prompts=16, now 15; other prompts. Give"),
        (replace(job, shard_rows=2), "shard_rows=5, now 2. Give"),
    ):
        with pytest.raises(JobMismatchError, match=words):
            run_job(changed, denoiser)
    assert contents(job.folder) == before


def test_another_machine_is_logged_and_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    old = {"seed": 1, MADE_WITH: {"torch": "2.0", "device": "cpu"}}
    new = {"seed": 1, MADE_WITH: {"torch": "2.0", "device": "H200"}}
    with caplog.at_level(logging.WARNING):
        compare(old, new, Path("out"))
        assert "H200" in caplog.text
    with pytest.raises(JobMismatchError, match="seed=1, now 2; steps=4, now None"):
        compare(old | {"steps": 4}, old | {"steps": None, "seed": 2}, Path("out"))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt and no job"):
        make_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("old", "new"), [({"a": 1}, {}), ({}, {"a": 1}), ({"a": 1}, {"a": 2})])
def test_options_that_come_or_go_are_told(old: dict[str, int], new: dict[str, int]) -> None:
    with pytest.raises(JobMismatchError, match=f"a={old.get('a')}, now {new.get('a')}"):
        compare(old, new, Path("out"))


def test_of_options_with_parts_the_part_is_told_as_its_user_spells_it() -> None:
    laws = [repr(TokenLaw(temperature=t, suppressed=(1, 2))) for t in (0.5, 1.0)]
    blocks = [asdict(BlockRequest(4, steps)) for steps in (None, 9)]
    old = {"blocks": blocks[0], "law": laws[0], "weights": "a"}
    new = {"blocks": blocks[1], "law": laws[1], "weights": "b"}
    said = "with steps=None, now 9; temperature=0.5, now 1.0; other weights of the model. Give"
    with pytest.raises(DifferentJobError, match=re.escape(said)) as found:
        compare(old, new, Path("out"))
    assert "with --steps=None, now 9; --temperature=0.5," in str(found.value.spelled(as_option))
    with pytest.raises(JobMismatchError, match=r"with max_new_tokens=8, now 9\. Give"):
        compare({"max_new_tokens": 8, "input": "a"}, {"max_new_tokens": 9, "input": "b"}, Path("o"))
    with pytest.raises(JobMismatchError, match=r"law=TokenLaw\(f=<x>\), now TokenLaw\(f=<y>\)\. G"):
        compare({"law": "TokenLaw(f=<x>)"}, {"law": "TokenLaw(f=<y>)"}, Path("out"))


def test_every_option_in_it_is_one_of_the_command(job: Job, denoiser: Denoiser) -> None:
    command: Any = get_command(app)
    known = {option for p in command.commands["generate"].params for option in p.opts}
    names = manifest(job, denoiser).keys() - {"blocks", "law", MADE_WITH}
    pairs = [(name, "a", "b") for name in sorted(names)]
    pairs += [(f"blocks.{field}", "a", "b") for field in asdict(BlockRequest())]
    pairs += [(f"law.{field.name}", "a", "b") for field in fields(TokenLaw)]
    said = str(DifferentJobError(Path("out"), pairs).spelled(as_option))
    named = set(re.findall(r"(--[\w-]+)=a", said))
    assert {"--steps", "--block-length", "--temperature", "--num-return-sequences"} <= named
    assert named <= known, named - known
    assert "blocks." not in said and "law." not in said


def manifest(job: Job, denoiser: Denoiser) -> dict[str, object]:
    return manifest_of(job, prepare_items(denoiser, job.items, job.options))


def test_every_option_that_decides_bytes_is_in_it(job: Job, denoiser: Denoiser) -> None:
    old, options = manifest(job, denoiser), job.options
    first = PromptItem("a", name="r0")
    rest = list(job.prompts[1:])
    changes: dict[str, list[Job]] = {
        "revision": [replace(job, revision="abc")],
        "model": [replace(job, model="tiny-books")],
        "seed": [replace(job, options=replace(options, seed=4))],
        "samples": [replace(job, options=replace(options, num_return_sequences=2))],
        "shard_rows": [replace(job, shard_rows=6)],
        MADE_WITH: [replace(job, batch_rows=2)],
        "file_format": [replace(job, file_format="parquet")],
        "input": [
            replace(job, prompts=[replace(first, seed=5), *rest]),
            replace(job, prompts=[replace(first, name="other"), *rest]),
            replace(job, prompts=[replace(first, max_new_tokens=3), *rest]),
            replace(job, prompts=[replace(first, prompt="b"), *rest]),
        ],
    }
    for key, others in changes.items():
        for other in others:
            new = manifest(other, denoiser)
            changed = {k for k in {*old, *new} if old.get(k) != new.get(k)}
            assert changed - {"input"} == {key} - {"input"}
            assert "input" in changed or key != "input"


@pytest.mark.parametrize("links", [True, False])
def test_the_first_manifest_stays(
    job: Job, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Also on a file system without links."""
    link = os.link

    def late(source: Path, target: Path) -> None:
        if not links:
            raise OSError(95, "Operation not supported")
        target.write_text(json.dumps({"seed": 8}))  # by a process that was faster
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    if links:
        with pytest.raises(JobMismatchError, match="seed=8, now 3"):
            ShardRunner.open(job, denoiser)
    else:
        ShardRunner.open(job, denoiser)
        assert json.loads((job.folder / NAME).read_text())["seed"] == 3
    assert list((job.folder / "partial").iterdir()) == []
