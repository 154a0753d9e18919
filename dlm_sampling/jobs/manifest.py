"""Fix all that decides the bytes of a job in `manifest.json`, and compare it at every start."""

from __future__ import annotations

import ast
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch

from dlm_sampling.errors import JobMismatchError, UsageError
from dlm_sampling.jobs.files import PARTIAL, publish, read_object
from dlm_sampling.jobs.job import Job
from dlm_sampling.text.fingerprint import digest, encoding_of, settings
from dlm_sampling.text.lengths import AutoLength
from dlm_sampling.text.prompt_rows import Prepared
from dlm_sampling.types import TokenLaw
from dlm_sampling.viewers.safe_text import json_line

NAME = "manifest.json"
MADE_WITH = "made_with"

Pair = tuple[str, Any, Any]

_ARGUMENTS = {
    "samples": "num_return_sequences",
    "blocks.length": "block_length",
    "blocks.steps": "steps",
    "blocks.steps_per_block": "steps_per_block",
    "blocks.align": "align_blocks",
    "blocks.causal": "causal_blocks",
    **{f"law.{part.name}": part.name for part in fields(TokenLaw)},
    "law.suppressed": "suppress_tokens",
    "drafts": "start",
}
"""Names of options in the manifest -> in `generate`, where the two differ."""
_IN_INPUT = {"max_new_tokens", "samples", "add_special_tokens", "chat_template_kwargs"}
"""Entries that change the digest of the prompts as well, with or without another prompt."""
_WORDS = {
    "input": "other prompts",
    "weights": "other weights of the model",
    "config": "another config.json of the model",
    "random_stream": "random numbers of another version of this library",
}
"""Entries that are digests, whose values say nothing."""


def manifest_of(job: Job, prepared: Prepared) -> dict[str, Any]:
    """Return the manifest of a job as it is now."""
    whole, asked = prepared.generation, job.options.max_new_tokens
    ids = [[row.ids, row.fill] for row in whole.prompts]
    refused = [[i, str(error)] for i, error in prepared.errors.items()]
    items = [[item.name, item.prompt, item.seed] for item in job.items]
    device = whole.denoiser.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "format": 2,
        "model": job.model,
        "revision": job.revision,
        "seed": job.options.seed,
        "samples": job.samples,
        "max_new_tokens": repr(asked) if isinstance(asked, AutoLength) else asked,
        **settings(whole),
        **encoding_of(job.options),
        "prompts": len(job.prompts),
        "input": digest([items, refused, ids, whole.new_tokens]),
        "shard_rows": job.shard_rows,
        "file_format": job.file_format,
        MADE_WITH: {"torch": torch.__version__, "device": name, "batch_rows": job.batch_rows},
    }


def make_folder(folder: Path) -> None:
    """Make the folder of a job and the folders in it, before any work.

    Raises:
        UsageError: the folder holds something else.
        OSError: the folder cannot be written.
    """
    path = folder / NAME
    ours = {PARTIAL, "data", "logs"}
    others = [p.name for p in folder.iterdir() if p.name not in ours] if folder.is_dir() else []
    if others and not path.exists():
        raise UsageError(f"{folder}: holds {others[0]} and no job; choose a new or empty folder.")
    for name in sorted(ours):
        (folder / name).mkdir(parents=True, exist_ok=True)


def open_folder(job: Job, prepared: Prepared) -> bool:
    """Write the manifest of a job, or compare it with the manifest in the folder.

    Returns:
        Whether it was written now.

    Raises:
        UsageError: the folder holds something else.
        JobMismatchError: it holds a job with other options; the message has the differences.
        OSError: the folder cannot be written.
    """
    folder, path = job.folder, job.folder / NAME
    make_folder(folder)
    mine = manifest_of(job, prepared)
    text = json.dumps(mine, indent=1)
    draft = f"{PARTIAL}/{NAME}.{os.getpid()}"
    new = not path.exists()
    if new:
        publish(folder, draft, text.encode())
        _first_wins(folder / draft, path)
    compare(read_object(path.read_bytes(), str(path)), json.loads(text), folder)
    return new


def _first_wins(draft: Path, path: Path) -> None:
    """Give a file its name unless another process was faster."""
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        draft.replace(path)
    draft.unlink(missing_ok=True)


def compare(old: dict[str, Any], new: dict[str, Any], place: Path) -> None:
    """Refuse another job in the same place; what moves last bits only is logged.

    Raises:
        JobMismatchError: the message has the differences.
    """
    differing = [k for k in [*new, *(k for k in old if k not in new)] if old.get(k) != new.get(k)]
    if MADE_WITH in differing:
        differing.remove(MADE_WITH)
        logging.getLogger(__name__).warning(
            "%s: begun with %s, now %s; rows may differ in their last bits.",
            place, json_line(old.get(MADE_WITH)), json_line(new.get(MADE_WITH)),
        )  # fmt: skip
    if differing:
        pairs = [pair for k in differing for pair in _flat(k, old.get(k), new.get(k))]
        raise DifferentJobError(place, pairs)


class DifferentJobError(JobMismatchError):
    """Signal that a folder holds a job with other options, by their names in `generate`.

    Args:
        place: the folder.
        pairs: name in the manifest, value there and value now of each difference.
        spelled: writes the name of an option as its user did.
    """

    def __init__(
        self, place: Path, pairs: Sequence[Pair], spelled: Callable[[str], str] = str
    ) -> None:
        names = {name for name, _, _ in pairs}
        if names & _IN_INPUT:
            pairs = [pair for pair in pairs if pair[0] != "input"]
        self.place, self.pairs = place, pairs
        changes = [
            _WORDS[name]
            if name in _WORDS
            else f"{spelled(_ARGUMENTS.get(name, name))}={before}, now {now}"
            for name, before, now in pairs
        ]
        super().__init__(
            f"{place} holds a job with {'; '.join(changes)}. Give the same options to go on, or "
            "choose another folder."
        )

    def spelled(self, spelled: Callable[[str], str]) -> DifferentJobError:
        """Return the error with the names of options written in another way."""
        return DifferentJobError(self.place, self.pairs, spelled)


def _flat(name: str, old: Any, new: Any) -> list[Pair]:
    """Return what differs of two values: of options with parts, and of a law, the parts."""
    if name == "law":
        old, new = _parts(old), _parts(new)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [(name, old, new)]
    before, now = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
    return [
        (f"{name}.{key}", before.get(key), now.get(key))
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]


def _parts(shown: Any) -> Any:
    """Return the fields of a law from its repr, as they are written there; else what is given."""
    try:
        call = ast.parse(shown, mode="eval").body
    except (SyntaxError, TypeError):  # a field that Python cannot read, such as a function
        return shown
    if not isinstance(call, ast.Call):
        return shown
    return {str(part.arg): ast.unparse(part.value) for part in call.keywords}
