"""Check whether a model behaves as a denoiser must, before it is used for sampling."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dlm_sampling.checkup.checks import CHECKS
from dlm_sampling.checkup.patient import Patient, Status
from dlm_sampling.denoisers import AutoDenoiser, CheckpointError, Denoiser

PASSAGE = (
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having "
    "nothing to do: once or twice she had peeped into the book her sister was reading, but it had "
    "no pictures or conversations in it, and what is the use of a book, thought Alice, without "
    "pictures or conversations? So she was considering in her own mind, as well as she could, for "
    "the hot day made her feel very sleepy and stupid, whether the pleasure of making a daisy "
    "chain would be worth the trouble of getting up and picking the daisies."
)
"""Lewis Carroll, Alice's Adventures in Wonderland, 1865."""


@dataclass(frozen=True)
class Check:
    """Hold the result of one named check.

    Fields:
        name: name of the check.
        status: "pass"; "fail" if samples would be wrong; "warn" if samples may suffer; "skip" if
            the check does not apply.
        detail: the observation.
        remedy: the action to take, empty on a pass.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """Hold the results of all checks of one model.

    Fields:
        model: name or path, or the class of the denoiser.
        family: the checkpoint family that loaded the model.
        checks: the results, in the order of the checks.
    """

    model: str
    family: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Return whether no check failed."""
        return all(check.status != "fail" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**asdict(self), "checks": [asdict(check) for check in self.checks], "ok": self.ok}

    def to_json(self) -> str:
        """Return the report as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)


@torch.no_grad()
def diagnose(
    denoiser_or_path: Denoiser | str | Path, *, text: str = PASSAGE, **options: Any
) -> DoctorReport:
    """Examine a denoiser: mask id, vocabulary, alignment, padding, batches, type, time.

    Args:
        denoiser_or_path: a denoiser, or a model for `AutoDenoiser.from_pretrained`.
        text: a passage that the model should predict well; the alignment check uses it.
        options: passed to `AutoDenoiser.from_pretrained`.

    Returns:
        The report; a model that cannot be loaded gives one failed check.  The checks take about ten
        forward passes over up to 96 tokens.
    """
    if isinstance(denoiser_or_path, Denoiser):
        denoiser, name = denoiser_or_path, type(denoiser_or_path).__name__
    else:
        name = str(denoiser_or_path)
        try:
            denoiser = AutoDenoiser.from_pretrained(denoiser_or_path, **options)
        except CheckpointError as error:
            return DoctorReport(name, "unknown", (Check("load", "fail", str(error), str(error)),))
    patient = Patient(denoiser, text)
    return DoctorReport(name, denoiser.family, tuple(examine(patient, check) for check in CHECKS))


def examine(patient: Patient, name: str) -> Check:
    """Run one check by name; an error of the model is a failed check."""
    try:
        return Check(name, *CHECKS[name](patient))
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        return Check(
            name, "fail", reason, "the forward pass must take such a canvas: fix the error"
        )
